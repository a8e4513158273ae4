"""Text and JSON from a file in pieces: a line, or a member of one long list, is in memory at a time."""

import codecs
import json
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


class BadTableError(Exception):
    """What is wrong with a file; the words follow its name."""


class _RepeatedKeyError(Exception):
    """A repeated key in one JSON object."""


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
        if text:
            yield text.removeprefix("\ufeff") if first else text
            first = False


def json_rows(handle: IO[bytes]) -> Numbered:
    """(line, row) for an object a line, (number, row) for the members of one list."""
    first = next((line for line in lines(handle) if line.strip()), "")
    handle.seek(0)
    is_list = first.lstrip().startswith("[")
    rows = _List(handle).members() if is_list else _json_lines(handle)
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
            if number == 1 and _is_json(line + handle.read(MAX_ROW).decode("utf-8", "replace")):
                raise BadTableError(ONE_OBJECT) from None
            raise _not_json(error, number) from None
        except _RepeatedKeyError as error:
            raise _repeated(f"line {number}", error) from None
        yield number, _not_deep(f"line {number}", line, row)


class _List:
    """Reads one JSON list member by member."""

    def __init__(self, handle: IO[bytes]) -> None:
        self.pieces = _decoded(iter(lambda: handle.read(CHUNK), b""))
        self.text, self.at, self.line = "", 0, 1  # the piece in memory, where we are in it, the line it begins at

    def members(self) -> Iterator[tuple[int, Any]]:
        self._next()
        self.at += 1  # the bracket
        number, empty = 0, self._next() == "]"
        while not empty:
            number += 1
            yield number, self._member(number)
            mark = self._next()
            if mark not in (",", "]"):
                raise self._wrong("Expecting ',' delimiter")
            self.at += 1
            if mark == "]":
                break
        self.at += empty
        if self._next():
            raise self._wrong("Extra data")

    def _member(self, number: int) -> Any:
        self._next()
        while True:
            try:
                row, end = DECODER.raw_decode(self.text, self.at)
                if end < len(self.text) or not self._more():  # a number may go on in the next piece
                    break
            except _RepeatedKeyError as error:
                raise _repeated(f"row {number}", error) from None
            except (ValueError, RecursionError) as error:
                problem = _not_json(error, self.line)
                cut_off = isinstance(error, json.JSONDecodeError) and len(self.text) - self.at <= MAX_ROW
                if not cut_off or not self._more():
                    raise problem from None
        found, self.at = self.text[self.at : end], end
        return _not_deep(f"row {number}", found, row)

    def _more(self) -> bool:
        """Whether there was more to read. Doubles what is in memory, so that the work stays linear."""
        self.line += self.text.count("\n", 0, self.at)
        rest = self.text[self.at :]
        added = "".join(islice(self.pieces, 1 + len(rest) // CHUNK))
        self.text, self.at = rest + added, 0
        return bool(added)

    def _next(self) -> str:
        """Go to the next character that is no space, and return it; "" at the end."""
        while True:
            while self.text[self.at : self.at + 1] in tuple(" \t\n\r"):
                self.at += 1
            if self.at < len(self.text) or not self._more():
                return self.text[self.at : self.at + 1]

    def _wrong(self, message: str) -> BadTableError:
        return _not_json(json.JSONDecodeError(message, self.text, self.at), self.line)


def _not_json(error: BaseException, line: int) -> BadTableError:
    why = getattr(error, "msg", "") or textwrap.shorten(str(error), 200)
    return BadTableError(f"line {line + getattr(error, 'lineno', 1) - 1}: not JSON ({why})")


def _repeated(where: str, error: _RepeatedKeyError) -> BadTableError:
    return BadTableError(f"{where}: the key {shorten(str(error))!r} stands twice in one object: remove one")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _RepeatedKeyError(twice([key for key, _ in pairs]))
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


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
