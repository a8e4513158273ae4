"""Text and JSON from a file: a line is in memory at a time, or the text of one list."""

import codecs
import json
import re
import textwrap
from collections import Counter
from collections.abc import Iterator
from itertools import chain, islice
from typing import IO, Any

Numbered = Iterator[tuple[int, dict[str, Any]]]
JSON_LINES = "pandas: to_json(path, orient='records', lines=True)"
ONE_OBJECT = "is one object, not rows: write a list of objects, or one a line (pandas: to_json(path, orient='records'))"
# Bounds that no honest file of rows comes near, and that keep a hostile one from taking minutes or the memory.
MAX_ROW = 16 << 20  # bytes of a line, characters of a cell
MAX_LIST = 128 << 20  # bytes of a file that is one list: the published one of 25,371 rows has 74 MB
MAX_DEPTH = 100  # levels of lists and objects in a row: of deeper ones some can be read and not written
SPACE = re.compile(r"[ \t\n\r]*")
CHUNK = 1 << 16  # bytes of a file's beginning that tell whether it is a list


class BadTableError(Exception):
    """What is wrong with a file; the words follow its name."""


def lines(handle: IO[bytes]) -> Iterator[str]:
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


def json_rows(handle: IO[bytes]) -> Numbered:
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
        _check(f"{kind} {number}", row)
        yield number, row


def _json_lines(handle: IO[bytes]) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(lines(handle), 1):
        if not line.strip():
            continue
        try:
            yield number, DECODER.decode(line.removesuffix("\n"))
        except (ValueError, RecursionError) as error:
            if number == 1 and line.strip() == "{":
                raise BadTableError(ONE_OBJECT) from None
            raise _not_json(error, number) from None


def _list_members(handle: IO[bytes]) -> Iterator[tuple[int, Any]]:
    content = handle.read(MAX_LIST + 1)
    if len(content) > MAX_LIST:
        raise BadTableError(f"is one list of more than {MAX_LIST >> 20} MiB: write one object a line ({JSON_LINES})")
    text = _decoded(content)
    try:
        yield from enumerate(_members(text), 1)
    except (ValueError, RecursionError) as error:
        raise _not_json(error) from None


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


def _not_json(error: BaseException, line: int = 1) -> BadTableError:
    why = getattr(error, "msg", "") or textwrap.shorten(str(error), 200)
    return BadTableError(f"line {line + getattr(error, 'lineno', 1) - 1}: not JSON ({why})")


class _Repeating(dict[str, Any]):
    """An object in which a key stands twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else _Repeating({twice([key for key, _ in pairs]): None})


DECODER = json.JSONDecoder(object_pairs_hook=_object)


def twice(names: list[str]) -> str:
    """The first name that occurs more than once."""
    return next(name for name, count in Counter(names).items() if count > 1)


def shorten(name: str) -> str:
    return name if len(name) <= 60 else f"{name[:60]} ..."


def _check(where: str, row: dict[str, Any]) -> None:
    """BadTableError for a row that is nested deeper than MAX_DEPTH, or has a key twice in one object."""
    level: list[Any] = [row]
    for _ in range(MAX_DEPTH):
        for each in level:
            if isinstance(each, _Repeating):
                raise BadTableError(f"{where}: the key {shorten(*each)!r} stands twice in one object: remove one")
        inner = (each.values() if isinstance(each, dict) else each for each in level)
        level = [value for values in inner for value in values if isinstance(value, dict | list)]
        if not level:
            return
    raise BadTableError(f"{where}: nested more than {MAX_DEPTH} levels deep")
