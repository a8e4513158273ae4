"""What a corpus is made of: documents with sections, and the passages that an index stores and finds."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain

from helpers import printable

MAX_WORDS = 200  # of a passage: BM25 over passages of this size is measured in docs/RETRIEVAL.md
MAX_CHARACTERS = 4_000  # of a passage without enough spaces (base64, Chinese); 200 words have at most some 2,000


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
    """A stretch of a document: at most MAX_WORDS words and MAX_CHARACTERS characters under one heading.

    `title` is the path of headings.
    """

    text: str
    title: str
    source: str
    licence: str
    score: float = 0.0  # BM25, larger is better; only comparable within one search
    address: str = field(default="", kw_only=True)


def passages(document: Document, max_words: int = MAX_WORDS) -> Iterator[Passage]:
    """The document in order, paragraphs merged under their heading as long as they stay within `max_words` words.

    A longer paragraph is cut between sentences, a longer sentence between words, and a word of more than MAX_CHARACTERS
    characters after so many. No word is lost.
    """
    for section in document.sections:
        title = " > ".join(dict.fromkeys(filter(None, section.path)))
        paragraphs = (_packed(_sentences(paragraph, max_words), max_words, " ") for paragraph in section.paragraphs)
        for text in _packed(chain.from_iterable(paragraphs), max_words, "\n"):
            yield Passage(text, title, document.source, document.licence, address=document.address)


def _packed(pieces: Iterable[str], most: int, separator: str) -> Iterator[str]:
    """Neighbours joined as long as they stay within `most` words and MAX_CHARACTERS."""
    kept: list[str] = []
    words = length = 0
    for piece in pieces:
        size = len(piece.split())
        if kept and (words + size > most or length + len(piece) > MAX_CHARACTERS):
            yield separator.join(kept)
            kept, words, length = [], 0, 0
        kept.append(piece)
        words += size
        length += len(piece) + len(separator)
    if kept:
        yield separator.join(kept)


def _sentences(paragraph: str, most: int) -> Iterator[str]:
    """The paragraph's sentences, those that are too long in parts."""
    for sentence in re.split(r"(?<=[.!?])\s+", paragraph):
        words = sentence.split()
        if len(words) <= most and len(sentence) <= MAX_CHARACTERS:
            yield from filter(None, [" ".join(words)])
        else:
            starts = ((word, start) for word in words for start in range(0, len(word), MAX_CHARACTERS))
            yield from _packed((word[start : start + MAX_CHARACTERS] for word, start in starts), most, " ")
