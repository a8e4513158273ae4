"""Rows from a .json, .jsonl, .csv or .parquet file, one at a time, with a one-line error for a broken one."""

import codecs
import csv
import json
import re
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

from helpers import InputError

Numbered = Iterator[tuple[int, dict[str, Any]]]
ENDINGS = (".json", ".jsonl", ".csv", ".parquet")
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
JSON_LINES = "pandas: to_json(path, orient='records', lines=True)"
ONE_OBJECT = "is one object, not rows: write a list of objects, or one a line (pandas: to_json(path, orient='records'))"
# Bounds that no honest file of rows comes near, and that keep a hostile one from taking minutes or the memory.
MAX_ROW = 16 << 20  # bytes of a line, characters of a cell
MAX_LIST = 128 << 20  # bytes of a file that is one list: the published one of 25,371 rows has 74 MB
MAX_DEPTH = 100  # levels of lists and objects in a row: of deeper ones some can be read and not written
MAX_ROWS = 1_000_000
MAX_GROUP = 2 << 30  # bytes of one of a parquet file's row groups, unpacked
MAX_BATCH = 512 << 20  # and of its rows in memory
MAX_TABLE = 4 << 30  # characters of a parquet file's text, which repeats can make far larger than the file
# The first bytes of files that are often taken for text in UTF-8.
MAGIC = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"\x1f\x8b": "gzip", b"PK\x03\x04": "a zip archive, as .xlsx is"}
SPACE = re.compile(r"[ \t\n\r]*")
CHUNK = 1 << 16  # bytes of a file's beginning that tell whether it is a list


class BadTableError(Exception):
    """What is wrong with a file; the words follow its name."""


def read_table(path: Path) -> Numbered:
    """(line, row) for every row: its line in a text file (a CSV row's last), its number in a JSON list or parquet.

    A .json file is one list, or an object a line; a CSV file has commas, semicolons or tabs. One row is in memory at a
    time, and the text of a JSON list. InputError, which names the file and, where possible, the line or byte, for a
    broken file or one above the bounds here.
    """
    readers = dict(zip(ENDINGS, (_json_rows, _json_rows, _csv_rows, _parquet_rows), strict=True))
    try:
        if path.exists() and not path.is_file() and not path.is_dir():  # a pipe would be waited for
            raise BadTableError("is not a file")
        with open(path, "rb") as handle:
            if path.suffix.lower() not in readers:
                raise BadTableError(f"has the unknown ending {path.suffix!r}; valid: {', '.join(readers)}")
            for count, row in enumerate(readers[path.suffix.lower()](handle), 1):
                if count > MAX_ROWS:
                    raise BadTableError(f"has more than {MAX_ROWS:,} rows: cut it into parts")
                yield row
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        looks = next((f"; it looks like {kind}" for start, kind in MAGIC.items() if error.object.startswith(start)), "")
        raise InputError(f"{path.name} is not UTF-8 (byte {error.start}){looks}") from None
    except BadTableError as error:
        raise InputError(f"{path.name} {error}") from None


def find_columns(name: str, there: list[str], aliases: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """The name in `there` of each column in `aliases`: its own, or the first of its aliases, which are lower case."""
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


def brief(error: BaseException) -> str:
    return textwrap.shorten(str(error).partition("\n")[0], 200) or type(error).__name__


def _lines(handle: IO[bytes]) -> Iterator[str]:
    """The lines with their ends. Only "\\n" ends one: JSON strings may hold U+2028 and its like, a CSV cell "\\r".

    UnicodeDecodeError, with the byte in the file, for what is not UTF-8; BadTableError for a line above MAX_ROW.
    """
    start = number = 0
    while line := handle.readline(MAX_ROW + 1):
        number += 1
        if len(line) > MAX_ROW:
            raise BadTableError(f"line {number}: longer than {MAX_ROW >> 20} MiB")
        yield _decoded(line, start)
        start += len(line)


def _decoded(content: bytes, start: int = 0) -> str:
    """The text of bytes that begin at the file's byte `start`, without a byte order mark."""
    try:
        text = content.decode()  # not "utf-8-sig", which counts an error's byte from after the mark
    except UnicodeDecodeError as error:
        error.start += start
        raise
    return text if start else text.removeprefix("\ufeff")


def _json_rows(handle: IO[bytes]) -> Numbered:
    """(line, row) for an object a line, (number, row) for the members of one list."""
    is_list = handle.read(CHUNK).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")
    handle.seek(0)
    rows = _list_members(handle) if is_list else _json_lines(handle)
    opening = list(islice(rows, 2))
    row = opening[0][1] if len(opening) == 1 else None
    if row and isinstance(row, dict) and all(isinstance(value, list | dict) for value in row.values()):
        raise BadTableError(ONE_OBJECT)  # columns, or a list of rows under a name
    kind = "row" if is_list else "line"
    for number, row in chain(opening, rows):
        if not isinstance(row, dict):
            raise BadTableError(f"{kind} {number}: {type(row).__name__} instead of an object")
        _check_depth(f"{kind} {number}", row)
        yield number, row


def _json_lines(handle: IO[bytes]) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(_lines(handle), 1):
        if not line.strip():
            continue
        try:
            yield number, DECODER.decode(line.removesuffix("\n"))
        except (ValueError, RecursionError) as error:
            if number == 1 and line.strip() == "{":
                raise BadTableError(ONE_OBJECT) from None
            raise _not_json(f"line {number}", error) from None


def _list_members(handle: IO[bytes]) -> Iterator[tuple[int, Any]]:
    content = handle.read(MAX_LIST + 1)
    if len(content) > MAX_LIST:
        raise BadTableError(f"is one list of more than {MAX_LIST >> 20} MiB: write one object a line ({JSON_LINES})")
    text, number = _decoded(content), 0
    try:
        for number, member in enumerate(_members(text), 1):
            yield number, member
    except json.JSONDecodeError as error:
        raise BadTableError(f"line {error.lineno}: not JSON ({error.msg})") from None
    except (ValueError, RecursionError) as error:
        raise _not_json(f"row {number + 1}", error) from None


def _members(text: str) -> Iterator[Any]:
    """The members of a list, one by one: a hostile one of MAX_LIST bytes has 40 million."""
    at = SPACE.match(text, text.index("[") + 1).end()
    more = not text.startswith("]", at)
    while more:
        member, at = DECODER.raw_decode(text, at)
        yield member
        at = SPACE.match(text, at).end()
        if more := not text.startswith("]", at):
            if not text.startswith(",", at):
                raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
            at = SPACE.match(text, at + 1).end()
    if (at := SPACE.match(text, at + 1).end()) < len(text):
        raise json.JSONDecodeError("Extra data", text, at)


def _not_json(where: str, error: BaseException) -> BadTableError:
    return BadTableError(f"{where}: not JSON ({getattr(error, 'msg', '') or brief(error)})")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"the key {_shorten(_twice([key for key, _ in pairs]))!r} stands twice in one object")
    return found


