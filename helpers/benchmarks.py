"""Public benchmarks by name: where each lies on the hub, and how its rows become multiple-choice questions."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from helpers import InputError
from helpers.hub import hub_table

Row = dict[str, Any]
LETTERS = dict(enumerate("ABCDEFGHIJ"))
MMLU = (
    "anatomy",
    "clinical_knowledge",
    "college_biology",
    "college_medicine",
    "medical_genetics",
    "professional_medicine",
)


@dataclass(frozen=True)
class Benchmark:
    """A split on the hub. `question` makes a ChoiceQuestion's fields of a row; `id` is the row's number if not there.

    An answer that is none of the options becomes None, which a ChoiceQuestion refuses: never a guess, never the last.
    """

    dataset: str
    config: str | None
    split: str
    question: Callable[[Row], Row]


def _medqa(row: Row) -> Row:
    return {"question": row["question"], "options": row["options"], "answer_idx": row["answer_idx"]}


def _medmcqa(row: Row) -> Row:
    options = {letter: row[f"op{letter.lower()}"] for letter in "ABCD"}
    return {"id": row["id"], "question": row["question"], "options": options, "answer_idx": LETTERS.get(row["cop"])}


def _pubmedqa(row: Row) -> Row:
    verdicts = {"A": "yes", "B": "no", "C": "maybe"}
    letters = {verdict: letter for letter, verdict in verdicts.items()}
    return {
        "id": str(row["pubid"]),
        "question": row["question"],
        "options": verdicts,
        "answer_idx": letters.get(row["final_decision"]),
        "context": "\n".join(row["context"]["contexts"]),
    }


def _mmlu(row: Row) -> Row:
    options = {LETTERS[i]: choice for i, choice in enumerate(row["choices"])}
    return {"question": row["question"], "options": options, "answer_idx": LETTERS.get(row["answer"])}


# MedMCQA hides its test labels (`cop` is -1 there), so its validation split is asked, as everybody does. PubMedQA has
# one split of 1,000 labelled rows; which 500 are its official test is a list of ids that the hub does not carry. All
# 1,000 are asked, so an accuracy on them is for base against tuned, not for a table of published test figures.
BENCHMARKS = {
    "medqa": Benchmark("GBaker/MedQA-USMLE-4-options", None, "test", _medqa),
    "medmcqa": Benchmark("openlifescienceai/medmcqa", None, "validation", _medmcqa),
    "pubmedqa": Benchmark("qiaojin/PubMedQA", "pqa_labeled", "train", _pubmedqa),
    **{f"mmlu_{subject}": Benchmark("cais/mmlu", subject, "test", _mmlu) for subject in MMLU},
}
GROUPS = {"mmlu_medical": [f"mmlu_{subject}" for subject in MMLU]}


@cache
def benchmark_rows(name: str) -> tuple[list[Row], str]:
    """The questions of a benchmark as dicts, and the commit that they were read at.

    Read once a process: base and tuned are asked one set, whatever is pushed to the hub meanwhile. Raises InputError
    where it cannot be had.
    """
    source = BENCHMARKS[name]
    instead = "a .jsonl file of questions will do"
    table, commit, _ = hub_table(source.dataset, source.config, source.split, None, instead)
    try:
        return [{"id": f"{name}-{number}", **source.question(row)} for number, row in table], commit
    except KeyError as error:
        raise InputError(f"{source.dataset} at {commit} has no {error}: its columns have changed") from None
