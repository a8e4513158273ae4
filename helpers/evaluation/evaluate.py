"""Stage 05: base against tuned on rows and questions kept from training, paired, with intervals."""

from itertools import chain
from statistics import fmean
from typing import Any

from helpers import InputError
from helpers.evaluation.lm_eval_tasks import write_tasks
from helpers.evaluation.metrics import side_by_side, summarise
from helpers.files import read_json, read_jsonl, write_json, write_jsonl
from helpers.losses import token_nlls
from helpers.machine.processes import is_main_process
from helpers.models.loading import load_tokenizer, load_with_adapter
from helpers.prompts.encoding import build_prompt, encode_example, encode_thought, split_reasoning
from helpers.questions.multiple_choice import OPEN_TASK, choice_questions, question_commits
from helpers.run_dir.folder import Run, alone, note_in_record
from helpers.scoring.answers import (
    SIDES,
    Prediction,
    Question,
    adapter_switched,
    choice_row,
    encode_questions,
    force_answers,
    predictions_of,
    read_choice,
    replies_of,
)
from helpers.tracking.wandb_run import log_table, tracked


def unseen_rows(run: Run) -> list[dict[str, str]]:
    """The rows that are scored and answered, `evaluation.max_validation` of the validation rows or of the test rows.

    Raises InputError where 03 left none.
    """
    settings = run.config.evaluation
    rows = read_jsonl(run.require(f"data/{settings.rows}.jsonl", "03_dataset_prep"))
    if not rows:
        raise InputError(f"evaluation.rows = {settings.rows}: data/{settings.rows}.jsonl of {run.label} holds no row")
    return rows[: settings.max_validation]


def questions(run: Run) -> list[Question]:
    """Validation rows first, then the multiple-choice questions task by task.

    Keys: task, id, question, target; of a multiple-choice question also options.
    """
    settings = run.config.evaluation
    found = [
        {"task": OPEN_TASK, "id": f"{OPEN_TASK}-{i}", "question": row["Question"], "target": row["Response"]}
        for i, row in enumerate(unseen_rows(run))
    ]
    for task, choices in choice_questions(settings.questions, settings.max_questions).items():
        found += [choice_row(task, question, question.as_prompt()) for question in choices]
    return found


def predict(run: Run, model: Any, tokenizer: Any, asked: list[Question], side: str) -> list[Prediction]:
    """One side's predictions for the questions, see `predictions_of`.

    A validation row also has what `unseen_losses` gives, a multiple-choice question what `force_answers` gives.
    """
    prompts = encode_questions(run, tokenizer, asked)
    with adapter_switched(model, side):
        losses = unseen_losses(run, model, tokenizer, f"rows scored, {side} model")
        replies = replies_of(run, model, tokenizer, prompts, side, run / f"evaluation/.replies.{side}.jsonl")
        predictions = predictions_of(asked, replies, tokenizer)
        choices = [pair for pair in zip(predictions, prompts, strict=True) if "options" in pair[0]]
        force_answers(model, tokenizer, choices, side)
    for row, nlls in zip(predictions, losses, strict=False):  # the validation rows come first
        row |= nlls
    return predictions


def unseen_losses(run: Run, model: Any, tokenizer: Any, what: str) -> list[dict[str, float]]:
    """NLL of each validation row's completion in nats a token: all of it, the thought (with `</think>`), the answer.

    `nll_delimiter` is the part of `nll` that falls on `</think>` and the token after it: the base model's makers
    trained another separator. `nll_text` is the mean over all other tokens.
    """
    settings, rows = run.config.model, unseen_rows(run)
    encoded = [encode_example(tokenizer, row, settings.max_length, settings.prompt_style) for row in rows]
    tag = len(encode_thought(tokenizer, ""))
    losses = []
    for row, nlls in zip(rows, token_nlls(model, encoded, tokenizer.pad_token_id, what), strict=True):
        end = len(encode_thought(tokenizer, row["Complex_CoT"]))
        delimiter, text = nlls[end - tag : end + 1], nlls[: end - tag] + nlls[end + 1 :]
        losses.append(
            {
                "nll": fmean(nlls),
                "nll_thinking": fmean(nlls[:end]),
                "nll_answer": fmean(nlls[end:]),
                "nll_delimiter": sum(delimiter) / len(nlls),
                "nll_text": fmean(text),
            }
        )
    return losses


@alone
def evaluate(run: Run) -> dict[str, Any]:
    """Ask both sides, save evaluation/predictions.{base,tuned}.jsonl and metrics.json, return the metrics.

    Each reply is stored as it ends: an evaluation that was stopped continues with the next question, and after a change
    in scoring or metrics alone no question is asked again. Several processes share the questions out, and one writes.
    """
    adapter = run.require("adapter", "04_lora_training")
    tokenizer = load_tokenizer(run.config.model)
    model = load_with_adapter(run.config, adapter)
    asked = questions(run)
    (run / "evaluation").mkdir(exist_ok=True)
    with tracked(run, "evaluation") as tracker:
        base, tuned = (predict(run, model, tokenizer, asked, side) for side in SIDES)
        metrics = _save(run, base, tuned)
        if is_main_process():
            style = run.config.model.prompt_style
            texts = [{**each, "prompt": build_prompt(tokenizer, each["question"], style)} for each in asked]
            write_tasks(run / "evaluation/tasks", texts, run.config.generation)
            _note_commits(run)
        if tracker:
            tracker.summary.update({"validation": metrics["validation"], "tasks": metrics["tasks"]})
        log_table(tracker, "replies_before_after", side_by_side(base, tuned))
    return metrics


def _note_commits(run: Run) -> None:
    """Record the hub's commits of the questions; a printed line for each benchmark that has moved since."""
    if commits := question_commits(run.config.evaluation.questions):
        for name, commit in run.record.get("questions", {}).items():
            if commits.get(name, commit) != commit:
                print(f"{name} has moved on the hub, from {commit} to {commits[name]}: its questions may differ")
        note_in_record(run, questions=commits)


def _save(run: Run, base: list[Prediction], tuned: list[Prediction]) -> dict[str, Any]:
    """Write the predictions and the metrics of them, and return the metrics."""
    metrics = summarise(base, tuned, flagged(run))
    if is_main_process():
        for side, rows in zip(SIDES, (base, tuned), strict=True):
            write_jsonl(run / f"evaluation/predictions.{side}.jsonl", rows)
        write_json(run / "evaluation/metrics.json", metrics)
    return metrics


def flagged(run: Run) -> dict[str, list[str]]:
    """Ids of the questions that resemble training rows, by task; a task that 03 did not compare is missing."""
    path = run / "data/report.json"
    compared = read_json(path)["overlap"] if path.is_file() else {}
    return {task: found["flagged"] for task, found in compared.items() if "flagged" in found}  # older ones have none


def rescore(run: Run) -> dict[str, Any]:
    """Score the stored replies again, without a model; writes and returns what `evaluate` does.

    What needs a model or a tokenizer stays: losses, letters, numbers of tokens.
    """
    base, tuned = (read_jsonl(run.require(f"evaluation/predictions.{side}.jsonl", "05_evaluation")) for side in SIDES)
    for row in chain(base, tuned):
        row |= {"closed": split_reasoning(row["reply"]).closed} | (read_choice(row) if "options" in row else {})
    return _save(run, base, tuned)
