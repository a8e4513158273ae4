"""Asking a run's models or a server one question, or a file of them; an interrupted file is resumed."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import Any

from helpers import InputError
from helpers.config import GenerationSettings
from helpers.files import fingerprint, write_text
from helpers.knowledge.documents import Passage
from helpers.progress import Progress
from helpers.prompts.encoding import encode_prompt, split_reasoning
from helpers.run_dir import Run
from helpers.sources.tables import read_table, row_id
from helpers.use.client import Ended, Endpoint, check_question
from helpers.use.sources import listed

Row = dict[str, Any]


@dataclass(frozen=True)
class Answerer:
    """A model to ask. `stream` gives the text of one reply in pieces, `rows` the replies to some questions in order.

    A server's stream ends with an `Ended`, whose text decides the parts of the reply. `check` raises InputError for a
    question that cannot be asked. `made_by` identifies model and settings, the same for all replies of a file.
    """

    made_by: str
    stream: Callable[[str], Iterator[str | Ended]]
    rows: Callable[[list[str]], Iterator[Row]]
    check: Callable[[str], object] = str


def local_answerers(run: Run, sides: Sequence[str]) -> dict[str, Answerer]:
    """A run's "base" and "tuned" model with transformers, prompted as in 05; one model is loaded for both."""
    from helpers.generation import generate, stream
    from helpers.models.loading import load_base, load_tokenizer, load_with_adapter

    config, tokenizer = run.config, load_tokenizer(run.config.model)
    adapter = run.require("adapter", "04_lora_training (or ask with --base)") if "tuned" in sides else None
    model = load_with_adapter(config, adapter) if adapter else load_base(config)
    made_by = f"{fingerprint(run / 'run.yaml', run / 'adapter')} {config.generation.model_dump_json()}"

    def encoded(question: str) -> list[int]:
        return encode_prompt(tokenizer, question, config.model.prompt_style)

    def answerer(side: str) -> Answerer:
        def adapter_set() -> AbstractContextManager[Any]:
            return model.disable_adapter() if adapter and side == "base" else nullcontext()

        def pieces(question: str) -> Iterator[str]:
            with adapter_set():
                yield from stream(model, tokenizer, encoded(question), config.generation, config.seed)

        def rows(questions: list[str]) -> Iterator[Row]:
            with adapter_set():
                replies = generate(model, tokenizer, list(map(encoded, questions)), config.generation, config.seed)
            yield from (_row(reply.text, reply.finished, reply.tokens) for reply in replies)

        return Answerer(made_by, pieces, rows, encoded)

    return {side: answerer(side) for side in sides}


def endpoint_answerer(endpoint: Endpoint, settings: GenerationSettings) -> dict[str, Answerer]:
    """The model behind an address, under its name there; it is asked one question after the other."""

    def rows(questions: list[str]) -> Iterator[Row]:
        for question in questions:
            *_, end = endpoint.stream(question, settings)
            sources = {} if end.sources is None else listed(end.sources, end.text)
            yield _row(end.text, end.finished, end.tokens) | sources

    made_by = f"{endpoint.model} at {endpoint.base_url}, {settings.model_dump_json()}"
    return {endpoint.model: Answerer(made_by, partial(endpoint.stream, settings=settings), rows)}


def read_questions(path: Path) -> list[Row]:
    """`id` and `question` of each row of a table (see `read_table`), or of each line of a .txt file.

    The question is under `question` or `Question`; a row without `id` gets its line number. InputError names the line
    of a row without a question.
    """
    found = []
    for line, row in read_table(path, text_column="question"):
        try:
            text = row.get("question", row.get("Question"))
            if not isinstance(text, str):
                raise ValueError(f"needs a `question` that is text; it has: {shorten(', '.join(row), 200)}")
            found.append({"id": row_id(row, line), "question": check_question(text)})
        except ValueError as error:
            raise InputError(f"{path}, line {line}: {error}") from None
    if not found:
        raise InputError(f"{path} has no question")
    return found


def ask_file(
    questions: Sequence[Row],
    target: Path,
    answerers: Mapping[str, Answerer],
    batch: int,
    look_up: Callable[[str], tuple[str, list[Passage]]] | None = None,
) -> int:
    """Append to `target` a row for each question and side, `batch` questions at a time; returns the number of new rows.

    A row has `id`, `question`, `side`, `made_by`, `reply`, its parts, `finished` and `tokens`; with `look_up`, which
    gives a question's text with its passages, also what `listed` gives. Rows that are in `target` already are kept;
    InputError where another model or other settings made them.
    """
    done = _read_done(target, answerers)
    books = {row["question"]: look_up(row["question"]) if look_up else (row["question"], []) for row in questions}
    for row in questions:  # all of them before the first is asked
        try:
            for answerer in answerers.values():
                answerer.check(books[row["question"]][0])
        except InputError as error:
            raise InputError(f"question {row['id']}: {error}") from None
    todo = {side: [row for row in questions if (row["id"], row["question"], side) not in done] for side in answerers}
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        open(target, "a", encoding="utf-8") as file,
        Progress(len(questions) * len(answerers), "replies", done=len(done)) as progress,
    ):
        for side, answerer in answerers.items():
            for start in range(0, len(todo[side]), batch):
                rows = todo[side][start : start + batch]
                texts = [books[row["question"]][0] for row in rows]
                for row, reply in zip(rows, answerer.rows(texts), strict=True):
                    sources = listed(books[row["question"]][1], reply["reply"]) if look_up else {}
                    complete = {**row, "side": side, "made_by": answerer.made_by, **reply, **sources}
                    file.write(json.dumps(complete, ensure_ascii=False) + "\n")
                    file.flush()
                    progress.update()
    return sum(map(len, todo.values()))


def _read_done(target: Path, answerers: Mapping[str, Answerer]) -> set[tuple[str, str, str]]:
    """Id, question and side of `target`'s rows; a last line that a kill has cut short is removed from the file."""
    if not target.is_file():
        return set()
    text = target.read_text(encoding="utf-8")
    complete = text[: text.rfind("\n") + 1]
    try:
        # Not splitlines(): U+2028 and its like, which replies may hold, are no line ends in JSON.
        rows = [row for row in map(json.loads, complete.split("\n")[:-1]) if row["side"] in answerers]
        same = all(row["made_by"] == answerers[row["side"]].made_by for row in rows)
        done = {(row["id"], row["question"], row["side"]) for row in rows}
    except (json.JSONDecodeError, KeyError, TypeError):
        raise InputError(f"{target} is not a file of replies: choose another --out") from None
    if not same:
        raise InputError(f"{target} holds replies of another model or other settings: choose another --out")
    if complete != text:
        write_text(target, complete)
    return done


def _row(text: str, finished: bool, tokens: int) -> Row:
    return {"reply": text, **asdict(split_reasoning(text)), "finished": finished, "tokens": tokens}
