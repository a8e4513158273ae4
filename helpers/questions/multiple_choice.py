"""The questions: multiple choice from the package, the hub's benchmarks or a user's file, and 02's open ones."""

import re
from collections import Counter
from functools import cache
from pathlib import Path
from string import ascii_uppercase
from typing import Annotated, Any

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator

from helpers import PROJECT_ROOT, InputError, printable
from helpers.config import nearest
from helpers.files import project_path, read_jsonl
from helpers.questions.benchmarks import BENCHMARKS, GROUPS, one_by_one
from helpers.sources.hub import hub_table
from helpers.sources.tables import Numbered, read_table


@cache
def benchmark_rows(name: str) -> tuple[list[tuple[int, dict[str, Any]]], str]:
    """(row on the hub, question as a dict) of a benchmark, and the commit that they were read at.

    Read once a process: base and tuned get the same questions, whatever is pushed to the hub meanwhile.
    """
    source = BENCHMARKS[name]
    instead = "a .jsonl file of questions will do"
    table, commit, _ = hub_table(source.dataset, source.config, source.split, None, instead)
    try:
        asked = [(number, source.question(row)) for number, row in enumerate(table, 1)]
    except (KeyError, TypeError) as error:
        what = f"has no {error}" if isinstance(error, KeyError) else f"cannot be read ({error})"
        raise InputError(f"{source.dataset} at {commit} {what}: its columns have changed") from None
    return [(number, {"id": f"{name}-{number}", **row}) for number, row in asked if row], commit


DATA = PROJECT_ROOT / "helpers/data"
LEAD = "The answer is ("  # what stands before the letter in the form that `as_prompt` asks for
OPEN_TASK = "validation"  # the task of the unseen rows, which have no options


def _clean(text: str) -> str:
    """The text with spaces for control characters, which some vocabularies cannot spell; refuses lone surrogates."""
    if re.search("[\ud800-\udfff]", text):
        raise ValueError("half a character, which cannot be written")
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", " ", text)


Text = Annotated[str, AfterValidator(_clean)]


class ChoiceQuestion(BaseModel):
    """A multiple-choice question: `options` maps a letter to its text, `answer_idx` is the right letter.

    Options may also be a list, lettered A, B, C, ..., and the answer may be the text of one option. Whole numbers
    become text. A number as the answer that could be an index is refused: it may count from 0 or from 1. `relevant`
    names the document that answers, by which 07 measures a search: a textbook's module, a PMID, a handbook's section.
    """

    model_config = ConfigDict(frozen=True)

    id: Annotated[str, Field(coerce_numbers_to_str=True), AfterValidator(_clean)]
    question: Text = Field(min_length=1)
    options: dict[str, Text] = Field(min_length=2)
    answer_idx: str
    context: Text | None = None
    relevant: Text | None = Field(None, validation_alias=AliasChoices("relevant", "module", "pmid"))

    @model_validator(mode="before")
    @classmethod
    def _as_written(cls, row: Any) -> Any:
        options = row.get("options") if isinstance(row, dict) else None
        if isinstance(options, list) and len(options) <= len(ascii_uppercase):
            options = dict(zip(ascii_uppercase, options, strict=False))
        if not isinstance(options, dict):
            return row
        # A parquet file gives every row the letters of all rows; those that a row lacks are null.
        options = {letter: _as_text(text) for letter, text in options.items() if text is not None}
        return {**row, "options": options, "answer_idx": _letter(row.get("answer_idx"), options)}

    @model_validator(mode="after")
    def _options_are_lettered(self) -> "ChoiceQuestion":
        letters = {key.upper() for key in self.options if re.fullmatch("[A-Za-z]", key)}
        if len(letters) < len(self.options):
            raise ValueError(f"options need distinct letters from A to Z, not {', '.join(map(repr, self.options))}")
        if self.answer_idx not in self.options:
            raise ValueError(f"answer_idx {self.answer_idx!r} is not among the options {', '.join(self.options)}")
        return self

    @property
    def answered_by(self) -> str | None:
        """The document that answers: the one named as `relevant`, else the question's own context, by its id."""
        return self.relevant or (self.id if self.context else None)

    def as_prompt(self, context: bool = True) -> str:
        """The user's text: context where there is one (and it is asked for), question, options, how to answer."""
        options = "\n".join(f"{letter}. {text}" for letter, text in self.options.items())
        # No placeholder: small models copy it. All letters, so that none is favoured and a copy of the line is not an
        # answer. In parentheses a letter is a token of its own, and not an article.
        *letters, last = (f"({letter})" for letter in self.options)
        ending = f"End with one line: {LEAD.removesuffix('(')}{', '.join(letters)} or {last}."
        parts = [self.context if context else None, self.question, options, ending]
        return "\n\n".join(part for part in parts if part)


