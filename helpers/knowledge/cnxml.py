"""OpenStax books: CNXML modules with their collections, as documents without the exercises."""

import os
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element

from helpers.knowledge.cnxml_tables import table_rows
from helpers.knowledge.documents import Document, Rejection, UnreadableError
from helpers.knowledge.licences import licence_in, licence_name
from helpers.knowledge.markup import clean, inline_text, local, parse, sections

Found = Iterator[tuple[tuple[str, ...], list[str]]]

# Left out as elements: exercises; what names a module and is read elsewhere; pictures and players, which have no text
# (alt="" describes what cannot be seen here); the layout of columns. The text of every other element is kept.
LEFT_OUT = {"exercise", "problem", "solution", "commentary", "metadata", "media", "image", "iframe", "colspec"}
# Left out by class: questions that are not marked as exercises, or that repeat one, as A&P's interactive notes do;
# objectives, which ask and do not tell; references, which name other works; contributors, who are not medicine.
CLASSES = {
    *("multiple-choice", "free-response", "interactive-exercise", "fill-in-the-blank", "short-answer", "true-false"),
    *("critical-thinking", "matching", "review-questions", "check-your-understanding", "practice-problems"),
    *("interactive", "answer-key", "learning-objectives", "chapter-objectives", "references", "suggested-reading"),
    *("contrib-auth", "sr-contrib-auth"),
}
QUESTION_TITLE = re.compile(
    r"((review|critical thinking|interactive link|practice|discussion) (questions?|problems?|exercises?)|short answers?"
    r"|critical thinking|multiple choice|fill[- ]in[- ]the[- ]blanks?|true ?/ ?false|matching|answer key"
    r"|check your understanding)[.:]?",
    re.IGNORECASE,
)
BLOCKS = {"para", "list", "item", "figure", "subfigure", "table", "note", "equation", "quote", "example", "section"}
DRAFT_WORDS = 10
LINK = "\ue000"  # marks the words that stand for a link without text


class _Place(NamedTuple):
    """Where a book has a module: the titles above it, its licence and the book's page."""

    path: tuple[str, ...] = ()
    licence: str = ""
    address: str = ""


def bundle_of(path: Path) -> Path | None:
    """The folder above `path` that has `collections/`: a bundle has modules/ID/index.cnxml beside it."""
    parents = Path(os.path.realpath(path)).parents[:3]
    return next((folder for folder in parents if (folder / "collections").is_dir()), None)


def bundle_files(bundle: Path) -> list[Path]:
    """A bundle's modules in the order of its books, those in no book by name, then collections that cannot be read.

    Those that a book lists and the folder lacks are among them, so that reading them says so.
    """
    there = {path.parent.name: path for path in sorted(bundle.glob("modules/*/index.cnxml"))}
    places, broken = _books(bundle)
    plain = (name for name in places if name and Path(name).name == name)
    ordered = [there.pop(name, bundle / "modules" / name / "index.cnxml") for name in plain]
    return ordered + list(there.values()) + broken


def read_module(path: Path, content: bytes) -> Iterator[Document | Rejection]:
    """One module, as the first collection (by file name) that holds it names its book, chapter and licence."""
    root = parse(content)
    name = _text_of(root, "content-id") or clean(path.parent.name)
    bundle = bundle_of(path)
    places = _books(bundle)[0] if bundle else {}
    place = places.get(name) or places.get(path.parent.name) or _Place(licence=licence_in(bundle) if bundle else "")
    title = _text_of(root, "title") or name
    found = [] if _asks(root, title) else sections(_module(root, (*place.path, title)))
    if places and not place.path and sum(len(p.split()) for s in found for p in s.paragraphs) < DRAFT_WORDS:
        yield Rejection(str(path), "is a draft: in no book of its bundle, and without text")
    else:
        yield Document(name, found, place.licence, place.address)


def _books(bundle: Path) -> tuple[dict[str, _Place], list[Path]]:
    """Where the books have each module, in reading order, and the collections that cannot be read."""
    files = sorted(bundle.glob("collections/*.xml"))
    return _read_books(bundle, tuple((file, file.stat().st_mtime_ns if file.is_file() else 0) for file in files))


@lru_cache(maxsize=8)
def _read_books(bundle: Path, stamps: tuple[tuple[Path, int], ...]) -> tuple[dict[str, _Place], list[Path]]:
    places: dict[str, _Place] = {}
    broken = []
    for file, stamp in stamps:
        try:
            collection = parse(file.read_bytes() if stamp else b"")  # a pipe would be waited for
        except (UnreadableError, OSError):
            broken.append(file)
            continue
        book, licence, address = _book(collection, bundle)
        for name, path in _modules(collection, (book,)):
            places.setdefault(name, _Place(path, licence, address))
    return places, broken


def _book(collection: Element, bundle: Path) -> tuple[str, str, str]:
    metadata = next((e for e in collection if local(e) == "metadata"), collection)
    given = next((e.get("url") or e.text or "" for e in metadata if local(e) == "license"), "")
    slug = _text_of(metadata, "slug")
    address = f"https://openstax.org/details/books/{slug}" if slug else ""
    return _text_of(metadata, "title"), licence_name(given) or licence_in(bundle), address


