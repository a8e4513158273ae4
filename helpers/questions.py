"""Questions that training must never see: the baseline's open ones and the evaluation's multiple-choice ones."""

import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from helpers import InputError
from helpers.benchmarks import BENCHMARKS, GROUPS, benchmark_rows
from helpers.config import nearest
from helpers.run_dir import project_path, read_jsonl
from helpers.tables import Numbered, read_table

OPEN_TASK = "validation"  # the task of the unseen rows, which have no options


class ChoiceQuestion(BaseModel):
    """A multiple-choice question: `options` maps a letter to its text, `answer_idx` is the right letter."""

    model_config = ConfigDict(frozen=True)

    id: str
    question: str = Field(min_length=1)
    options: dict[str, str] = Field(min_length=2)
    answer_idx: str
    context: str | None = None

    @model_validator(mode="after")
    def _options_are_lettered(self) -> "ChoiceQuestion":
        letters = {key.upper() for key in self.options if re.fullmatch("[A-Za-z]", key)}
        if len(letters) < len(self.options):
            raise ValueError(f"options need distinct letters from A to Z, not {', '.join(map(repr, self.options))}")
        if self.answer_idx not in self.options:
            raise ValueError(f"answer_idx {self.answer_idx!r} is not among the options {', '.join(self.options)}")
        return self

    def as_prompt(self) -> str:
        """The text that is put to the model: context where there is one, question, options, how to answer."""
        options = "\n".join(f"{letter}. {text}" for letter, text in self.options.items())
        parts = [self.context, self.question, options, 'End with "The answer is X", X being one letter.']
        return "\n\n".join(part for part in parts if part)


def baseline_questions() -> list[str]:
    """The fixed open questions of 02, which 03 keeps out of the training rows."""
    return [row["question"] for row in _packaged("baseline_questions.jsonl")]


def choice_questions(sources: list[str], limit: int | None = None) -> dict[str, list[ChoiceQuestion]]:
    """Task name to its questions, the first `limit` of each. A source is `sample`, a benchmark on the hub by its name
    (`mmlu_medical` stands for six), or a file, whose stem names the task.

    Raises InputError with the file and line of the first row that is not a question.
    """
    tasks: dict[str, list[ChoiceQuestion]] = {}
    for source in _one_by_one(sources):
        name = source if source in ("sample", *BENCHMARKS) else Path(source).stem
        if name in (*tasks, OPEN_TASK):
            raise InputError(f"two evaluation tasks are named {name!r}: rename one")
        tasks[name] = [_question(row, f"{source} line {line}") for line, row in _rows(source)][:limit]
        if not tasks[name]:
            raise InputError(f"{source} holds no questions")
    return tasks


def question_commits(sources: list[str]) -> dict[str, str]:
    """The hub's commit of each benchmark among the sources."""
    return {name: benchmark_rows(name)[1] for name in _one_by_one(sources) if name in BENCHMARKS}


def _one_by_one(sources: list[str]) -> list[str]:
    return [name for source in sources for name in GROUPS.get(source, [source])]


def _rows(source: str) -> Numbered:
    if source == "sample":
        return list(enumerate(_packaged("sample_questions.jsonl"), 1))
    if source in BENCHMARKS:
        return list(enumerate(benchmark_rows(source)[0], 1))
    path = project_path(source)
    if not path.suffix and not path.is_file():
        known = ["sample", *BENCHMARKS, *GROUPS]
        raise InputError(f"evaluation.questions: {source!r} is no benchmark and no file{nearest(source, known)}")
    return read_table(path)


def _question(row: Any, where: str) -> ChoiceQuestion:
    try:
        return ChoiceQuestion.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{where}: {'.'.join(map(str, first['loc'])) or 'row'}: {first['msg']}") from None


def _packaged(name: str) -> list[dict[str, Any]]:
    return read_jsonl(Path(__file__).parent / "data" / name)
