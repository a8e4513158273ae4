"""Stage 05: base against tuned on rows and questions that training never saw, paired, with intervals."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

from helpers.evaluation.calibration import likeliest
from helpers.evaluation.lm_eval_tasks import write_tasks
from helpers.evaluation.metrics import SIDES, Prediction, side_by_side, summarise
from helpers.evaluation.scoring import extract_choice
from helpers.files import fingerprint, read_json, read_jsonl, write_json, write_jsonl
from helpers.generation import Reply, generate
from helpers.losses import letter_probabilities, token_nlls
from helpers.machine import describe_machine
from helpers.models.loading import load_tokenizer, load_with_adapter
from helpers.modules import fingerprints
from helpers.prompts.encoding import build_prompt, encode_example, encode_prompt, encode_thought, split_reasoning
from helpers.prompts.families import END_THINK, separator
from helpers.questions import LEAD, OPEN_TASK, choice_questions, question_commits
from helpers.run_dir import Run, note_in_record
from helpers.tracking import log_table, tracked

DECODING = ("models.loading", "generation", "decoding")  # the modules that decide which tokens come

Question = dict[str, Any]
BUDGETS = (0, 0.25, 0.5)  # shares of the limit on new tokens after which a model is made to answer, beside the whole


@contextmanager
def adapter_switched(model: Any, side: str) -> Iterator[None]:
    """In the block `model` answers as the base model, or as the tuned one: the same weights either way.

    For the tuned side the adapter is added into the weights for the time of the block, which spares two small
    matrix products a layer and token; not into 4-bit or 16-bit weights, where part of the change would be rounded away
    and another model measured than the one that was trained.
    """
    import torch

    if side == "base":
        with model.disable_adapter():
            yield
    elif getattr(model, "is_loaded_in_4bit", False) or model.dtype != torch.float32:
        yield
    else:
        model.merge_adapter()
        try:
            yield
        finally:
            model.unmerge_adapter()


def validation_rows(run: Run) -> list[dict[str, str]]:
    """The unseen rows that are scored and answered."""
    path = run.require("data/validation.jsonl", "03_dataset_prep")
    return read_jsonl(path)[: run.config.evaluation.max_validation]


def predict(run: Run, model: Any, tokenizer: Any, side: str) -> list[Prediction]:
    """One side's predictions: every validation row and every multiple-choice question, see `score`.

    A validation row also has what `unseen_losses` gives, a choice question what `made_to_answer` gives.
    """
    asked = questions(run, tokenizer, validation_rows(run))
    with adapter_switched(model, side):
        losses = unseen_losses(run, model, tokenizer, f"rows scored, {side} model")
        replies = _replies(run, model, tokenizer, [question["question"] for question in asked], side)
        predictions = score(asked, replies, tokenizer)
        made_to_answer(run, model, tokenizer, [row for row in predictions if "options" in row], side)
    for row, nlls in zip(predictions, losses, strict=False):  # the validation rows come first
        row |= nlls
    return predictions


def made_to_answer(run: Run, model: Any, tokenizer: Any, rows: list[Prediction], side: str) -> None:
    """Add to each choice question's row what the model would answer after its thought, and after parts of it.

    The thought, closed or not, is cut after a number of tokens, `</think>` and the question's lead are put after it,
    and the letters' probabilities read off: the model no longer loses by thinking long. `forced` maps each of these
    numbers to the likeliest letter; its last is the limit on new tokens, and so the whole thought, of which `letters`
    has the probabilities. Both are None where the vocabulary does not tell the letters apart.
    """
    limit = run.config.generation.max_new_tokens
    budgets = [int(limit * share) for share in BUDGETS]
    # The separator that this side was trained with: the base model's makers put line breaks around the tag, we do not.
    before, after = (separator(tokenizer) if side == "base" else END_THINK).split(END_THINK)
    tag, asked = encode_thought(tokenizer, ""), []
    for row in rows:
        prompt = encode_prompt(tokenizer, row["question"], run.config.model.prompt_style)
        thought = split_reasoning(row["reply"]).thinking.rstrip() + before
        tokens = encode_thought(tokenizer, thought)
        whole = tokens[: len(tokens) - len(tag)]
        asked += [([*prompt, *whole[:budget], *tag], after + LEAD, list(row["options"])) for budget in [*budgets, None]]
    found = letter_probabilities(model, tokenizer, asked, f"forced answers, {side} model")
    for i, row in enumerate(rows):
        each = found[i * (len(budgets) + 1) : (i + 1) * (len(budgets) + 1)]
        known = each[-1] is not None
        row["letters"] = each[-1]
        row["forced"] = (
            {str(budget): likeliest(letters) for budget, letters in zip([*budgets, limit], each, strict=True)}
            if known
            else None
        )


def predict_between(run: Run, model: Any, tokenizer: Any, share: float) -> list[Prediction]:
    """Predictions with a share of the adapter's strength: rows with `nll`, and each task's first few questions.

    Weights between the base's and the tuned ones can be better than both, or keep what tuning lost (Wortsman et al.,
    Robust Fine-Tuning of Zero-Shot Models, CVPR 2022); with LoRA that is its scaling, times the share.
    """
    from peft.helpers import rescale_adapter_scale

    most = run.config.evaluation.strength_questions
    taken: Counter[str] = Counter()
    asked = []
    for question in questions(run, tokenizer, validation_rows(run)):
        taken[question["task"]] += 1
        if "options" in question and taken[question["task"]] <= most:
            asked.append(question)
    with rescale_adapter_scale(model, share), adapter_switched(model, "tuned"):
        losses = unseen_losses(run, model, tokenizer, f"rows scored, strength-{share:g} model")
        texts = [question["question"] for question in asked]
        replies = _replies(run, model, tokenizer, texts, f"strength-{share:g}") if texts else []
    unseen = [{"task": OPEN_TASK, "id": f"{OPEN_TASK}-{i}", **nlls} for i, nlls in enumerate(losses)]
    return [*unseen, *score(asked, replies, tokenizer)]


def unseen_losses(run: Run, model: Any, tokenizer: Any, what: str) -> list[dict[str, float]]:
    """Of each validation row the NLL, nats a token, of all that the model should write, of the thought, of the rest.

    `nll_delimiter` is the part of `nll` that falls on `</think>` and the token after it, where the thought ends: the
    base model's makers trained another separator. `nll_text` is the NLL of all other tokens.
    """
    settings, rows = run.config.model, validation_rows(run)
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


def _prompts(run: Run, tokenizer: Any, texts: list[str]) -> list[list[int]]:
    return [encode_prompt(tokenizer, text, run.config.model.prompt_style) for text in texts]


def _replies(run: Run, model: Any, tokenizer: Any, texts: list[str], name: str) -> list[Reply]:
    """Replies to questions by the model as it is set up now, named for the reader; each is kept as it ends."""
    return generate(
        model,
        tokenizer,
        _prompts(run, tokenizer, texts),
        run.config.generation,
        run.config.seed,
        f"replies, {name} model",
        kept=_kept(run, name),
        identity=_identity(run, name),
    )


def questions(run: Run, tokenizer: Any, rows: list[dict[str, str]]) -> list[Question]:
    """What is asked, the rows first, then task by task, in the order in which it is asked."""
    settings, style = run.config.evaluation, run.config.model.prompt_style
    asked = [
        {"task": OPEN_TASK, "id": f"{OPEN_TASK}-{i}", "question": row["Question"], "target": row["Response"]}
        for i, row in enumerate(rows)
    ]
    for task, choices in choice_questions(settings.questions, settings.max_questions).items():
        asked += [
            {"task": task, "id": q.id, "question": q.as_prompt(), "target": q.answer_idx, "options": q.options}
            for q in choices
        ]
    return [{**question, "prompt": build_prompt(tokenizer, question["question"], style)} for question in asked]


def score(asked: list[Question], replies: list[Reply], tokenizer: Any) -> list[Prediction]:
    """A row a question.

    Keys: task, id, question, reply, closed, finished, tokens, thinking_tokens; of an open question also reference; of
    a multiple-choice question options, answer_idx, choice, correct.
    """
    predictions = []
    for question, reply in zip(asked, replies, strict=True):
        parts = split_reasoning(reply.text)
        row = {
            "task": question["task"],
            "id": question["id"],
            "question": question["question"],
            "reply": reply.text,
            "closed": parts.closed,
            "finished": reply.finished,
            "tokens": reply.tokens,
            "thinking_tokens": len(tokenizer(parts.thinking, add_special_tokens=False)["input_ids"]),
        }
        if "options" in question:
            row |= {"options": question["options"], "answer_idx": question["target"]}
            row |= _choice(row)
        else:
            row["reference"] = question["target"]
        predictions.append(row)
    return predictions


def evaluate(run: Run) -> dict[str, Any]:
    """Ask both sides, save evaluation/predictions.{base,tuned}.jsonl and metrics.json, and return the metrics.

    Replies are kept as they are made: an evaluation that was stopped goes on with the next question, and one of which
    only the scoring or the figures have changed asks nothing again.
    """
    adapter = run.require("adapter", "04_lora_training")
    tokenizer = load_tokenizer(run.config.model)
    model = load_with_adapter(run.config, adapter)
    write_tasks(run / "evaluation/tasks", questions(run, tokenizer, []), run.config.generation)
    with tracked(run, "evaluation") as tracker:
        predictions = {side: predict(run, model, tokenizer, side) for side in SIDES}
        between = {share: predict_between(run, model, tokenizer, share) for share in run.config.evaluation.strengths}
        metrics = summarise(predictions["base"], predictions["tuned"], run.config.seed, flagged(run), between)
        if commits := question_commits(run.config.evaluation.questions):
            note_in_record(run, questions=commits)
        for side in SIDES:
            write_jsonl(run / f"evaluation/predictions.{side}.jsonl", predictions[side])
        write_json(run / "evaluation/metrics.json", metrics)
        write_jsonl(
            run / "evaluation/predictions.strength.jsonl",
            [{"strength": share, **row} for share, rows in between.items() for row in rows],
        )
        if tracker:
            tracker.summary.update({"validation": metrics["validation"], "tasks": metrics["tasks"]})
        log_table(tracker, "replies_before_after", side_by_side(predictions["base"], predictions["tuned"]))
    return metrics


def flagged(run: Run) -> dict[str, list[str]]:
    """By task the questions that 03 found to resemble training rows; of a task that it did not compare, nothing."""
    path = run / "data/report.json"
    compared = read_json(path)["overlap"] if path.is_file() else {}
    return {task: found["flagged"] for task, found in compared.items() if "flagged" in found}  # older ones have none


def _kept(run: Run, name: str) -> Path:
    """Where a model's replies are kept, token by token."""
    return run / f"evaluation/.replies.{name}.jsonl"


