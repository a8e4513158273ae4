"""One table of names of medical concepts, in a SQLite file, to widen a search query with other names."""

import json
import os
import re
import sqlite3
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path

from helpers import InputError, printable
from helpers.files import fingerprint
from helpers.knowledge.terms import read_terms

FORMAT = 3  # of the file: a table of another format is built anew
MAX_WORDS = 6  # of a name: longer ones are hardly ever written in a text, and would widen a query by anything
MAX_MEANINGS = 2  # concepts of one source that share a name; with more of them it is too vague to widen
TOKEN = re.compile(r"[^\W_]+(?:['’][^\W_]+|\.\d+)*")
GAP = re.compile(r"[\s/'’\-\u2010-\u2015]*")  # what may stand between the words of one name in a text

# Words that are names of concepts too (ALL, CAT, AIDS, lead, cold) but mostly mean what they mean in any text.
WORDS = """
    a abnormal abnormality about absent acute after age aged aid all also an and any are arm art as at back bad be been
    before blow but by can cat cavity cell chalk child chronic coke cold common course crack crystal day decreased did
    disease disorder do does down drug due dull each ear early elevated end eye fall fat female few finding first fit
    for form from gas gene get glass grass group had hand has have he head her high him his history how ice if in
    increased into is it its lead left less level life like line long loss low makeup male man map mass may me
    medication mild more most mouth new no none normal not of off old on one onset or other our out over own pain part
    past patient per period pot present race raised reduced related rest right rock role run sad same set severe sharp
    she side sign snow so some speed spot such symptom syndrome test than that the their them then there these they this
    time to too trait two type up us use very was we weak weed well were what when where which while who will with
    without woman work year you
"""
COMMON = frozenset(WORDS.split())
TABLES = """
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -16384;
CREATE TABLE terms (key TEXT, concept TEXT, term TEXT, origin TEXT, preferred INTEGER);
CREATE TABLE about (made_of TEXT);
"""
INDEXES = "CREATE INDEX by_key ON terms (key); CREATE INDEX by_concept ON terms (concept);"


class Synonyms:
    """The table in the file `path`. Raises InputError for a file that is not such a table."""

    def __init__(self, path: Path) -> None:
        try:
            self._table = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, check_same_thread=False)
            self.made_of = json.loads(*self._table.execute("SELECT made_of FROM about").fetchone())
        except (sqlite3.Error, ValueError, TypeError) as error:
            raise InputError(f"{path} is not a table of synonyms ({error}): build it again") from None

    @classmethod
    def from_sources(cls, paths: Iterable[Path], table: Path) -> "Synonyms":
        """Build the table of all sources (see `read_terms`), atomically; one of the same contents stays untouched.

        InputError for a source that cannot be read or holds no name.
        """
        sources = [Path(path) for path in paths]
        made_of = [FORMAT, *map(fingerprint, sources)]
        with suppress(InputError):
            if (old := cls(table)).made_of == made_of:
                return old
        temporary = table.with_name(f".{table.name}.{os.getpid()}.tmp")
        try:
            table.parent.mkdir(parents=True, exist_ok=True)
            temporary.unlink(missing_ok=True)
            with closing(sqlite3.connect(temporary)) as connection:
                _fill(connection, sources, made_of)
            temporary.replace(table)
        except (sqlite3.Error, OSError) as error:
            raise InputError(f"cannot write {table}: {error}") from None
        finally:
            temporary.unlink(missing_ok=True)
        return cls(table)

    def of(self, text: str) -> dict[str, list[str]]:
        """The names that stand in the text, as they stand there, each with the other names of what it means.

        The longest name counts, up to MAX_WORDS words, in any case, singular or plural, hyphenated or not; a short
        name in capitals (AIDS) only as written. Left out are COMMON words, numbers, names of one or two letters, of
        three in capitals, and those with more than MAX_MEANINGS meanings. Other names: preferred first, then by length.
        """
        words, found, start = list(_words(text)), {}, 0
        while start < len(words):
            after = start + 1
            for end in range(_farthest(text, words, start), start, -1):
                written = text[words[start][1].start() : words[end - 1][1].end()]
                key = " ".join(key for key, _ in words[start:end])
                rows = self._table.execute("SELECT concept, term FROM terms WHERE key = ?", [key]).fetchall()
                if rows and (concepts := _meant(written, rows, text.isupper())):
                    found.setdefault(written, self._names(concepts, key))
                    after = end
                    break
            start = after
        return found

    def _names(self, concepts: set[str], key: str) -> list[str]:
        """One name of each kind of spelling that the concepts have, but for the one of this key."""
        rows = self._table.execute(
            "SELECT key, term FROM terms WHERE concept IN (SELECT value FROM json_each(?)) AND key != ?"
            " ORDER BY preferred DESC, length(term), term",
            [json.dumps(list(concepts)), key],
        )
        names: dict[str, str] = {}
        for other, name in rows:
            names.setdefault(other, name)
        return list(names.values())


