"""Rows from a .json, .jsonl, .csv or .parquet file, and for all that can be wrong one readable line."""

import csv
import io
import json
import textwrap
from pathlib import Path
from typing import Any

from helpers import InputError

Numbered = list[tuple[int, dict[str, Any]]]
ENDINGS = (".json", ".jsonl", ".csv", ".parquet")


class _BadTableError(Exception):
    """What is wrong with a file, in words that follow its name."""


def read_table(path: Path) -> Numbered:
    """(line, row) for every row: its line in a text file (a CSV row's last), its number in a JSON list or parquet.

    A .json file may hold one list or an object a line; a byte order mark and Windows line ends are allowed. Raises
    InputError naming the file and, where there is one, the line or byte.
    """
    readers = dict(zip(ENDINGS, (_json_rows, _json_rows, _csv_rows, _parquet_rows), strict=True))
    try:
        content = path.read_bytes()
        if path.suffix.lower() not in readers:
            raise _BadTableError(f"has the unknown ending {path.suffix!r}; valid: {', '.join(ENDINGS)}")
        return readers[path.suffix.lower()](content)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path.name} is not UTF-8 (byte {error.start})") from None
    except _BadTableError as error:
        raise InputError(f"{path.name} {error}") from None


def brief(error: BaseException) -> str:
    """An error of another library in one short line."""
    return textwrap.shorten(str(error).partition("\n")[0], 200) or type(error).__name__


def _decode(content: bytes) -> str:
    # Not "utf-8-sig", which counts an error's byte from behind the mark.
    return content.decode("utf-8").removeprefix("\ufeff")


def _json_rows(content: bytes) -> Numbered:
    text = _decode(content)
    is_list = text.lstrip().startswith("[")
    # Not splitlines(): U+2028 and its like are allowed inside JSON strings and are no line ends there.
    pieces = [text] if is_list else text.split("\n")
    rows: list[tuple[int, Any]] = []
    for number, piece in enumerate(pieces, 1):
        try:
            rows += [(number, json.loads(piece))] if piece.strip() else []
        except (ValueError, RecursionError) as error:
            line = number + getattr(error, "lineno", 1) - 1
            raise _BadTableError(f"line {line}: not JSON ({getattr(error, 'msg', brief(error))})") from None
    rows = list(enumerate(rows[0][1], 1)) if is_list else rows
    for number, row in rows:
        if not isinstance(row, dict):
            raise _BadTableError(f"{'row' if is_list else 'line'} {number}: {type(row).__name__} instead of an object")
    return rows


def _csv_rows(content: bytes) -> Numbered:
    csv.field_size_limit(2**31 - 1)  # the default refuses a cell of 128 kB
    lines = csv.reader(io.StringIO(_decode(content)), strict=True)
    rows = []
    try:
        header = next(lines, [])
        for cells in lines:
            if len(cells) > len(header):
                raise _BadTableError(f"line {lines.line_num}: {len(cells)} cells below {len(header)} column names")
            rows += [(lines.line_num, dict(zip(header, cells, strict=False)))] if cells else []
    except csv.Error as error:
        raise _BadTableError(f"line {lines.line_num}: not CSV ({error})") from None
    return rows


def _parquet_rows(content: bytes) -> Numbered:
    import pyarrow
    from pyarrow.parquet import read_table as read_parquet

    try:
        return list(enumerate(read_parquet(pyarrow.BufferReader(content)).to_pylist(), 1))
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise _BadTableError(f"is not a parquet table ({brief(error)})") from None
