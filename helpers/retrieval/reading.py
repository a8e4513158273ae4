"""Does reading help? The same questions closed book and with passages, base and tuned, paired."""

from collections.abc import Iterable, Sequence
from itertools import chain, product
from statistics import fmean
from typing import Any

from helpers.files import read_jsonl, write_json, write_jsonl
from helpers.knowledge.documents import Passage
from helpers.knowledge.library import CONTEXTS, Library, holds, open_library
from helpers.models.loading import load_tokenizer, load_with_adapter
from helpers.prompts.encoding import split_reasoning
from helpers.prompts.passages import fit_passages, with_passages
from helpers.questions.multiple_choice import ChoiceQuestion, choice_questions
from helpers.retrieval.finding import find, queries
from helpers.run_dir.folder import Run, alone
from helpers.scoring.answers import (
    SIDES,
    Prediction,
    Question,
    adapter_switched,
    choice_row,
    encode_questions,
    force_answers,
    made_to_answer,
    predictions_of,
    read_choice,
    replies_of,
)
from helpers.scoring.statistics import adjust_holm, chance, compare_paired

CLOSED = "closed"
Tasks = dict[str, list[ChoiceQuestion]]


def asked_questions(run: Run) -> Tasks:
    """The multiple-choice questions of each task, those of 05: all are searched for, the first are asked open book."""
    return choice_questions(run.config.evaluation.questions, run.config.evaluation.max_questions)


@alone
def read_and_answer(run: Run) -> dict[str, Any]:
    """Ask both sides closed and open book; write retrieval/predictions.{base,tuned}.jsonl and metrics.json; return it.

    Asked are the first `retrieval.max_questions` of each task. A closed-book reply that 05 stored for the same text is
    taken from there. Replies are stored as they end, so that a stopped call goes on. Whatever is asked twice, as when
    the search finds the right passage, is answered once.
    """
    adapter = run.require("adapter", "04_lora_training")
    run.require("evaluation/predictions.tuned.jsonl", "05_evaluation")
    tasks = asked_questions(run)
    library = open_library(run, chain.from_iterable(tasks.values()))
    tokenizer = load_tokenizer(run.config.model)
    model = load_with_adapter(run.config, adapter)
    few = {task: asked[: run.config.retrieval.max_questions] for task, asked in tasks.items()}
    replies = {side: _one_side(run, model, tokenizer, library, few, side) for side in SIDES}
    for side, rows in replies.items():
        write_jsonl(run / f"retrieval/predictions.{side}.jsonl", rows)
    metrics = summarise(library, tasks, replies)
    write_json(run / "retrieval/metrics.json", metrics)
    return metrics


def summarise(library: Library, tasks: Tasks, replies: dict[str, list[Prediction]]) -> dict[str, Any]:
    """retrieval/metrics.json: the index, what the search finds, and what reading does, by task.

    Searched for are all questions, or those with a thought where thoughts are queries: the same for each query.
    """
    finding = {}
    for task, asked in tasks.items():
        thoughts = {
            side: {row["id"]: row["thought"] for row in rows if row["task"] == task and "thought" in row}
            for side, rows in replies.items()
        }
        known = {side: found for side, found in thoughts.items() if found}  # none where no thought was asked for
        asked = [question for question in asked if all(question.id in found for found in known.values())]
        finding[task] = find(library, asked, queries(library, known))
    index = {"documents": library.index.documents, "passages": len(library.index)}
    return {"index": index, "finding": finding, "reading": compare_reading(replies)}


def found_for(
    library: Library, question: ChoiceQuestion, condition: str, k: int, thought: str = ""
) -> Sequence[Passage]:
    """The k passages of a condition, best first; the options are in no query.

    The oracle gives the passages of the document that answers, the likeliest by the question first; where the question
    brings its context along (PubMedQA's abstract), that. None where nobody knows which document answers.
    """
    if condition == "open":
        return library.index.search(library.widened(question.question), k)
    if condition == "thought":
        return library.index.search(f"{library.widened(question.question)} {thought}", k)
    if question.context:
        return [Passage(question.context, "Abstract", f"{CONTEXTS}#{question.answered_by}", "")]
    near = library.index.search(question.question, 200) if question.answered_by else []
    return [passage for passage in near if holds(passage, question.answered_by)][:k]


def _one_side(run: Run, model: Any, tokenizer: Any, library: Library, tasks: Tasks, side: str) -> list[Prediction]:
    """One side's predictions, with `condition`, `sources` (of the passages in the prompt) and `found` (is the right
    document among them; None where the library has none that the question names). Closed book, 05's count where it
    asked the same text."""
    settings, style = run.config.retrieval, run.config.model.prompt_style
    questions = [(task, question) for task, asked in tasks.items() for question in asked]
    there = library.names
    bare = [choice_row(task, question, question.as_prompt(context=False)) for task, question in questions]
    stored = [row for row in read_jsonl(run / f"evaluation/predictions.{side}.jsonl") if "letters" in row]
    with adapter_switched(model, side):
        closed = _answered(run, model, tokenizer, bare, stored, side, CLOSED)
        asked = [question.question for _, question in questions] if "thought" in settings.conditions else []
        thoughts = _thoughts(run, model, tokenizer, asked, side)
        plans = []
        for (task, question), condition in product(questions, settings.conditions):
            text, thought = question.as_prompt(context=False), thoughts.get(question.question, "")
            passages = found_for(library, question, condition, settings.k, thought)
            kept = fit_passages(tokenizer, text, passages, run.config.model.max_length, style)
            right = any(holds(each, question.answered_by) for each in kept) if question.answered_by in there else None
            about = {"condition": condition, "sources": [each.source for each in kept], "found": right}
            about |= {"thought": thought} if condition == "thought" else {}
            plans.append((choice_row(task, question, with_passages(text, kept)), about))
        known = _answered(run, model, tokenizer, [each for each, _ in plans], closed.values(), side, "open")
    plans = [(each, {"condition": CLOSED, "sources": [], "found": None}) for each in bare] + plans
    return [{**_reply_to(each, known[each["question"]]), **about} for each, about in plans]