def widen(question: str, synonyms: Synonyms, limit: int = 4) -> str:
    """The question, and after it at most `limit` words of other names of what it names, none of them twice.

    A name is added whole or not at all, the first name of each term before the second of any; COMMON words, numbers
    and words of one or two letters are not. The question itself stays as it is, character for character.
    """
    there = {key for key, _ in _words(question)}
    added: list[str] = []
    others = list(synonyms.of(question).values())
    for rank in range(max(map(len, others), default=0)):
        for name in (names[rank] for names in others if rank < len(names)):
            new = {key: match[0] for key, match in _words(name) if key not in there and _tells(match[0])}
            if len(added) + len(new) <= limit:
                added += new.values()
                there |= new.keys()
    return " ".join([question, *added])


def normalise(text: str) -> str:
    """The words of a name, in lower case, without accents, possessive and plural endings, joined by spaces."""
    return " ".join(key for key, _ in _words(text))


def _words(text: str) -> Iterator[tuple[str, re.Match[str]]]:
    return ((key, match) for match in TOKEN.finditer(text) if (key := _singular(_plain(match[0]))))


def _plain(word: str) -> str:
    if not word.isascii():
        word = "".join(c for c in unicodedata.normalize("NFKD", word) if not unicodedata.combining(c)).replace("’", "'")
    return word.casefold().removesuffix("'s").replace("'", "")


def _singular(word: str) -> str:
    if len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    return word[:-2] if word.endswith(("ches", "shes", "xes", "sses")) else word[:-1]


def _farthest(text: str, words: list[tuple[str, re.Match[str]]], start: int) -> int:
    """Where the longest name that may begin with a word ends: no comma or full stop in it, but in `E. coli`."""
    for end in range(start + 1, min(start + MAX_WORDS, len(words))):
        before, word = words[end - 1][1], words[end][1]
        gap = text[before.end() : word.start()]
        if not GAP.fullmatch(gap) and not (gap == ". " and len(before[0]) == 1):
            return end
    return min(start + MAX_WORDS, len(words))


def _tells(word: str) -> bool:
    common = {_plain(word), _singular(_plain(word))} & COMMON and not (word.isupper() and len(word) > 3)  # AIDS
    return sum(c.isalpha() for c in word) > 1 and len(word) > 2 and not common


def _capitals(name: str) -> str:
    """A short name in capitals (AIDS, mRNA) as it must be written, without hyphens and a plural's s; else nothing."""
    bare = "".join(c for c in name.removesuffix("s") if c.isalnum())
    return bare if len(bare) <= 6 and " " not in name and sum(c.isupper() for c in bare) > 1 else ""


def _meant(written: str, rows: list[tuple[str, str]], shouted: bool) -> set[str]:
    """The concepts that the words as written can mean; none if the words are too common, or mean too many.

    `shouted`: the whole text is in capitals, which then tell nothing.
    """
    as_written = "" if shouted else _capitals(written)
    if len(as_written) == 3 or not any(_tells(match[0]) for _, match in _words(written)):
        return set()  # of 21 names in three capitals in real questions, 11 meant something else (PET, NPH, PPV)
    concepts = {concept for concept, term in rows if _capitals(term) == as_written}
    by_source = Counter(concept.rpartition(":")[0] for concept in concepts)  # sources that do not meet repeat a meaning
    return concepts if max(by_source.values(), default=0) <= MAX_MEANINGS else set()


def _fill(connection: sqlite3.Connection, sources: list[Path], made_of: list[object]) -> None:
    bad: Counter[Path] = Counter()

    def rows(path: Path) -> Iterator[tuple[str, str, str, str, bool]]:
        for term in read_terms(path):
            bad[path] += term is None
            if term and (key := normalise(term.text)) and key.count(" ") < MAX_WORDS:
                yield key, term.concept, term.text, term.origin, term.preferred

    connection.executescript(TABLES)
    for path in sources:
        before = connection.total_changes
        connection.executemany("INSERT INTO terms VALUES (?, ?, ?, ?, ?)", rows(path))
        if connection.total_changes == before:
            raise InputError(f"{path} holds no name of a concept")
        if bad[path]:
            print(printable(f"{path.name}: {bad[path]:,} records cannot be read and are left out"))
    connection.executescript(INDEXES)
    connection.execute("INSERT INTO about VALUES (?)", [json.dumps(made_of)])
    connection.commit()
