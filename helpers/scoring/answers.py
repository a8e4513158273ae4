"""Questions put to one side of a run, base or tuned: replies that are kept, the choices in them, forced answers."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from helpers.files import fingerprint
from helpers.generation.replies import Reply, generate
from helpers.losses import Forced, letter_probabilities
from helpers.machine.hardware import describe_machine
from helpers.prompts.encoding import encode_prompt, encode_thought, split_reasoning
from helpers.prompts.families import END_THINK, separator
from helpers.questions.multiple_choice import LEAD, ChoiceQuestion
from helpers.run_dir.folder import Run
from helpers.run_dir.modules import fingerprints
from helpers.scoring.choice import extract_choice

# The modules that a reply's tokens depend on.
DECODING = ("models.loading", "generation.replies", "generation.decoding", "generation.sampling")
SIDES = ("base", "tuned")
Question = dict[str, Any]
Prediction = dict[str, Any]


@contextmanager
def adapter_switched(model: Any, side: str) -> Iterator[None]:
    """In the block `model` answers as the base or as the tuned model; its weights are the same before and after.

    The tuned side's adapter is merged for the block, which saves two small matrix products a layer and token; but not
    into 4-bit or 16-bit weights, where rounding would make it another model than the one that was trained.
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


def choice_row(task: str, question: ChoiceQuestion, text: str) -> Question:
    """A multiple-choice question of a task, to be asked with this text."""
    known = {"task": task, "id": question.id, "question": text}
    return {**known, "target": question.answer_idx, "options": question.options}


def encode_questions(run: Run, tokenizer: Any, asked: list[Question]) -> list[list[int]]:
    """The token ids that the model reads, a list for each question."""
    return [encode_prompt(tokenizer, question["question"], run.config.model.prompt_style) for question in asked]


def replies_of(run: Run, model: Any, tokenizer: Any, prompts: list[list[int]], name: str, kept: Path) -> list[Reply]:
    """Replies of the model called `name`; each is stored in `kept` as it ends, and a stopped call continues."""
    what, identity = f"replies, {name} model", reply_identity(run, name)
    return generate(model, tokenizer, prompts, run.config.generation, run.config.seed, what, kept, identity)


def predictions_of(asked: list[Question], replies: list[Reply], tokenizer: Any) -> list[Prediction]:
    """One row for each question.

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
            row |= read_choice(row)
        else:
            row["reference"] = question["target"]
        predictions.append(row)
    return predictions


def read_choice(row: Prediction) -> Prediction:
    """`choice` and `correct` of a multiple-choice reply."""
    choice = extract_choice(row["reply"], row["options"])
    # A reply that was cut off counts as wrong, whatever it has stated so far: it might have changed its answer.
    return {"choice": choice, "correct": row["finished"] and choice == row["answer_idx"]}


def force_answers(model: Any, tokenizer: Any, choices: list[tuple[Prediction, list[int]]], side: str) -> None:
    """Add `letters` to each multiple-choice prediction, given with its prompt's ids: the options' probabilities.

    The thought, closed or not, is ended by `</think>` and the question's lead, and a letter must follow: a long thought
    no longer costs the answer. None where the vocabulary does not tell the letters apart.
    """
    # The separator that this side was trained with: the base model's makers put line breaks around the tag, we do not.
    before, after = (separator(tokenizer) if side == "base" else END_THINK).split(END_THINK)
    forced = []
    for row, prompt in choices:
        thought = encode_thought(tokenizer, split_reasoning(row["reply"]).thinking.rstrip() + before)
        forced.append(Forced([*prompt, *thought], after + LEAD, list(row["options"])))
    found = letter_probabilities(model, tokenizer, forced, f"forced answers, {side} model")
    for (row, _), letters in zip(choices, found, strict=True):
        row["letters"] = letters


def likeliest(letters: Mapping[str, float]) -> str:
    """The letter with the largest probability, the first one in a tie."""
    return max(letters, key=letters.get)


def made_to_answer(one: Sequence[Prediction], two: Sequence[Prediction]) -> list[list[bool]] | None:
    """Of two readings of the same questions: which of their forced answers are right, of those where both have one.

    None where no letters were measured.
    """
    pairs = [pair for pair in zip(one, two, strict=True) if all(row.get("letters") for row in pair)]
    right = [[likeliest(row["letters"]) == row["answer_idx"] for row in rows] for rows in zip(*pairs, strict=True)]
    return right or None


def reply_identity(run: Run, name: str) -> str:
    """What a model's replies depend on: settings, code, GPU and, but for the base model, the adapter."""
    adapter = [name, fingerprint(run / "adapter/adapter_model.safetensors")] if name != "base" else []
    return json.dumps([run.config.model.model_dump(), fingerprints(DECODING), describe_machine().gpu, adapter])