def _thoughts(run: Run, model: Any, tokenizer: Any, asked: list[str], side: str) -> dict[str, str]:
    """What this side thinks of each question, by its text, when it is asked without its options.

    A thought on the options would carry their words into the query. Where it was never closed, all of it counts.
    """
    texts = list(dict.fromkeys(asked))
    prompts = encode_questions(run, tokenizer, [{"question": text} for text in texts])
    kept = run / f"retrieval/.replies.{side}-thoughts.jsonl"
    replies = replies_of(run, model, tokenizer, prompts, side, kept) if texts else []
    return {text: split_reasoning(reply.text).thinking for text, reply in zip(texts, replies, strict=True)}


def _reply_to(question: Question, row: Prediction) -> Prediction:
    """A prediction as this question's own: a reply belongs to its text, which two questions may share."""
    own = {"task": question["task"], "id": question["id"], "options": question["options"]}
    row = {**row, **own, "answer_idx": question["target"]}
    return {**row, **read_choice(row)}


def _answered(
    run: Run, model: Any, tokenizer: Any, wanted: list[Question], known: Iterable[Prediction], side: str, what: str
) -> dict[str, Prediction]:
    """A prediction for each text: those that are `known`, and those of `wanted` whose text is not, each asked once."""
    found = {row["question"]: row for row in known}
    asked = list({each["question"]: each for each in wanted if each["question"] not in found}.values())
    if asked:
        prompts = encode_questions(run, tokenizer, asked)
        kept = run / f"retrieval/.replies.{side}-{what}.jsonl"
        predictions = predictions_of(asked, replies_of(run, model, tokenizer, prompts, side, kept), tokenizer)
        force_answers(model, tokenizer, list(zip(predictions, prompts, strict=True)), side)
        found |= {row["question"]: row for row in predictions}
    return found


def compare_reading(replies: dict[str, list[Prediction]]) -> dict[str, Any]:
    """By task, side and condition: accuracy, and against closed book what reading mended and misled, both readings.

    `mended` questions are right with the passages alone, `misled` ones without them alone. p values are McNemar's,
    adjusted (Holm) for all comparisons of one reading together.
    """
    found: dict[str, Any] = {}
    tests: dict[str, dict[tuple[str, ...], dict[str, Any]]] = {"replied": {}, "made_to_answer": {}}
    for side, rows in replies.items():
        closed = {(row["task"], row["id"]): row for row in rows if row["condition"] == CLOSED}
        for task, condition in dict.fromkeys((row["task"], row["condition"]) for row in rows):
            here = [row for row in rows if (row["task"], row["condition"]) == (task, condition)]
            if known := [row for row in here if condition != "oracle" or row["sources"]]:
                figures = _condition([closed[task, row["id"]] for row in known], known)
                found.setdefault(task, {}).setdefault(side, {})[condition] = figures
                for reading, each in tests.items():
                    if condition != CLOSED and figures[reading]:
                        each[task, side, condition] = figures[reading]
    for each in tests.values():
        adjusted = adjust_holm({key: figures["mcnemar_p"] for key, figures in each.items()})
        for key, figures in each.items():
            figures["mcnemar_p_holm"] = adjusted[key]
    return found


def _condition(closed: list[Prediction], rows: list[Prediction]) -> dict[str, Any]:
    forced = made_to_answer(closed, rows)
    known = [row["found"] for row in rows if row["found"] is not None]
    return {
        "n": len(rows),
        "chance": chance(len(row["options"]) for row in rows),
        "truncated": fmean(not row["finished"] for row in rows),
        "abstained": fmean(row["choice"] is None and row["finished"] for row in rows),
        "passages": fmean(len(row["sources"]) for row in rows),
        "found": fmean(known) if known else None,
        "replied": _against([row["correct"] for row in closed], [row["correct"] for row in rows]),
        "made_to_answer": _against(*forced) if forced else None,
    }


def _against(closed: Sequence[bool], here: Sequence[bool]) -> dict[str, Any]:
    pair = compare_paired(closed, here)
    return {
        "n": pair["n"],
        "closed": pair["base_accuracy"],
        "accuracy": pair["tuned_accuracy"],
        "ci95": pair["tuned_ci95"],
        "mended": pair["tuned_only"],
        "misled": pair["base_only"],
        **{key: pair[key] for key in ("delta", "delta_ci95", "mcnemar_p", "detectable")},
    }
