"""Text and JSON from a file in pieces: a line, or a member of one long list, is in memory at a time."""

import codecs
import json
import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import IO, Any

Numbered = Iterator[tuple[int, dict[str, Any]]]
ONE_OBJECT = "is one object, not rows: write a list of objects, or one a line (pandas: to_json(path, orient='records'))"
# Bounds that no honest file of rows comes near, and that keep a hostile one from taking minutes or the memory.
MAX_ROW = 16 << 20  # bytes of a line, characters of a cell or of an object in a list
MAX_DEPTH = 100  # levels of lists and objects in a row: of deeper ones some can be read and not written
CHUNK = 1 << 20  # bytes
SPACE = re.compile(r"[ \t\n\r]*")
ENDS = {"[": re.compile(r"\[[ \t\n\r]*\]"), ",": re.compile(r"\]")}  # of a list, by what stands before a member


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
        yield from _decoded([line], start)
        start += len(line)


def _decoded(pieces: Iterable[bytes], start: int = 0) -> Iterator[str]:
    """The text of the pieces, which begin at the file's byte `start`, without a byte order mark."""
    # Not "utf-8-sig", which counts an error's byte from after the mark.
    decoder, first = codecs.getincrementaldecoder("utf-8")(), start == 0
    for piece in chain(pieces, [b""]):
        waiting = len(decoder.getstate()[0])
        try:
            text = decoder.decode(piece, final=not piece)
        except UnicodeDecodeError as error:
            error.start += start - waiting
            raise
        start += len(piece)
        if text and first:
            text, first = text.removeprefix("\ufeff"), False
        if text:
            yield text


def json_rows(handle: IO[bytes]) -> Numbered:
    """(line, row) for an object a line, (number, row) for the members of one list."""
    first = next((line for line in lines(handle) if line.strip()), "")
    handle.seek(0)
    is_list = first.lstrip().startswith("[")
    rows = _list_members(handle) if is_list else _json_lines(handle)
    opening = list(islice(rows, 2))
    row = opening[0][1] if len(opening) == 1 else None
    if row and isinstance(row, dict) and all(isinstance(value, list | dict) for value in row.values()):
        raise BadTableError(ONE_OBJECT)  # columns, or a list of rows under a name
    kind = "row" if is_list else "line"
    for number, row in chain(opening, rows):
        if not isinstance(row, dict):
            raise BadTableError(f"{kind} {number}: {type(row).__name__} instead of an object")
        yield number, row


def _json_lines(handle: IO[bytes]) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(lines(handle), 1):
        if not line.strip():
            continue
        try:
            row = DECODER.decode(line.removesuffix("\n"))
        except (ValueError, RecursionError) as error:
            if number == 1 and line.strip() == "{":
                raise BadTableError(ONE_OBJECT) from None
            raise _not_json(error, number) from None
        except BadTableError as error:
            raise BadTableError(f"line {number}: {error}") from None
        yield number, _not_deep(f"line {number}", line, row)


def _list_members(handle: IO[bytes]) -> Iterator[tuple[int, Any]]:
    """(number, member) of one list; a piece of the file, or one member, is in memory.

    The bracket or comma and the member after it are read together, and again with more text where that fails. Each time
    there is twice as much, so that the work stays linear.
    """
    pieces = _decoded(iter(lambda: handle.read(CHUNK), b""))
    text, at, line, number, mark = "", 0, 1, 0, "["  # the text in memory, where we are in it, the line it begins at
    while True:
        start = SPACE.match(text, at).end()
        if end_of_list := ENDS[mark].match(text, start):
            break
        try:
            if not text.startswith(mark, start):
                raise json.JSONDecodeError("Expecting ',' delimiter", text, start)
            start = SPACE.match(text, start + 1).end()
            row, end = DECODER.raw_decode(text, start)
        except BadTableError as error:
            raise BadTableError(f"row {number + 1}: {error}") from None
        except (ValueError, RecursionError) as error:
            problem, rest = _not_json(error, line), text[at:]
            cut_off = isinstance(error, json.JSONDecodeError) and len(rest) <= MAX_ROW
            more = "".join(islice(pieces, 1 + len(rest) // CHUNK)) if cut_off else ""
            if not more:
                raise problem from None
            line += text.count("\n", 0, at)
            text, at = rest + more, 0
            continue
        number, mark, at = number + 1, ",", end
        yield number, _not_deep(f"row {number}", text[start:end], row)
    extra = SPACE.match(text, end_of_list.end()).end()
    if text[extra:] or any(piece.strip(" \t\n\r") for piece in pieces):
        raise _not_json(json.JSONDecodeError("Extra data", text, extra), line)


def _not_json(error: BaseException, line: int) -> BadTableError:
    why = getattr(error, "msg", "") or textwrap.shorten(str(error), 200)
    return BadTableError(f"line {line + getattr(error, 'lineno', 1) - 1}: not JSON ({why})")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        name = shorten(twice([key for key, _ in pairs]))
        raise BadTableError(f"the key {name!r} stands twice in one object: remove one")
    return found


DECODER = json.JSONDecoder(object_pairs_hook=_object)


def twice(names: list[str]) -> str:
    """The first name that occurs more than once."""
    return next(name for name, count in Counter(names).items() if count > 1)


def shorten(name: str) -> str:
    return name if len(name) <= 60 else f"{name[:60]} ..."


def _not_deep(where: str, text: str, row: Any) -> Any:
    """The row; BadTableError where it is nested deeper than MAX_DEPTH, which only text with as many brackets can be."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return row
    level = [row]
    for _ in range(MAX_DEPTH):
        inner = (each.values() if isinstance(each, dict) else each for each in level)
        level = [value for values in inner for value in values if isinstance(value, dict | list)]
    if level:
        raise BadTableError(f"{where}: nested more than {MAX_DEPTH} levels deep")
    return row