def _identity(run: Run, name: str) -> str:
    """What makes a model's replies: settings, code, GPU and, but for the base model, the adapter and its strength."""
    adapter = [name, fingerprint(run / "adapter/adapter_model.safetensors")] if name != "base" else []
    return json.dumps([run.config.model.model_dump(), fingerprints(DECODING), describe_machine().gpu, adapter])


def _choice(row: Prediction) -> Prediction:
    """How a multiple-choice reply reads: `choice`, `correct`."""
    choice = extract_choice(row["reply"], row["options"])
    # Without its end a reply may not have had its last word: it counts as wrong, whatever it has said so far.
    return {"choice": choice, "correct": row["finished"] and choice == row["answer_idx"]}


def rescore(run: Run) -> dict[str, Any]:
    """Read the replies that the folder holds by today's rules, without a model; writes and returns as `evaluate` does.

    What a model or its tokenizer has measured stays: losses, letters, tokens.
    """
    paths = [run.require(f"evaluation/predictions.{side}.jsonl", "05_evaluation") for side in SIDES]
    paths += (run / "evaluation").glob("predictions.strength.jsonl")  # older folders have none
    base, tuned, *rest = files = [read_jsonl(path) for path in paths]
    for row in filter(lambda row: "reply" in row, chain(*files)):
        row |= {"closed": split_reasoning(row["reply"]).closed} | (_choice(row) if "options" in row else {})
    between: dict[float, list[Prediction]] = {}
    for row in chain(*rest):
        between.setdefault(row["strength"], []).append(row)
    metrics = summarise(base, tuned, run.config.seed, flagged(run), between)
    for path, rows in zip(paths, files, strict=True):
        write_jsonl(path, rows)
    write_json(run / "evaluation/metrics.json", metrics)
    return metrics
