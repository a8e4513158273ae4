"""OpenStax books: CNXML modules with their collections, as documents without the exercises."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from xml.etree.ElementTree import Element

from helpers.knowledge.documents import Document, Rejection
from helpers.knowledge.markup import MarkupError, clean, inline_text, local, parse, sections

Found = Iterator[tuple[tuple[str, ...], list[str]]]

# Left out as elements: exercises; what names a module and is read elsewhere; pictures and players without text (the
# text of alt="" describes what cannot be seen here); the layout of columns. All other elements are kept.
LEFT_OUT = frozenset("exercise problem solution commentary metadata media image iframe colspec".split())
# Left out by class. Questions that are not marked as exercises, or that repeat one (A&P's interactive notes do).
QUESTIONS = frozenset(
    "multiple-choice free-response interactive-exercise fill-in-the-blank short-answer critical-thinking true-false "
    "matching review-questions check-your-understanding practice-problems interactive answer-key".split()
)
# Objectives ask and do not tell; references name other works; contributors are no medicine.
NO_CONTENT = frozenset(
    "learning-objectives chapter-objectives references suggested-reading contrib-auth sr-contrib-auth".split()
)
QUESTION_TITLES = ("review question", "critical thinking", "answer key", "check your understanding", "practice problem")
LICENCES = {"by": "BY", "by-nc": "BY-NC", "by-sa": "BY-SA", "by-nc-sa": "BY-NC-SA", "by-nd": "BY-ND"}


@dataclass(frozen=True)
class _Place:
    """Where a book has a module: the titles above it, its licence and the book's page."""

    path: tuple[str, ...] = ()
    licence: str = ""
    address: str = ""


def bundle_of(path: Path) -> Path | None:
    """The folder above `path` that has `collections/`: a bundle has modules/ID/index.cnxml beside it."""
    return next((folder for folder in path.resolve().parents[:3] if (folder / "collections").is_dir()), None)


def module_files(bundle: Path) -> list[Path]:
    """The modules of a bundle in the order of its books, then those in no book by name."""
    there = {path.parent.name: path for path in sorted(bundle.glob("modules/*/index.cnxml"))}
    ordered = [there.pop(name) for name in _places(bundle) if name in there]
    return ordered + list(there.values())


def read_module(path: Path, content: bytes) -> Iterator[Document | Rejection]:
    """One module. Its book, chapter and licence are those of the first collection (by file name) that holds it."""
    try:
        root = parse(content)
    except MarkupError as error:
        yield Rejection(str(path), str(error))
        return
    name = clean(_text_of(root, "content-id")) or path.parent.name
    bundle = bundle_of(path)
    places = _places(bundle) if bundle else {}
    place = places.get(name) or places.get(path.parent.name) or _Place(licence=_licence_file(bundle))
    title = clean(_text_of(root, "title")) or name
    found = _Reader(root).module((*place.path, title)) if not _asks(root, title) else iter(())
    yield Document(name, sections(found), place.licence, place.address)


def broken_collections(bundle: Path) -> list[Rejection]:
    """The collections that cannot be read; their modules keep their own titles only."""
    return [entry for entry in _collections(bundle) if isinstance(entry, Rejection)]


def _places(bundle: Path) -> dict[str, _Place]:
    files = sorted(bundle.glob("collections/*.xml"))
    return _cached_places(bundle, tuple((file.name, file.stat().st_mtime_ns) for file in files))


@lru_cache(maxsize=8)
def _cached_places(bundle: Path, stamps: tuple[tuple[str, int], ...]) -> dict[str, _Place]:
    places: dict[str, _Place] = {}
    for entry in _collections(bundle):
        if not isinstance(entry, Rejection):
            book, licence, address = _book(entry, bundle)
            for name, path in _modules(entry, (book,)):
                places.setdefault(name, _Place(path, licence, address))
    return places


