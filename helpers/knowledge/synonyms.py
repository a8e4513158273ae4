"""One table of names of medical concepts, in a SQLite file, to widen a search query with other names."""

import json
import os
import re
import sqlite3
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path

from helpers import InputError
from helpers.files import fingerprint
from helpers.knowledge.documents import Rejection
from helpers.knowledge.terms import read_terms, source_files

FORMAT = 1  # of the file: a table of another format is built anew
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
CREATE TABLE terms (key TEXT, concept TEXT, term TEXT, origin TEXT, preferred INTEGER,
                    PRIMARY KEY (key, concept, term, origin)) WITHOUT ROWID;
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TEMP TABLE raw (key TEXT, concept TEXT, term TEXT, origin TEXT, preferred INTEGER);
"""  # rows go to a temporary table first: SQLite then sorts them on disk, whatever their number
SORTED = """
INSERT INTO terms SELECT key, concept, term, origin, max(preferred) FROM raw GROUP BY key, concept, term, origin;
CREATE INDEX by_concept ON terms (concept);
"""


class Synonyms:
    """The table in the file `path`. Raises InputError for a file that is not such a table.

    `rejected`: each reason for which records could not be read, with the first place, and their number.
    `facts`: "terms", "concepts", "long" (names of more than MAX_WORDS words, which are left out), "origins".
    """

    def __init__(self, path: Path) -> None:
        try:
            self._table = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, check_same_thread=False)
            rows = self._table.execute("SELECT name, value FROM facts")
            self.facts = {name: json.loads(value) for name, value in rows}
            self.rejected: dict[str, int] = self.facts["rejected"]
        except (sqlite3.Error, ValueError, KeyError) as error:
            raise InputError(f"{path} is not a table of synonyms ({error}): build it again") from None

    @classmethod
    def from_sources(cls, paths: Iterable[Path], table: Path, levels: Collection[str] = ("0",)) -> "Synonyms":
        """Build the table of all sources, atomically; if it was built of the same contents it stays untouched.

        A source is MRCONSO.RRF or its folder, MeSH's .xml or .tsv, an .obo file, or MedQuAD's .jsonl; `levels` as in
        `terms.read_terms`. Raises InputError for a source that cannot be read or holds no name.
        """
        sources = [source_files(Path(path)) for path in paths]
        made_of = [FORMAT, *(fingerprint(*files) for files in sources), sorted(levels)]
        with suppress(InputError):
            old = cls(table)
            if old.facts.get("made_of") == made_of:
                return old
            old.close()
        temporary = table.with_name(f".{table.name}.{os.getpid()}.tmp")
        try:
            table.parent.mkdir(parents=True, exist_ok=True)
            temporary.unlink(missing_ok=True)
            with closing(sqlite3.connect(temporary)) as connection:
                _fill(connection, sources, made_of, levels)
            temporary.replace(table)
        except (sqlite3.Error, OSError) as error:
            raise InputError(f"cannot write {table}: {error}") from None
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        return cls(table)

    def close(self) -> None:
        self._table.close()

    def of(self, text: str) -> dict[str, list[str]]:
        """The names that stand in the text, as they stand there, each with the other names of what it means.

        The longest name counts, up to MAX_WORDS words, in any case, singular or plural, hyphenated or not; a short
        name in capitals (AIDS) only as written. Left out are COMMON words, numbers, names of one or two letters, of
        three in capitals, and those with more than MAX_MEANINGS meanings. Other names: preferred first, then by length.
        """
        words = list(_words(text))
        sizes = _sizes(text, words)
        grams = {(i, n): " ".join(key for key, _ in words[i : i + n]) for i in range(len(words)) for n in sizes[i]}
        known = self._rows("key", "concept", set(grams.values()))
        found: dict[str, list[str]] = {}
        done = 0
        for (i, n), key in sorted(grams.items(), key=lambda item: (item[0][0], -item[0][1])):
            written = text[words[i][1].start() : words[i + n - 1][1].end()]
            if i >= done and key in known and (concepts := _meant(written, known[key], text.isupper())):
                done = i + n
                if written not in found:
                    rows = {row for rows in self._rows("concept", "key", concepts).values() for row in rows}
                    ordered = sorted(rows, key=lambda row: (-row[2], len(row[1]), row[1]))
                    names = dict.fromkeys(row[0] for row in ordered if row[0] != key)
                    found[written] = [next(row[1] for row in ordered if row[0] == other) for other in names]
        return found

    def _rows(self, column: str, other: str, values: set[str]) -> dict[str, list[tuple[str, str, int]]]:
        """(`other`, term, preferred) of every row by its value in `column`, which is key or concept."""
        found: dict[str, list[tuple[str, str, int]]] = {}
        which = f"WHERE {column} IN (SELECT value FROM json_each(?))"
        asked = f"SELECT {column}, {other}, term, preferred FROM terms {which}"
        for value, *row in self._table.execute(asked, [json.dumps(list(values))]):
            found.setdefault(value, []).append(tuple(row))
        return found


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


def _sizes(text: str, words: list[tuple[str, re.Match[str]]]) -> list[range]:
    """For each word, the numbers of words from it on that may be one name: no comma or full stop, but in `E. coli`."""
    most = [1] * len(words)
    for i in range(len(words) - 2, -1, -1):
        word, following = words[i][1], words[i + 1][1]
        gap = text[word.end() : following.start()]
        if GAP.fullmatch(gap) or (gap == ". " and len(word[0]) == 1):
            most[i] = min(MAX_WORDS, most[i + 1] + 1)
    return [range(1, size + 1) for size in most]


def _tells(word: str) -> bool:
    common = {_plain(word), _singular(_plain(word))} & COMMON and not (word.isupper() and len(word) > 3)  # AIDS
    return sum(c.isalpha() for c in word) > 1 and len(word) > 2 and not common


def _capitals(name: str) -> str:
    """A short name in capitals (AIDS, mRNA) as it must be written, without hyphens and a plural's s; else nothing."""
    bare = "".join(c for c in name.removesuffix("s") if c.isalnum())
    return bare if len(bare) <= 6 and " " not in name and sum(c.isupper() for c in bare) > 1 else ""


