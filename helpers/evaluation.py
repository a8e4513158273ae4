"""Stage 05: base against tuned on rows and questions that training never saw, paired, with intervals."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

from helpers import InputError
from helpers.generation import Reply, completion_nll, generate
from helpers.harness import Question, ask, read_samples
from helpers.intervals import (
    bootstrap_interval,
    chance,
    compare_paired,
    majority_baseline,
    verdict,
    wilson_interval,
)
from helpers.models import load_tokenizer, load_with_adapter
from helpers.prompts import as_markdown, build_prompt, encode_example, encode_prompt, split_reasoning
from helpers.questions import OPEN_TASK, choice_questions, question_commits
from helpers.run_dir import Run, fingerprint, note_in_record, read_jsonl, write_json, write_jsonl
from helpers.scoring import extract_choice
from helpers.setup import describe_machine
from helpers.tracking import log_table, tracked

__all__ = ["compare_paired", "evaluate", "extract_choice", "majority_baseline", "verdict", "wilson_interval"]

SIDES = ("base", "tuned")
Prediction = dict[str, Any]


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

    The harness asks all of them, so they are decoded together; `nll` of the validation rows is measured beside it.
    """
    config = run.config
    rows = validation_rows(run)
    encoded = [encode_example(tokenizer, row, config.model.max_length, config.model.prompt_style) for row in rows]

    def answer(questions: list[str]) -> list[Reply]:
        prompts = [encode_prompt(tokenizer, question, config.model.prompt_style) for question in questions]
        return generate(
            model,
            tokenizer,
            prompts,
            config.generation,
            config.seed,
            f"replies, {side} model",
            kept=_kept(run, side),
            identity=_identity(run, side),
        )

    asked = questions(run, tokenizer, rows)
    with adapter_switched(model, side):
        losses = completion_nll(model, encoded, tokenizer.pad_token_id, f"rows scored, {side} model")
        replies = ask(run / "evaluation/tasks", asked, config.generation, answer)
    predictions = score(asked, replies, tokenizer)
    for row, nll in zip(predictions[: len(rows)], losses, strict=True):
        row["nll"] = nll
    return predictions


def questions(run: Run, tokenizer: Any, rows: list[dict[str, str]]) -> list[Question]:
    """What is asked, the rows first, then task by task, as `harness.ask` takes it."""
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
    """A row a question, also of what `harness.read_samples` has read.

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
            row["choice"] = extract_choice(reply.text, question["options"])
            # Without its end a reply may not have had its last word: it counts as wrong, whatever it has said so far.
            row["correct"] = reply.finished and row["choice"] == row["answer_idx"]
        else:
            row["reference"] = question["target"]
        predictions.append(row)
    return predictions


def evaluate(run: Run) -> dict[str, Any]:
    """Ask both sides, save evaluation/predictions.{base,tuned}.jsonl and metrics.json, and return the metrics.

    Replies are kept as they are made: an evaluation that was stopped goes on with the next question.
    """
    adapter = run.require("adapter", "04_lora_training")
    tokenizer = load_tokenizer(run.config.model)
    model = load_with_adapter(run.config, adapter)
    with tracked(run, "evaluation") as tracker:
        predictions = {side: predict(run, model, tokenizer, side) for side in SIDES}
        metrics = summarise(predictions["base"], predictions["tuned"], run.config.seed)
        if commits := question_commits(run.config.evaluation.questions):
            note_in_record(run, questions=commits)
        for side in SIDES:
            write_jsonl(run / f"evaluation/predictions.{side}.jsonl", predictions[side])
        write_json(run / "evaluation/metrics.json", metrics)
        for side in SIDES:
            _kept(run, side).unlink(missing_ok=True)
        if tracker:
            tracker.summary.update({"validation": metrics["validation"], "tasks": metrics["tasks"]})
        log_table(tracker, "replies_before_after", side_by_side(predictions["base"], predictions["tuned"]))
    return metrics


def _kept(run: Run, side: str) -> Path:
    """Where one side's replies are kept until both are there."""
    return run / f"evaluation/.replies.{side}.jsonl"


def _identity(run: Run, side: str) -> str:
    """What makes one side's model the one that it is: settings and, of the tuned side, the adapter's weights."""
    adapter = fingerprint(run / "adapter/adapter_model.safetensors") if side == "tuned" else ""
    return json.dumps([run.config.model.model_dump(), describe_machine().gpu, adapter])


