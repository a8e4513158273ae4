"""Best passages for a query, by BM25: SQLite's FTS5, which is in the index's file, and tantivy, a folder beside it.

Both fold case and accents, stem English words, and ask for passages with any of the query's words (OR). A query is
words and nothing else: no sign in it means anything.
"""

import re
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from helpers import InputError
from helpers.files import atomic_dir, write_text
from helpers.knowledge.store import TOKENIZER

# A title's words count as the text's: FTS5's weights of 0.5 to 3 moved hit@10 of 330 textbook questions by a point, and
# tantivy with two equal fields had 5 points less than with one. Of 150 vignettes' ten best passages 70% stay the same
# when FTS5 looks up the 48 rarest words, and 33% with 24; 64 take three quarters of the time that all do.
MOST_WORDS = 64
READ_WORDS = 2_000  # different words of a query that are looked at
# Words in more than this share of the passages are left out, as they tell little and take most of the time: of a
# question of 111 words in 288,608 passages, tantivy takes 4 ms instead of 15. Of 571 held-back questions (316 textbook,
# 255 PubMedQA, 42,053 passages) it then finds 519 among the first ten instead of 517; with a tenth 511.
COMMON = 0.25
WORD = re.compile(r"[^\W_](?:[^\W_]|[\u0300-\u036f])*")
MARK = "INDEX"  # the file in a tantivy folder that names the state of the index which it holds

Hits = list[tuple[int, float]]  # rows of `passages` with their scores, best first; equal scores in the order of rows


def words_of(query: str) -> list[str]:
    """The query's different words as they stand, at most READ_WORDS."""
    return list(dict.fromkeys(WORD.findall(query.lower())))[:READ_WORDS]


def rarest(counts: dict[str, int], total: int) -> list[str]:
    """The terms, rarest first, by how many of the `total` passages have each; without those that are COMMON."""
    ranked = sorted(counts, key=lambda term: (counts[term], term))
    return [term for term in ranked if counts[term] <= COMMON * total] or ranked


def search_sqlite(db: sqlite3.Connection, query: str, limit: int) -> Hits:
    """By FTS5 in the index's own file."""
    (total,) = db.execute("SELECT passages FROM state").fetchone()
    term_of = _terms(words_of(query))
    marks = ",".join("?" * len(term_of))
    counts = dict(db.execute(f"SELECT term, doc FROM vocabulary WHERE term IN ({marks})", list(term_of)).fetchall())
    wanted = " OR ".join(f'"{term_of[term]}"' for term in rarest(counts, total)[:MOST_WORDS])
    if not wanted:
        return []
    rows = db.execute(
        "SELECT rowid, bm25(passages) AS score FROM passages WHERE passages MATCH ? ORDER BY score LIMIT ?",
        [wanted, limit],
    )
    return [(row, -score) for row, score in rows]


def _terms(words: list[str]) -> dict[str, str]:
    """One word for each term that SQLite makes of the words: the terms themselves might be stemmed again."""
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute(f"CREATE VIRTUAL TABLE words USING fts5 (word, tokenize = '{TOKENIZER}')")
        db.execute("CREATE VIRTUAL TABLE terms USING fts5vocab (words, instance)")
        db.executemany("INSERT INTO words (rowid, word) VALUES (?, ?)", enumerate(words))
        return {term: words[number] for term, number in db.execute("SELECT term, doc FROM terms ORDER BY doc DESC")}


class Tantivy:
    """A folder that holds one state of an index, and is never changed."""

    def __init__(self, folder: Path) -> None:
        import tantivy as library

        self.library, self.index = library, library.Index.open(str(folder))
        self.searcher = self.index.searcher()
        self.analyzer = _analyzer(library)

    def search(self, query: str, limit: int) -> Hits:
        terms = dict.fromkeys(term for word in words_of(query) for term in self.analyzer.analyze(word))
        counts = {term: count for term in terms if (count := self.searcher.doc_freq("text", term))}
        term_query, should = self.library.Query.term_query, self.library.Occur.Should
        wanted = [
            (should, term_query(self.index.schema, "text", term, index_option="freq"))
            for term in rarest(counts, self.searcher.num_docs)
        ]
        if not wanted:
            return []
        asked = limit + 32
        while True:  # until the first of the equal scores around the last place are all there
            found = self.searcher.search(self.library.Query.boolean_query(wanted), asked, count=False).hits
            if len(found) < asked or found[-1][0] < found[limit - 1][0]:
                break
            asked *= 2
        rows = self.searcher.fast_field_values("row", [address for _, address in found])
        hits = [(int(row or 0), score) for row, (score, _) in zip(rows, found, strict=True)]
        return sorted(hits, key=lambda hit: (-hit[1], hit[0]))[:limit]

    @classmethod
    def build(cls, folder: Path, state: str, rows: Iterable[tuple[int, str, str]]) -> None:
        """Write the folder anew from (row, title, text), atomically. Raises InputError if that fails."""
        import tantivy as library

        builder = library.SchemaBuilder().add_integer_field("row", fast=True)
        builder = builder.add_text_field("text", tokenizer_name="english", index_option="freq")
        try:
            with atomic_dir(folder) as temporary:
                index = library.Index(builder.build(), path=str(temporary))
                index.register_tokenizer("english", _analyzer(library))
                writer = index.writer(heap_size=256_000_000, num_threads=1)
                for row, title, text in rows:
                    writer.add_document(library.Document(row=row, text=f"{title}\n{text}"))
                writer.commit()
                writer.wait_merging_threads()
                write_text(temporary / MARK, state)
                for file in temporary.iterdir():  # tantivy makes some that only their owner can read
                    file.chmod(0o644)
        except (OSError, ValueError) as error:
            raise InputError(f"{folder} could not be written ({error}): searches use SQLite until it is") from None


def open_tantivy(folder: Path, state: str) -> Tantivy | None:
    try:
        return Tantivy(folder) if state_in(folder) == state else None
    except (ImportError, OSError, ValueError):  # not installed, damaged, of another version: SQLite answers
        return None


def state_in(folder: Path) -> str:
    """Which state of which index a tantivy folder holds; "" if there is none."""
    try:
        return (folder / MARK).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _analyzer(library: Any) -> Any:
    builder = library.TextAnalyzerBuilder(library.Tokenizer.simple())
    for part in (library.Filter.lowercase(), library.Filter.ascii_fold(), library.Filter.stemmer("english")):
        builder = builder.filter(part)
    return builder.build()
