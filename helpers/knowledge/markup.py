"""Text out of markup: XML read safely and in bounded memory, inline tags and formulas as text, stray characters out."""

import gzip
import io
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError, XMLPullParser
from xml.parsers import expat

from helpers.knowledge.documents import Section, UnreadableError

CHUNK = 1 << 16  # bytes
MAX_DEPTH = 200  # levels; the real corpora have at most 25
MAX_PROLOGUE = 1 << 20  # bytes before the root, and of its tag
MAX_RECORD = 16 << 20  # bytes of one element, kept in memory: expat reads a tag or comment again at each CHUNK of it
_INVISIBLE = re.compile(
    "[\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb]"
)


def clean(text: str) -> str:
    """One line in Unicode's composed form: white space as single spaces, no control or invisible characters."""
    text = " ".join(text.split())
    if text.isascii() and text.isprintable():
        return text
    text = _INVISIBLE.sub("", text)
    if not text.isprintable():  # spaces are; so only odd characters are looked at one by one
        text = "".join(char for char in text if unicodedata.category(char) not in ("Cc", "Cs", "Co", "Cn"))
    return unicodedata.normalize("NFC", " ".join(text.split()))


def sections(found: Iterable[tuple[tuple[str, ...], list[str]]]) -> list[Section]:
    """Sections of cleaned text; empty paragraphs, and sections without any, are left out."""
    tidy = (Section(tuple(map(clean, path)), [p for p in map(clean, paragraphs) if p]) for path, paragraphs in found)
    return [section for section in tidy if section.paragraphs]


def unpacked(path: Path) -> io.BufferedIOBase:
    """The bytes of a plain or gzipped file; what it is, its first bytes decide, whatever its name."""
    with open(path, "rb") as handle:
        packed = handle.read(2) == b"\x1f\x8b"
    return gzip.open(path) if packed else open(path, "rb")


def local(element: Element) -> str:
    return element.tag.rpartition("}")[2]


def parse(content: bytes) -> Element:
    """The root of a small XML file. UnreadableError for anything unsafe or broken."""
    for root in stream(io.BytesIO(content), lambda element, depth: depth == 0, forget=False):
        return root
    raise UnreadableError("is empty")


def stream(handle: io.BufferedIOBase, wanted: Callable[[Element, int], bool], forget: bool = True) -> Iterator[Element]:
    """Each finished element for which `wanted(element, depth)` holds; the root's depth is 0.

    With `forget` one child of the root is in memory at a time. UnreadableError, with the line, for broken XML, entity
    declarations, more than MAX_DEPTH levels, or a record above MAX_RECORD bytes.
    """
    root_name(handle)
    parser, pending, root, depth = XMLPullParser(("start", "end")), 0, None, 0
    try:
        while chunk := handle.read1(CHUNK):
            parser.feed(chunk)
            pending += len(chunk)
            for event, element in parser.read_events():
                if event == "start":
                    root = element if root is None else root
                    depth += 1
                    if depth > MAX_DEPTH:
                        raise UnreadableError(f"has more than {MAX_DEPTH} levels of tags")
                    continue
                depth -= 1
                if wanted(element, depth):
                    yield element
                if forget and depth == 1:
                    root.clear()
                    pending = 0
            if pending > MAX_RECORD:
                raise UnreadableError(f"has a record of more than {MAX_RECORD >> 20} MiB")
        parser.close()
    except (ParseError, LookupError, ValueError) as error:  # the last two: encodings that expat does not take
        raise UnreadableError(f"is broken XML ({error})") from None


def root_name(handle: io.BufferedIOBase) -> str:
    """The root's tag, `{namespace}name`; UnreadableError for broken XML, entities, and more than MAX_PROLOGUE bytes."""
    parser, found = expat.ParserCreate(namespace_separator="}"), []

    def refuse(*_: object) -> None:
        raise UnreadableError("declares XML entities, which are not expanded: remove its DOCTYPE")

    parser.EntityDeclHandler, parser.StartElementHandler = refuse, lambda name, _: found.append(name)
    try:
        while not found:  # the end without a root is an error too
            chunk = handle.read1(CHUNK)
            parser.Parse(chunk, not chunk)
            if handle.tell() > MAX_PROLOGUE:
                raise UnreadableError(f"has no root element in its first {MAX_PROLOGUE >> 20} MiB")
    except (expat.ExpatError, LookupError, ValueError) as error:  # an encoding that does not exist, say
        if not found:
            raise UnreadableError(f"is broken XML ({error})") from None
    handle.seek(0)
    return "{" * ("}" in found[0]) + found[0]


def inline_text(element: Element, left_out: Callable[[Element], bool] = lambda element: False) -> str:
    """All text of an element in order, formulas on one line, powers as 10^5; only block elements part words."""
    parts = [element.text or ""]
    last = parts[0][-1:]
    for child in element:
        for text in ("" if left_out(child) else _child_text(child, last, left_out), child.tail or ""):
            parts.append(text)
            last = text[-1:] or last
    return "".join(parts)


INLINE = {
    *("a", "b", "cite", "code", "em", "emphasis", "foreign", "i", "link", "math", "q", "small", "span", "strong"),
    *("sub", "sup", "term", "u"),
}


def _child_text(child: Element, before: str, left_out: Callable[[Element], bool]) -> str:
    name = local(child)
    if name == "math":
        return " ".join(formula(child).split())
    text = inline_text(child, left_out)
    if name == "sup" and before.isdigit() and re.fullmatch(r"\s*[-−–+]?\d[\d.,]*\s*", text):
        return "^" + text.strip()
    return text if name in INLINE else f" {text} "


def formula(element: Element) -> str:
    """MathML on one line: a/b, a^b, operators between spaces, a table's rows parted by semicolons."""
    name = local(element)
    if name == "mspace" or name.startswith("annotation"):
        return " "
    if name == "mo":
        sign = clean(element.text or "")
        return sign if sign and sign in "()[]{}|,.!%′" else f" {sign} "
    if not len(element):
        return re.sub(r"\s+", " ", element.text or "")
    parts = [formula(child).strip() for child in element]
    if name == "mfrac" and len(parts) == 2:
        return "/".join(f"({part})" if " " in part else part for part in parts)
    if name == "msqrt":
        return f"√({_row(element)})"
    if name in ("msub", "msup", "msubsup"):
        return _scripts(name, parts)
    if name == "mfenced":
        return f"{element.get('open', '(')}{', '.join(parts)}{element.get('close', ')')}"
    separator = {"mtable": "; ", "mtr": " ", "munder": " ", "mover": " ", "munderover": " "}.get(name)
    return separator.join(parts) if separator else _row(element)


def _row(element: Element) -> str:
    """Neighbours as they stand, but 1 1/2 and not 11/2."""
    line = ""
    for child in element:
        part = formula(child)
        line += " " + part if local(child) == "mfrac" and line[-1:].isalnum() else part
    return line


def _scripts(name: str, parts: list[str]) -> str:
    """HCO3, x^2, Ca2+: a charge is joined to its ion, any other exponent is marked."""
    base, *rest = parts
    lower = rest[0] if name != "msup" and rest else ""
    upper = "".join(rest[-1].split()) if name != "msub" and rest else ""
    mark = "" if not upper or upper[-1] in "+-−–" else "^"
    return base + lower + mark + upper