def _collections(bundle: Path) -> Iterator[Element | Rejection]:
    for file in sorted(bundle.glob("collections/*.xml")):
        try:
            yield parse(file.read_bytes())
        except (MarkupError, OSError) as error:
            yield Rejection(str(file), str(error))


def _book(collection: Element, bundle: Path) -> tuple[str, str, str]:
    metadata = next((e for e in collection if local(e) == "metadata"), collection)
    given = next((e.get("url") or e.text or "" for e in metadata if local(e) == "license"), "")
    slug = clean(_text_of(metadata, "slug"))
    address = f"https://openstax.org/details/books/{slug}" if slug else ""
    return clean(_text_of(metadata, "title")), licence_name(given) or _licence_file(bundle), address


def _modules(element: Element, path: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(module, titles above it) in reading order."""
    for child in element:
        if local(child) == "module":
            yield child.get("document") or "", path
        elif local(child) == "subcollection":
            yield from _modules(child, (*path, clean(_text_of(child, "title"))))
        elif local(child) == "content":
            yield from _modules(child, path)


def licence_name(address: str) -> str:
    """'CC BY 4.0' for http(s)://creativecommons.org/licenses/by/4.0/; any other address or text as it is."""
    parts = clean(address).rstrip("/").split("/")
    if "creativecommons.org" in clean(address) and len(parts) >= 6 and parts[4] in LICENCES:
        return f"CC {LICENCES[parts[4]]} {parts[5]}"
    return clean(address)


def _licence_file(bundle: Path | None) -> str:
    """The first line of the bundle's LICENSE; Creative Commons' own text by its short name."""
    names = [bundle / name for name in ("LICENSE", "LICENCE", "LICENSE.txt")] if bundle else []
    for file in names:
        if file.is_file():
            line = clean(file.read_text(encoding="utf-8", errors="replace").lstrip().partition("\n")[0])
            return {"Attribution 4.0 International": "CC BY 4.0"}.get(line, line)
    return ""


def _text_of(element: Element, name: str) -> str:
    """The text of the first descendant of that name, "" if there is none."""
    found = next((e for e in element.iter() if e is not element and local(e) == name), None)
    return inline_text(found) if found is not None else ""


def _asks(element: Element, title: str = "") -> bool:
    """Whether an element holds questions or what is no content, by its name, class or title."""
    classes = set((element.get("class") or "").lower().split())
    if local(element) in LEFT_OUT or classes & (QUESTIONS | NO_CONTENT):
        return True
    return title.lower().startswith(QUESTION_TITLES)


class _Reader:
    """Walks one module; knows what its links point at."""

    def __init__(self, root: Element) -> None:
        self.root = root

    def module(self, path: tuple[str, ...]) -> Found:
        for part in self.root:
            if local(part) == "content":
                yield from self.section(part, path)
            elif local(part) == "glossary":
                yield (*path, "Glossary"), [self.definition(entry) for entry in part if local(entry) == "definition"]

    def section(self, element: Element, path: tuple[str, ...]) -> Found:
        """The element's own paragraphs first, then the sections and titled notes inside it."""
        inner: list[tuple[Element, str]] = []
        paragraphs: list[str] = []
        for child in element:
            title = self.title(child)
            if _asks(child, title):
                continue
            if local(child) == "section" or (local(child) == "note" and title):
                inner.append((child, title))
            elif local(child) != "title":
                paragraphs += self.block(child)
        yield path, paragraphs
        for child, title in inner:
            yield from self.section(child, (*path, title) if title else path)

    def title(self, element: Element) -> str:
        found = next((e for e in element if local(e) in ("title", "label") and clean(self.text(e))), None)
        return clean(self.text(found)) if found is not None else ""

    def text(self, element: Element) -> str:
        return inline_text(element, _asks)

    def block(self, element: Element) -> list[str]:
        return [self.text(element)]

    def definition(self, element: Element) -> str:
        parts = {local(e): clean(self.text(e)) for e in element}
        return f"{parts.get('term', '')}: {parts.get('meaning', '')}"