def summarise(base: list[Prediction], tuned: list[Prediction], seed: int) -> dict[str, Any]:
    """evaluation/metrics.json from the two sides' predictions, which are in the same order."""
    tasks = list(dict.fromkeys(row["task"] for row in base if row["task"] != "validation"))
    return {
        "validation": _validation(_of(base, "validation"), _of(tuned, "validation"), seed),
        "tasks": {task: _task(_of(base, task), _of(tuned, task), seed) for task in tasks},
    }


def compare_logs(base: Path, tuned: Path, tokenizer: Any, seed: int) -> dict[str, Any]:
    """One task's figures, as in metrics.json, from two logs that the harness has written, by whatever backend.

    Raises InputError where they are not of the same multiple-choice questions.
    """
    sides = [score(*read_samples(path, tokenizer), tokenizer) for path in (base, tuned)]
    one, two = ([(row["id"], row["question"], row.get("answer_idx")) for row in side] for side in sides)
    if one != two or any("options" not in row for row in sides[0]):
        raise InputError(f"{base.name} and {tuned.name} are not of the same multiple-choice questions")
    return _task(*sides, seed)


def side_by_side(base: list[Prediction], tuned: list[Prediction]) -> list[Prediction]:
    """Pairs of replies to the same question, those that got worse first, then those that got better.

    What is judged is the reply: of a choice question whether it is right, of an open one whether it comes to an
    answer at all. A row's NLL says what text a model expects, not what it writes.
    """
    pairs = []
    for one, two in zip(base, tuned, strict=True):
        judged = "closed" if one["task"] == "validation" else "correct"
        change = two[judged] - one[judged]
        pairs.append(
            {
                "task": one["task"],
                "id": one["id"],
                "outcome": "worse" if change < 0 else "better" if change > 0 else "same",
                "question": one["question"],
                "base": one["reply"],
                "tuned": two["reply"],
            }
        )
    return sorted(pairs, key=lambda pair: ["worse", "better", "same"].index(pair["outcome"]))


def example(pairs: list[Prediction], outcome: str) -> str:
    """The first pair with this outcome ("worse", "better" or "same") as markdown, both replies taken apart."""
    pair = next((pair for pair in pairs if pair["outcome"] == outcome), None)
    if pair is None:
        return f"*No reply got {outcome}.*"
    sides = (f"### {side.capitalize()} model\n\n{as_markdown(pair['question'], pair[side])}" for side in SIDES)
    return "\n\n".join(sides)


def _of(rows: list[Prediction], task: str) -> list[Prediction]:
    return [row for row in rows if row["task"] == task]


def _validation(base: list[Prediction], tuned: list[Prediction], seed: int) -> dict[str, Any]:
    differences = [two["nll"] - one["nll"] for one, two in zip(base, tuned, strict=True)]
    interval = bootstrap_interval(differences, seed)
    delta = fmean(differences)
    return {
        "n": len(base),
        **{
            side: {
                "nll": fmean(row["nll"] for row in rows),
                **{key: fmean(row[key] for row in rows) for key in ("closed", "finished", "thinking_tokens")},
            }
            for side, rows in zip(SIDES, (base, tuned), strict=True)
        },
        "paired": {"nll_delta": delta, "nll_delta_ci95": list(interval)},
        "verdict": verdict(delta, interval, lower_is_better=True, noun="completion NLL", points=False),
    }


def _task(base: list[Prediction], tuned: list[Prediction], seed: int) -> dict[str, Any]:
    pairs = compare_paired([row["correct"] for row in base], [row["correct"] for row in tuned], seed)
    return {
        "n": pairs["n"],
        "majority_baseline": majority_baseline([row["answer_idx"] for row in base]),
        "chance": chance([len(row["options"]) for row in base]),
        **{
            side: {
                "accuracy": pairs[f"{side}_accuracy"],
                "ci95": list(pairs[f"{side}_ci95"]),
                "abstained": fmean(row["choice"] is None and row["finished"] for row in rows),
                "truncated": fmean(not row["finished"] for row in rows),
            }
            for side, rows in zip(SIDES, (base, tuned), strict=True)
        },
        "paired": {
            "delta": pairs["delta"],
            "delta_ci95": list(pairs["delta_ci95"]),
            "base_only": pairs["base_only"],
            "tuned_only": pairs["tuned_only"],
            "mcnemar_p": pairs["mcnemar_p"],
            "detectable": pairs["detectable"],
        },
        "verdict": verdict(
            pairs["delta"], pairs["delta_ci95"], detectable=pairs["detectable"], p_value=pairs["mcnemar_p"]
        ),
    }