def _modules(element: Element, path: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    for child in element:
        if local(child) == "module":
            yield child.get("document") or "", path
        else:
            title = (_text_of(child, "title"),) if local(child) == "subcollection" else ()
            yield from _modules(child, path + title)


def _text_of(element: Element, name: str) -> str:
    """The cleaned text of the first descendant of that name, "" if there is none."""
    found = element.find(f".//{{*}}{name}")
    return clean(inline_text(found)) if found is not None else ""


def _asks(element: Element, title: str = "", parent: Element | None = None) -> bool:
    """Whether an element holds questions or what is not content, by its name, class or title; or, as a list in a note,
    by its items: a case's or a video's questions, which nothing answers."""
    classes = (element.get("class") or "").lower().split()
    if local(element) in LEFT_OUT or not CLASSES.isdisjoint(classes) or QUESTION_TITLE.fullmatch(title):
        return True
    if parent is None or local(parent) != "note" or local(element) != "list":
        return False
    items = [clean(inline_text(item)) for item in element if local(item) == "item"]
    return 2 * sum(item.endswith("?") for item in items) > len(items)


def _module(root: Element, path: tuple[str, ...]) -> Found:
    _name_links(root)
    for part in root:
        if local(part) == "content":
            yield from _section(part, path)
        elif local(part) == "glossary":
            yield (*path, "Glossary"), [_definition(entry) for entry in part if local(entry) == "definition"]


def _section(element: Element, path: tuple[str, ...]) -> Found:
    """The element's own paragraphs first, then the sections and titled notes inside it."""
    inner: list[tuple[Element, str]] = []
    paragraphs = _lines(element.text)
    for child in element:
        title = _title(child)
        if not _asks(child, title, element):
            if local(child) == "section" or (local(child) == "note" and title):
                inner.append((child, title))
            elif local(child) not in ("title", "label") or local(element) == "content":
                paragraphs += _blocks(child)
        paragraphs += _lines(child.tail)
    yield path, paragraphs
    for child, title in inner:
        yield from _section(child, (*path, title) if title else path)


def _title(element: Element) -> str:
    found = next((e for e in element if local(e) in ("title", "label") and _text(e)), None)
    return _text(found) if found is not None else ""


def _text(element: Element) -> str:
    return _without_empty_links(inline_text(element, _asks))


def _lines(text: str | None) -> list[str]:
    return [text] if text and text.strip() else []


def _blocks(element: Element, bullet: str = "") -> list[str]:
    """The paragraphs of a block: its inline text, with the blocks inside it apart, and its footnotes last."""
    if local(element) == "table":
        return table_rows(element, lambda cell: " ".join(_blocks(cell)))
    if local(element) == "definition":
        return [_definition(element)]
    lines, footnotes, done = Element("para"), [], []

    def flush() -> None:
        nonlocal lines
        done.extend(_lines(_text(lines)))
        lines = Element("para")

    lines.text = element.text
    for number, child in enumerate(element, 1):
        name = local(child)
        if _asks(child, _title(child) if name in BLOCKS else "", element):
            lines.append(_gap(child))
        elif name in BLOCKS or name in ("title", "caption", "label"):
            flush()
            done += _blocks(child, f"{number}. " if element.get("list-type") == "enumerated" else "- ")
            lines.text = child.tail
        elif name == "footnote":
            footnotes += _blocks(child)
            lines.append(_gap(child))
        else:
            lines.append(child)
    flush()
    if local(element) == "item":
        return [bullet + " ".join(done)] if done else footnotes
    return done + footnotes


def _gap(after: Element) -> Element:
    gap = Element("span")
    gap.tail = after.tail
    return gap


def _definition(element: Element) -> str:
    parts = {local(part): _text(part) for part in element}
    return f"{parts.get('term', '')}: {parts.get('meaning', '')}"


def _name_links(root: Element) -> None:
    """A link without words gets some, if its target is in the module: the kind of that, or its title."""
    targets = {element.get("id"): element for element in root.iter() if element.get("id")}
    words: dict[str | None, str] = {}
    for link in root.iter():
        if local(link) == "link" and not clean(inline_text(link)):
            name = link.get("target-id")
            if name not in words:
                words[name] = _words_for(targets.get(name))
            link.text = LINK + words[name].replace(" ", LINK)


def _words_for(target: Element | None) -> str:
    if target is None:
        return ""
    kind = local(target).removeprefix("sub").capitalize()
    return kind if kind in ("Figure", "Table", "Equation") else _text_of(target, "title")


def _without_empty_links(text: str) -> str:
    """Without '(see Figure)', whose figure is not here."""
    if LINK not in text:
        return clean(text)
    text = " ".join(text.split())
    text = re.sub(rf"\s*\((?=[^()]*{LINK})(?:[Ss]ee|in|and|or|also|[,;\s]|{LINK}\w*+)*+\)", "", text)
    return clean(text.replace(LINK, " "))
