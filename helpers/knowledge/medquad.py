"""Rows of a .jsonl file: MedQuAD's, or any with a `text`."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from helpers.knowledge.documents import Document, Rejection, UnknownKindError
from helpers.knowledge.markup import clean, sections
from helpers.sources.tables import MAX_ROW, brief

LICENCE = "CC BY 4.0"
SKIPPED = 16  # times MAX_ROW that a line may go on: a file of one endless line is not a file of rows
KEYS = {"id", "source", "url", "focus", "question", "answer"}


def read_rows(path: Path, name: str) -> Iterator[Document | Rejection]:
    """One document a row of a .jsonl file, read row by row.

    MedQuAD's row has its `id` as source, a repeated one with its collection (`0000001-1@GARD`), as MedQuAD numbers each
    anew, and a count. Other rows need `text`, and may have `id`, `title`, `licence` and `address`; their source is
    `name#id` or `name#line`, of a second row with that `name@2#id`. UnknownKindError if the first row has other keys.
    """
    seen: Counter[str] = Counter()
    first, line = True, 0
    for line, row in _json_lines(path):
        where = f"{path}: line {line}"
        if isinstance(row, Rejection):
            yield row
            continue
        if first and not (row.keys() >= KEYS or "text" in row):
            raise UnknownKindError(f"has rows with the keys {', '.join(map(str, row))}: neither MedQuAD's nor a 'text'")
        first = False
        if row.keys() >= KEYS:
            yield _pair(where, {key: _string(row[key]) for key in KEYS}, seen)
        elif clean(text := _string(row.get("text"))):
            own = clean(_string(row.get("id"))) or str(line)
            seen[own] += 1
            yield _generic(row, text, f"{name}#{own}" if seen[own] == 1 else f"{name}@{seen[own]}#{own}")
        else:
            yield Rejection(where, "has no text")
    if not line:
        yield Rejection(str(path), "is empty")


def _pair(where: str, row: dict[str, str], seen: Counter[str]) -> Document | Rejection:
    found = sections([((row["focus"], row["question"]), row["answer"].split("\n"))])
    if not found:
        return Rejection(where, "has an empty answer")
    name = clean(row["id"]) or where.rpartition(" ")[2]
    if seen[name]:
        name = f"{name}@{clean(row['source'])}"
    seen[name] += 1
    source = name if seen[name] == 1 else f"{name}#{seen[name]}"
    return Document(source, found, LICENCE, clean(row["url"]))


def _generic(row: dict[str, Any], text: str, source: str) -> Document:
    title = _string(row.get("title")) or source
    licence = _string(row.get("licence") or row.get("license"))
    address = _string(row.get("address") or row.get("url"))
    return Document(source, sections([((title,), re.split(r"\n\s*\n", text))]), clean(licence), clean(address))


def _string(value: Any) -> str:
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | Rejection]]:
    """(line, row); a line that is not an object of JSON in UTF-8, or longer than MAX_ROW, is a Rejection."""
    with open(path, "rb") as handle:
        for number, line in enumerate(iter(partial(handle.readline, MAX_ROW + 1), b""), 1):
            where = f"{path}: line {number}"
            if len(line) > MAX_ROW:
                yield number, Rejection(where, f"is longer than {MAX_ROW >> 20} MiB")
                pieces = (handle.readline(MAX_ROW) for _ in range(SKIPPED))
                if not any(not piece or piece.endswith(b"\n") for piece in pieces):
                    yield number, Rejection(where, "does not end: what follows is not read")
                    return
            elif line.strip():
                try:
                    row = json.loads(line.decode("utf-8-sig"))
                except (ValueError, RecursionError) as error:
                    row = Rejection(where, f"is not JSON ({brief(error)})")
                yield number, row if isinstance(row, dict | Rejection) else Rejection(where, "is not an object")