def _meant(written: str, rows: list[tuple[str, str, int]], shouted: bool) -> set[str]:
    """The concepts that the words as written can mean; none if the words are too common, or mean too many.

    `shouted`: the whole text is in capitals, which then tell nothing.
    """
    as_written = "" if shouted else _capitals(written)
    if len(as_written) == 3 or not any(_tells(match[0]) for _, match in _words(written)):
        return set()  # of 21 names in three capitals in real questions, 11 meant something else (PET, NPH, PPV)
    concepts = {concept for concept, term, _ in rows if _capitals(term) == as_written}
    by_source = Counter(concept.rpartition(":")[0] for concept in concepts)  # sources that do not meet repeat a meaning
    return concepts if max(by_source.values(), default=0) <= MAX_MEANINGS else set()


def _fill(
    connection: sqlite3.Connection,
    sources: list[list[Path]],
    made_of: list[object],
    levels: Collection[str],
) -> None:
    rejected: Counter[str] = Counter()
    first: dict[str, str] = {}
    facts = {"made_of": made_of, "long": 0}

    def rows(files: list[Path]) -> Iterator[tuple[str, str, str, str, bool]]:
        for found in read_terms(files, levels):
            if isinstance(found, Rejection):
                rejected[found.why] += 1
                first.setdefault(found.why, found.where)
            elif (key := normalise(found.text)).count(" ") >= MAX_WORDS:
                facts["long"] += 1
            elif key:
                yield key, found.concept, found.text, found.origin, found.preferred

    connection.executescript(TABLES)
    for files in sources:
        before, reasons = connection.total_changes, len(rejected)
        connection.executemany("INSERT INTO raw VALUES (?, ?, ?, ?, ?)", rows(files))
        if connection.total_changes == before:
            why = next(iter([*rejected][reasons:]), "")
            raise InputError(f"{files[0]} holds no name of a concept" + (f" ({first[why]}: {why})" if why else ""))
    connection.executescript(SORTED)
    found = connection.execute("SELECT count(*), count(DISTINCT concept) FROM terms").fetchone()
    facts |= dict(zip(("terms", "concepts"), found, strict=True))
    facts["origins"] = dict(connection.execute("SELECT origin, count(*) FROM terms GROUP BY origin"))
    facts["rejected"] = {f"{why} (first: {first[why]})": count for why, count in rejected.items()}
    connection.executemany("INSERT INTO facts VALUES (?, ?)", [(name, json.dumps(facts[name])) for name in facts])
    connection.commit()