def baseline_questions() -> list[str]:
    """The fixed open questions of 02, which 03 keeps out of the training rows."""
    return [row["question"] for row in read_jsonl(DATA / "baseline_questions.jsonl")]


def choice_questions(sources: list[str], limit: int | None = None) -> dict[str, list[ChoiceQuestion]]:
    """Task name to its questions, the first `limit` of each. A source is `sample`, a benchmark on the hub by its name
    (`mmlu_medical` stands for six), or a file, whose stem names the task.

    Raises InputError with the file and line of the first row that is not a question.
    """
    tasks: dict[str, list[ChoiceQuestion]] = {}
    for source in one_by_one(sources):
        name = source if source in ("sample", *BENCHMARKS) else printable(Path(source).stem)
        if name in (*tasks, OPEN_TASK):
            raise InputError(f"two evaluation tasks are named {name!r}: rename one")
        tasks[name] = _questions(source)[:limit]
    return tasks


def question_commits(sources: list[str]) -> dict[str, str]:
    """The hub's commit of each benchmark among the sources."""
    return {name: benchmark_rows(name)[1] for name in one_by_one(sources) if name in BENCHMARKS}


def _rows(source: str) -> Numbered:
    if source == "sample":
        return enumerate(read_jsonl(DATA / "sample_questions.jsonl"), 1)
    if source in BENCHMARKS:
        return iter(benchmark_rows(source)[0])
    path = project_path(source)
    if not path.suffix and not path.is_file():
        known = ["sample", *BENCHMARKS, *GROUPS]
        raise InputError(f"evaluation.questions: {source!r} is neither a benchmark nor a file{nearest(source, known)}")
    return read_table(path)


def _questions(source: str) -> list[ChoiceQuestion]:
    """A source's questions. An id that an earlier question has becomes `id#2`: textbooks number each chapter anew."""
    found: dict[str, ChoiceQuestion] = {}
    met: Counter[str] = Counter()
    kind = "row" if source in BENCHMARKS else "line"
    for line, row in _rows(source):
        own = row.get("id")
        missing = own is None or own == "" or own != own  # NaN is a missing number
        try:
            question = ChoiceQuestion.model_validate({**row, "id": line if missing else own})
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "row"
            raise InputError(f"{source} {kind} {line}: {where}: {first['msg'].removeprefix('Value error, ')}") from None
        name = question.id
        while name in found:
            met[question.id] += 1
            name = f"{question.id}#{met[question.id] + 1}"
        found[name] = question.model_copy(update={"id": name})
    if not found:
        raise InputError(f"{source} holds no questions")
    return list(found.values())


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _letter(answer: Any, options: dict[str, Any]) -> Any:
    """The letter of the one option with the answer's text; else the answer, which should be a letter itself."""
    if type(answer) is int and 0 <= answer <= len(options):
        raise ValueError(
            f"answer_idx {answer} may count from 0 or from 1: give the option's letter ({', '.join(options)}) or text"
        )
    answer = _as_text(answer)
    if not isinstance(answer, str) or answer in options:
        return answer
    same = [letter for letter, text in options.items() if text == answer]
    if len(same) > 1:
        raise ValueError(f"answer_idx {answer!r} is the text of {' and '.join(same)}: give the letter")
    return same[0] if same else answer
