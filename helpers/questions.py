"""Questions that training must never see: the baseline's open ones and the evaluation's multiple-choice ones."""

import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from helpers import InputError
from helpers.run_dir import project_path, read_jsonl
from helpers.tables import read_table


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
    """Task name to its questions, at most `limit` a task. A source is `sample` or a .jsonl file, named by its stem.

    Raises InputError with the file and line of the first row that is not a question.
    """
    tasks: dict[str, list[ChoiceQuestion]] = {}
    for source in sources:
        name = source if source == "sample" else Path(source).stem
        if name in tasks:
            raise InputError(f"two evaluation files are named {name!r}: rename one")
        packaged = source == "sample"
        rows = enumerate(_packaged("sample_questions.jsonl"), 1) if packaged else read_table(project_path(source))
        tasks[name] = [_question(row, f"{source} line {line}") for line, row in rows][:limit]
        if not tasks[name]:
            raise InputError(f"{source} holds no questions")
    return tasks


def _question(row: Any, where: str) -> ChoiceQuestion:
    try:
        return ChoiceQuestion.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{where}: {'.'.join(map(str, first['loc'])) or 'row'}: {first['msg']}") from None


def _packaged(name: str) -> list[dict[str, Any]]:
    return read_jsonl(Path(__file__).parent / "data" / name)