DECODER = json.JSONDecoder(object_pairs_hook=_object)


def _twice(names: list[str]) -> str:
    """The first name that occurs more than once."""
    return next(name for name, count in Counter(names).items() if count > 1)


def _shorten(name: str) -> str:
    return name if len(name) <= 60 else f"{name[:60]} ..."


def _check_depth(where: str, row: dict[str, Any]) -> None:
    level: list[Any] = [row]
    for _ in range(MAX_DEPTH):
        inner = (each.values() if isinstance(each, dict) else each for each in level)
        level = [value for values in inner for value in values if isinstance(value, dict | list)]
        if not level:
            return
    raise BadTableError(f"{where}: nested more than {MAX_DEPTH} levels deep")


def _csv_rows(handle: IO[bytes]) -> Numbered:
    csv.field_size_limit(MAX_ROW)  # the default refuses a cell of 128 kB
    text, cells_read = _lines(handle), csv.reader([])
    opening = list(islice(text, 100))
    try:
        # The header decides on the separator; csv.Sniffer would guess it from the text below.
        headers = {mark: next(csv.reader(opening, delimiter=mark), []) for mark in SEPARATORS}
        separator = max(headers, key=lambda mark: len(headers[mark]))
        named = "" if separator == "," else f", separated by {SEPARATORS[separator]}"
        spaced = any(name.startswith(" ") for name in headers[separator])
        cells_read = csv.reader(chain(opening, text), delimiter=separator, skipinitialspace=spaced, strict=True)
        header = [name.strip() for name in next(cells_read, [])]
        if len(columns := [name for name in header if name]) > len(set(columns)):
            raise BadTableError(f"has two columns named {_shorten(_twice(columns))!r}: rename or remove one")
        for cells in cells_read:
            if len(cells) > len(header):
                cells_and_names = f"{len(cells)} cells below {len(header)} column names{named}"
                raise BadTableError(f"line {cells_read.line_num}: {cells_and_names}")
            if cells:
                yield cells_read.line_num, dict(zip(header, cells, strict=False))
    except csv.Error as error:
        raise BadTableError(f"line {max(1, cells_read.line_num)}: not CSV ({error})") from None


def _parquet_rows(handle: IO[bytes]) -> Numbered:
    from pyarrow.parquet import ParquetFile

    number = size = 0
    try:
        table = ParquetFile(handle)
        about, names = table.metadata, table.schema_arrow.names
        if len(names) > len(set(names)):
            raise BadTableError(f"has two columns named {_shorten(_twice(names))!r}: rename or remove one")
        if about.num_rows > MAX_ROWS:
            raise BadTableError(f"has {about.num_rows:,} rows, more than {MAX_ROWS:,}: cut it into parts")
        # A value may stand for many rows, so that a group's size bounds one row, and its size times the rows a batch.
        groups = [about.row_group(k) for k in range(about.num_row_groups)]
        largest = max((group.total_byte_size for group in groups), default=0)
        if any(group.total_byte_size > MAX_ROW * max(1, group.num_rows) for group in groups):
            raise BadTableError(f"has a row of more than {MAX_ROW >> 20} MiB")
        if largest > MAX_GROUP:
            raise BadTableError(f"has a row group of {largest:,} bytes: write smaller ones")
        size_of_batch = min(1000, max(1, MAX_BATCH // max(1, largest)))
        read = [field.name for field in table.schema_arrow if _is_read(field)]
        for batch in table.iter_batches(size_of_batch, columns=read):
            values = batch.to_pydict()
            for k in range(batch.num_rows):
                row = {name: values[name][k] if name in values else None for name in names}
                number += 1
                length = sum(len(cell) for cell in row.values() if isinstance(cell, str))
                size += length
                if length > MAX_ROW or size > MAX_TABLE:
                    most = f"{MAX_ROW >> 20} MiB" if length > MAX_ROW else f"{MAX_TABLE >> 30} GiB so far"
                    raise BadTableError(f"row {number}: more than {most} of text")
                yield number, row
    except BadTableError:
        raise
    except Exception as error:  # Arrow has many
        raise BadTableError(f"is not a parquet table that can be read ({brief(error)})") from None


def _is_read(field: Any) -> bool:
    """Whether a parquet column is read: no dates, which may be none that Python knows, and of lists only options."""
    from pyarrow.types import is_nested, is_temporal

    # A list may hold any number of values, each as long as the column; one of a dictionary takes no room for that.
    if field.name == "options":
        return "dictionary" not in str(field.type)
    return not is_nested(field.type) and not is_temporal(field.type)
