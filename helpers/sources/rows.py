"""Rows to train on, from the packaged sample, the hub or the user's own file."""

import hashlib
import heapq
import json
import re
import sys
import tempfile
from array import array
from collections.abc import Iterator, Mapping
from threading import Lock
from typing import Any

from helpers import PROJECT_ROOT, InputError
from helpers.config import DataSettings
from helpers.files import project_path
from helpers.sources.hub import HUB_CONFIG, hub_dataset, hub_table
from helpers.sources.tables import Numbered, find_columns, read_table

Row = Mapping[str, Any]  # `row | changes` is a changed one
COLUMNS = {"Question": "question", "Complex_CoT": "reasoning", "Response": "answer"}
# Other names of these columns, in any case, the first found; those with brackets are of
# FreedomIntelligence/Medical-R1-Distill-Data.
ALIASES = {
    "Question": ("question",),
    "Complex_CoT": ("complex_cot", "reasoning (reasoning_content)", "reasoning"),
    "Response": ("response", "response (content)", "answer"),
}
SAMPLE = PROJECT_ROOT / "helpers/data" / "sample.jsonl"
INSTEAD = "data.source may also be sample or a file"  # of what is not to be had on the hub
IN_MEMORY = 16 << 20  # bytes of texts that need no file
# Lone surrogates cannot be written; control characters and U+FFFD are what broken conversions leave behind.
INVALID = re.compile(r"[\ud800-\udfff\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd-\uffff]")


def read_rows(data: DataSettings, seed: int) -> tuple[list[Row], dict[str, Any]]:
    """Read `data.source` and draw `data.sample_size` rows of it at random, kept in the source's order.

    The texts of many rows lie in a temporary file; what is not text is None. Returns the rows and their provenance:
    `source`, `revision` and `config` (the hub's commit and configuration, or None), `columns` (the source's names of
    COLUMNS), `rows` before the draw and `fingerprint`, the SHA-256 of the three columns, whatever the file format.
    """
    dataset, revision, config = hub_dataset(data.source), None, data.config
    name = dataset or data.source
    if dataset:
        config = config or (HUB_CONFIG if data.source == "hub" else None)
        rows_on_hub, revision, config = hub_table(name, config, "train", data.commit or data.revision, INSTEAD)
    elif config:
        raise InputError(f"data.config = {config!r} is for data sets of the hub, and data.source is {name}")
    path = SAMPLE if name == "sample" else project_path(name)

    def table() -> Numbered:
        return enumerate(rows_on_hub, 1) if dataset else read_table(path)

    there: dict[str, None] = {}  # a set in the order of meeting: the last row may have another column
    for _, cells in table():
        there |= dict.fromkeys(cells) if cells.keys() - there.keys() else {}
    columns = find_columns(name, [*there], ALIASES) if there else {}
    rows, ranks, digest, texts = [], [], hashlib.sha256(), Texts()
    for line, cells in table() if columns else ():
        row = {column: cells.get(found) for column, found in columns.items()}
        digest.update(_content(row))
        if data.sample_size:
            ranks.append((seeded_rank(row, seed), len(rows)))
        rest = {"line": line}
        if isinstance(cells.get("specialty"), str) and not INVALID.search(cells["specialty"]):
            rest["specialty"] = sys.intern(cells["specialty"])
        text = {column: cell if isinstance(cell, str) else None for column, cell in row.items()}
        rows.append(StoredRow(texts, texts.add(text), rest))
    if not rows:
        raise InputError(f"{name} holds no rows")
    provenance = {"source": name, "revision": revision, "config": config, "columns": columns}
    provenance |= {"rows": len(rows), "fingerprint": digest.hexdigest()}
    if data.sample_size:
        rows = [rows[number] for number in sorted(k for _, k in heapq.nsmallest(data.sample_size, ranks))]
    return rows, provenance


def fault(row: Row) -> str | None:
    """What makes a row no row to train on, whatever the model: the first of its texts that is none."""
    for column, name in COLUMNS.items():
        text = row[column]
        if not isinstance(text, str):
            return f"{name} is not text"
        if not text.strip():
            return f"empty {name}"
        if INVALID.search(text):
            return f"invalid characters in the {name}"
    return None


def _content(row: Row) -> bytes:
    return json.dumps([row[column] for column in COLUMNS], default=str).encode()


def seeded_rank(row: Row, seed: int) -> bytes:
    """A row's key in a shuffle that depends on the seed and the row's content, not on its position."""
    return hashlib.sha256(str(seed).encode() + _content(row)).digest()


class Texts:
    """A list of texts, several at each number, that only grows. It may be read in several threads."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - lives as long as the rows
        self._ends, self._lock = array("Q", [0]), Lock()
        self._last: tuple[int, dict[str, str | None]] = (-1, {})

    def __del__(self) -> None:
        self._file.close()

    def add(self, texts: dict[str, str | None]) -> int:
        content = json.dumps(texts).encode()
        with self._lock:
            try:
                self._file.seek(self._ends[-1])
                self._file.write(content)
            except OSError as error:
                reason = f"cannot keep the rows in the temporary folder: {error.strerror or error}"
                raise InputError(f"{reason}; set TMPDIR to a folder with room") from None
            self._ends.append(self._ends[-1] + len(content))
        return len(self._ends) - 2

    def __getitem__(self, number: int) -> dict[str, str | None]:
        known, texts = self._last
        if known != number:
            with self._lock:
                self._file.seek(self._ends[number])
                content = self._file.read(self._ends[number + 1] - self._ends[number])
            texts = json.loads(content)
            self._last = number, texts
        return texts


class StoredRow(Mapping[str, Any]):
    """A row that holds the rest of its values and the number of its texts; `row | changes` is a changed row."""

    __slots__ = ("_number", "_rest", "_texts")

    def __init__(self, texts: Texts, number: int, rest: dict[str, Any]) -> None:
        self._texts, self._number, self._rest = texts, number, rest

    def __getitem__(self, name: str) -> Any:
        return self._rest[name] if name in self._rest else self._texts[self._number][name]

    def __iter__(self) -> Iterator[str]:
        return iter([*self._texts[self._number], *self._rest])

    def __len__(self) -> int:
        return len(self._texts[self._number]) + len(self._rest)

    def __or__(self, changes: Mapping[str, Any]) -> "StoredRow":
        texts, number = self._texts[self._number], self._number
        if new := {name: value for name, value in changes.items() if name in texts}:
            number = self._texts.add(texts | new)
        rest = {name: value for name, value in changes.items() if name not in texts}
        return StoredRow(self._texts, number, self._rest | rest)
