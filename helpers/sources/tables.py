"""Rows from a .json, .jsonl, .csv or .parquet file, one at a time, with a one-line error for a broken one."""

import csv
import textwrap
from collections.abc import Mapping
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

from helpers import InputError
from helpers.sources.text import MAX_ROW, BadTableError, Numbered, json_rows, lines, shorten, twice

ENDINGS = (".json", ".jsonl", ".csv", ".parquet")
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
MAX_ROWS = 1_000_000
MAX_GROUP = 2 << 30  # bytes of one of a parquet file's row groups, unpacked
MAX_BATCH = 512 << 20  # and of its rows in memory
MAX_TABLE = 4 << 30  # characters of a parquet file's text, which repeats can make far larger than the file


def read_table(path: Path) -> Numbered:
    """(line, row) for every row: its line in a text file (a CSV row's last), its number in a JSON list or parquet.

    A .json file is one list, or an object a line; a CSV file has commas, semicolons or tabs. One row is in memory at a
    time, and the text of a JSON list. InputError, which names the file and, where possible, the line or byte, for a
    broken file, and for one above the bounds here and in `sources.text`.
    """
    readers = dict(zip(ENDINGS, (json_rows, json_rows, _csv_rows, _parquet_rows), strict=True))
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
        raise InputError(f"{path.name} is not UTF-8 (byte {error.start})") from None
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


def row_id(row: dict[str, Any], line: int) -> str:
    """A question's `id` as text, or its line where it has none. ValueError where it is neither text nor a number."""
    value = row.get("id")
    if value is None or value == "" or value != value:  # NaN: a missing number
        return str(line)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"id: {type(value).__name__} instead of text or a number")
    return str(value)


def brief(error: BaseException) -> str:
    return textwrap.shorten(str(error).partition("\n")[0], 200) or type(error).__name__


def _csv_rows(handle: IO[bytes]) -> Numbered:
    csv.field_size_limit(MAX_ROW)  # the default refuses a cell of 128 kB
    text, cells_read = lines(handle), csv.reader([])
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
            raise BadTableError(f"has two columns named {shorten(twice(columns))!r}: rename or remove one")
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
            raise BadTableError(f"has two columns named {shorten(twice(names))!r}: rename or remove one")
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
