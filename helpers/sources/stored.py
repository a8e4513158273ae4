"""Rows whose texts lie in a temporary file, so that many of them take little memory."""

import json
import tempfile
from array import array
from collections.abc import Iterator, Mapping
from threading import Lock
from typing import Any

from helpers import InputError

IN_MEMORY = 16 << 20  # bytes of texts that need no file


class Texts:
    """A list of texts, several at each number, that only grows. It may be read in several threads."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - lives as long as the rows
        self._ends, self._lock = array("Q", [0]), Lock()
        self._last: tuple[int, dict[str, str | None]] = (-1, {})

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
