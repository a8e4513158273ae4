"""Rows from a .json, .jsonl, .csv or .parquet file, with a one-line error for a broken one."""

import csv
import io
import json
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from helpers import InputError

Numbered = list[tuple[int, dict[str, Any]]]
ENDINGS = (".json", ".jsonl", ".csv", ".parquet")
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
ONE_OBJECT = "is one object, not rows: write a list of objects, or one a line (pandas: to_json(path, orient='records'))"


class _BadTableError(Exception):
    """What is wrong with a file; the words follow its name."""


class _RepeatedKeyError(Exception):
    """A repeated key in one JSON object."""


def read_table(path: Path, text_column: str | None = None) -> Numbered:
    """(line, row) for every row: its line in a text file (a CSV row's last), its number in a JSON list or parquet.

    A .json file is one list, or an object a line; a CSV file has commas, semicolons or tabs. A byte order mark and
    Windows line ends are allowed. With `text_column` each line of a .txt file, if not blank, is a row of that column.
    Raises InputError, which names the file and, where possible, the line or byte.
    """
    readers: dict[str, Callable[[bytes], Numbered]] = dict(
        zip(ENDINGS, (_json_rows, _json_rows, _csv_rows, _parquet_rows), strict=True)
    )
    if text_column:
        readers[".txt"] = lambda content: _text_rows(content, text_column)
    try:
        if path.exists() and not path.is_file() and not path.is_dir():  # a pipe would be waited for
            raise _BadTableError("is not a file")
        content = path.read_bytes()
        if path.suffix.lower() not in readers:
            raise _BadTableError(f"has the unknown ending {path.suffix!r}; valid: {', '.join(readers)}")
        return readers[path.suffix.lower()](content)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path.name} is not UTF-8 (byte {error.start})") from None
    except _BadTableError as error:
        raise InputError(f"{path.name} {error}") from None


def find_columns(name: str, there: list[str], aliases: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """The name in `there` of each column in `aliases`: its own, or the first of its aliases, which are lower case.

    Raises InputError, which names the table, where a column is missing.
    """
    folded = {column.strip().casefold(): column for column in reversed(there)}
    found = {
        column: column if column in there else next((folded[name] for name in names if name in folded), None)
        for column, names in aliases.items()
    }
    if missing := [column for column, its_name in found.items() if its_name is None]:
        hint = "; is its header line missing?" if name.lower().endswith(".csv") and missing == [*aliases] else ""
        shown = textwrap.shorten(", ".join(there), 200, placeholder=" ...")
        raise InputError(f"{name} has no column {', '.join(missing)}; its columns are: {shown}{hint}")
    return found


def row_id(row: dict[str, Any], line: int) -> str:
    """A question's `id` as text, or its line where it has none. ValueError where it is neither text nor a number."""
    value = row.get("id")
    if value is None or value == "" or value != value:  # NaN: a missing number
        return str(line)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"id: {type(value).__name__} instead of text or a number")
    return str(value)


def brief(error: BaseException) -> str:
    """An error's first line, shortened."""
    return textwrap.shorten(str(error).partition("\n")[0], 200) or type(error).__name__


def _decode(content: bytes) -> str:
    # Not "utf-8-sig", which counts an error's byte from after the mark.
    return content.decode("utf-8").removeprefix("\ufeff")


def _text_rows(content: bytes, column: str) -> Numbered:
    lines = enumerate(_decode(content).split("\n"), 1)
    return [(number, {column: line}) for number, line in lines if line.strip()]


def _json_rows(content: bytes) -> Numbered:
    text = _decode(content)
    is_list = text.lstrip().startswith("[")
    # Not splitlines(): U+2028 and its like are allowed inside JSON strings and are no line ends there.
    pieces = [text] if is_list else text.split("\n")
    rows: list[tuple[int, Any]] = []
    for number, piece in enumerate(pieces, 1):
        try:
            rows += [(number, json.loads(piece, object_pairs_hook=_object))] if piece.strip() else []
        except (ValueError, RecursionError) as error:
            if not is_list and number == 1 and _is_json(text):
                raise _BadTableError(ONE_OBJECT) from None
            line = number + getattr(error, "lineno", 1) - 1
            raise _BadTableError(f"line {line}: not JSON ({getattr(error, 'msg', brief(error))})") from None
        except _RepeatedKeyError as error:
            where = "a row" if is_list else f"line {number}"
            raise _BadTableError(f"{where}: the key {str(error)!r} stands twice in one object: remove one") from None
    rows = list(enumerate(rows[0][1], 1)) if is_list else rows
    for number, row in rows:
        if not isinstance(row, dict):
            raise _BadTableError(f"{'row' if is_list else 'line'} {number}: {type(row).__name__} instead of an object")
    if len(rows) == 1 and rows[0][1] and all(isinstance(value, list | dict) for value in rows[0][1].values()):
        raise _BadTableError(ONE_OBJECT)  # columns, or a list of rows under a name
    return rows


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _RepeatedKeyError(_twice([key for key, _ in pairs]))
    return found


def _twice(names: list[str]) -> str:
    return next(name for name, count in Counter(names).items() if count > 1)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _csv_rows(content: bytes) -> Numbered:
    csv.field_size_limit(2**31 - 1)  # the default refuses a cell of 128 kB
    text = _decode(content)
    rows, lines = [], csv.reader([])
    try:
        # The header decides on the separator; csv.Sniffer would guess it from the text below.
        headers = {mark: next(csv.reader(io.StringIO(text), delimiter=mark), []) for mark in SEPARATORS}
        separator = max(headers, key=lambda mark: len(headers[mark]))
        named = "" if separator == "," else f", separated by {SEPARATORS[separator]}"
        spaced = any(name.startswith(" ") for name in headers[separator])
        lines = csv.reader(io.StringIO(text), delimiter=separator, skipinitialspace=spaced, strict=True)
        header = [name.strip() for name in next(lines, [])]
        if len(columns := [name for name in header if name]) > len(set(columns)):
            raise _BadTableError(f"has two columns named {_twice(columns)!r}: rename or remove one")
        for cells in lines:
            if len(cells) > len(header):
                cells_and_names = f"{len(cells)} cells below {len(header)} column names{named}"
                raise _BadTableError(f"line {lines.line_num}: {cells_and_names}")
            rows += [(lines.line_num, dict(zip(header, cells, strict=False)))] if cells else []
    except csv.Error as error:
        raise _BadTableError(f"line {max(1, lines.line_num)}: not CSV ({error})") from None
    return rows


def _parquet_rows(content: bytes) -> Numbered:
    import pyarrow
    from pyarrow.parquet import read_table as read_parquet

    try:
        return list(enumerate(read_parquet(pyarrow.BufferReader(content)).to_pylist(), 1))
    except Exception as error:  # Arrow's, and Python's for dates and time zones that it does not know
        raise _BadTableError(f"is not a parquet table that can be read ({brief(error)})") from None
