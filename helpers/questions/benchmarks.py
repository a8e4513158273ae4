"""Public benchmarks on the hub: a row each.

A module of its own, in modules.LEFT_OUT: of the rows here, a stage depends on those that its run asks, as on files
(series/stages.py), so a new row reruns nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

Row = dict[str, Any]
LETTERS = dict(enumerate(ascii_uppercase))  # counted from 0; a hidden answer is -1, and so has none
MMLU_MEDICAL = (
    "anatomy",
    "clinical_knowledge",
    "college_biology",
    "college_medicine",
    "medical_genetics",
    "professional_medicine",
)


@dataclass(frozen=True)
class Benchmark:
    """A split on the hub; `licence` is what its page states: the hub's identifier, and the licence in words.

    `question` converts a row to a ChoiceQuestion's fields, with None for a hidden answer, or returns None to leave the
    row out: one of another subject, say. The default `id` is the row's number.
    """

    dataset: str
    config: str | None
    split: str
    question: Callable[[Row], Row | None]
    licence: tuple[str, str]


def _medqa(row: Row) -> Row:
    return {"question": row["question"], "options": row["options"], "answer_idx": row["answer_idx"]}


def _medmcqa(row: Row) -> Row:
    options = [row["opa"], row["opb"], row["opc"], row["opd"]]
    return {"id": row["id"], "question": row["question"], "options": options, "answer_idx": LETTERS.get(row["cop"])}


def _pubmedqa(row: Row) -> Row:
    return {
        "id": str(row["pubid"]),
        "question": row["question"],
        "options": ["yes", "no", "maybe"],
        "answer_idx": row["final_decision"],
        "context": "\n".join(row["context"]["contexts"]),
        "relevant": str(row["pubid"]),
    }


def _mmlu(row: Row) -> Row:
    return {"question": row["question"], "options": row["choices"], "answer_idx": LETTERS.get(row["answer"])}


# MedMCQA hides its test labels (`cop` is -1 there), so its validation split is asked, as everybody does. PubMedQA has
# one split of 1,000 labelled rows; which 500 are its official test is a list of ids that the hub does not carry. All
# 1,000 are asked, so an accuracy on them is for base against tuned, not for a table of published test figures.
BENCHMARKS = {
    "medqa": Benchmark("GBaker/MedQA-USMLE-4-options", None, "test", _medqa, ("cc-by-4.0", "CC BY 4.0")),
    "medmcqa": Benchmark("openlifescienceai/medmcqa", None, "validation", _medmcqa, ("apache-2.0", "Apache-2.0")),
    "pubmedqa": Benchmark("qiaojin/PubMedQA", "pqa_labeled", "train", _pubmedqa, ("mit", "MIT")),
    **{f"mmlu_{subject}": Benchmark("cais/mmlu", subject, "test", _mmlu, ("mit", "MIT")) for subject in MMLU_MEDICAL},
}
GROUPS = {"mmlu_medical": [f"mmlu_{subject}" for subject in MMLU_MEDICAL]}


def one_by_one(names: list[str]) -> list[str]:
    """The names with each group replaced by its benchmarks."""
    return [name for group in names for name in GROUPS.get(group, [group])]
