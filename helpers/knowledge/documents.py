"""What a corpus is made of: documents with sections, and the passages that an index stores and finds."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain

from helpers import printable

MAX_WORDS = 200  # of a passage: BM25 over passages of this size is measured in docs/RETRIEVAL.md


@dataclass(frozen=True)
class Section:
    """One heading's own paragraphs; `path` are the headings down to it, from the document's title. Of clean text
    (`markup.sections`): an index takes no halves of characters."""

    path: tuple[str, ...]
    paragraphs: list[str]


@dataclass(frozen=True)
class Document:
    """One document of a corpus.

    `source` names it for good: a module (`m46383`), a PMID, a row's id, a file. Of two documents with one `source` the
    one with the greater `version` stays, whichever is read first; where both are equal, the one read last.
    """

    source: str
    sections: list[Section]
    licence: str = ""
    address: str = ""  # a web page that a reader may open; empty if there is none
    version: str = ""


@dataclass(frozen=True)
class Deletion:
    """The document `source` is withdrawn, as of `version`: no older version of it counts any more."""

    source: str
    version: str = ""


@dataclass(frozen=True)
class Rejection:
    """A part of a corpus that could not be read: where it is (file and record), and why, in one line."""

    where: str
    why: str

    def __post_init__(self) -> None:  # names and texts of files, which are printed
        object.__setattr__(self, "where", printable(self.where))
        object.__setattr__(self, "why", printable(self.why))


class UnreadableError(Exception):
    """Why a file cannot be read, in one line that follows its name."""


class UnknownKindError(UnreadableError):
    """A file is of no kind that is read."""


@dataclass(frozen=True)
class Passage:
    """A stretch of a document: at most MAX_WORDS words under one heading; `title` is the path of headings."""

    text: str
    title: str
    source: str
    licence: str
    score: float = 0.0  # BM25, larger is better; only comparable within one search
    address: str = field(default="", kw_only=True)


def passages(document: Document, max_words: int = MAX_WORDS) -> Iterator[Passage]:
    """The document in order, paragraphs merged under their heading as long as they stay within `max_words` words.

    A longer paragraph is cut between sentences, and a longer sentence between words. No word is lost.
    """
    for section in document.sections:
        title = " > ".join(dict.fromkeys(filter(None, map(_one_line, section.path))))
        for text in _merged(section.paragraphs, max_words):
            yield Passage(text, title, document.source, document.licence, address=document.address)


def _merged(paragraphs: list[str], max_words: int) -> Iterator[str]:
    kept: list[str] = []
    words = 0
    for piece in chain.from_iterable(_pieces(_one_line(paragraph), max_words) for paragraph in paragraphs):
        size = len(piece.split())
        if kept and words + size > max_words:
            yield "\n".join(kept)
            kept, words = [], 0
        kept.append(piece)
        words += size
    if kept:
        yield "\n".join(kept)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _pieces(paragraph: str, max_words: int) -> Iterator[str]:
    """The paragraph, or stretches of it of at most `max_words` words that end with a sentence where they can."""
    words = 0
    kept: list[str] = []
    for sentence in re.split(r"(?<=[.!?])\s+", paragraph) if paragraph else []:
        parts = sentence.split()
        if kept and words + len(parts) > max_words:
            yield " ".join(kept)
            kept, words = [], 0
        whole = range(0, len(parts) - max_words, max_words)
        yield from (" ".join(parts[start : start + max_words]) for start in whole)
        parts = parts[len(whole) * max_words :]
        kept += parts
        words += len(parts)
    if kept:
        yield " ".join(kept)
