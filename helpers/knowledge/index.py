"""An index of passages: what `add` reads, `search` finds again, best first.

One SQLite file holds everything. From LARGE passages on, `add` also writes a folder beside it (`NAME.tantivy`) that
answers in a tenth of the time; without it, or where tantivy is not installed, the file answers by itself.
"""

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from helpers import InputError
from helpers.files import clear_leftovers, project_path
from helpers.knowledge.documents import Deletion, Document, Passage, Rejection
from helpers.knowledge.engines import Tantivy, open_tantivy, search_sqlite, state_in
from helpers.knowledge.importing import Added, Importer
from helpers.knowledge.store import errors_in_one_line, open_to_read, open_to_write

LARGE = 10_000  # passages; FTS5 takes some 40 ms for a vignette in 8,749, and tantivy 3

_PASSAGES = (
    "SELECT d.id, p.text, p.title, d.source, d.licence, d.address FROM passages p JOIN documents d ON d.id = p.document"
)
Source = str | Path | Document | Deletion | Rejection


class Index:
    """The index in the file `path`, which the first `add` makes; a path within the project may be relative to it.

    Any number of processes may search while one adds; threads that share an Index wait for its `add`. A document is
    known by its `source` (a PMID, in all of NLM's files) or, where it has no `version`, by its file and `source`: two
    files may both have a row 1. InputError for a file that is not an index or has another layout.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = project_path(path)
        self.folder = self.path.with_name(self.path.name + ".tantivy")
        self._db: sqlite3.Connection | None = None
        self._tantivy: tuple[str, Tantivy | None] | None = None
        self._lock = threading.RLock()
        self._open()

    def add(self, sources: Source | Iterable[Source]) -> Added:
        """Read files and folders, or documents, into the index; what is there already stays as it is.

        A file with the same name and content is read once. What a changed file no longer holds leaves the index, and so
        does a file that has left its folder (NLM's do not: see Importer.forget). Of a document's versions the greatest
        stays; a deletion outweighs its own version and all before it. Each file is in or out as a whole (above
        importing.TRANSACTION items in parts), so a second call goes on where a killed process ended the first.
        InputError if a source does not exist, another process is adding, or the disk is full.
        """
        given = [sources] if isinstance(sources, Source) else sources
        with self._lock:
            self.close()  # a reading connection would keep SQLite from tidying up behind the writing one
            with open_to_write(self.path) as db:
                importer = Importer(db)
                for item in given:
                    importer.source(item) if isinstance(item, str | Path) else importer.item(item)
                added = importer.finish()
                clear_leftovers(self.folder.parent, self.folder.name)
                (size,) = db.execute("SELECT passages FROM state").fetchone()
                if size >= LARGE and find_spec("tantivy") and state_in(self.folder) != _state_name(db):
                    rows = db.execute("SELECT rowid, title, text FROM passages ORDER BY rowid")
                    Tantivy.build(self.folder, _state_name(db), rows)
            return added

    def search(self, query: str, k: int = 10) -> list[Passage]:
        """At most k passages that have one of the query's words, best first, equals in the order of reading.

        InputError for k below 1.
        """
        if not isinstance(k, int) or k < 1:
            raise InputError(f"k is {k!r}: it has to be 1 or more")
        with self._reading() as db:
            if not db:
                return []
            found = (
                (db.execute(f"{_PASSAGES} WHERE p.rowid = ?", [row]), score) for row, score in self._hits(db, query, k)
            )
            return [_passage(facts.fetchone(), score) for facts, score in found]

    def rows(self) -> tuple[str, list[tuple[int, Passage]]]:
        """The state, and all passages in the order of reading, each with its document's number."""
        with self._reading() as db:
            found = db.execute(f"{_PASSAGES} ORDER BY p.rowid") if db else ()
            return _state_name(db), [(facts[0], _passage(facts)) for facts in found]

    def sources(self) -> set[str]:
        """The names of all documents that have a passage."""
        with self._reading() as db:
            return {name for (name,) in db.execute("SELECT source FROM documents WHERE count > 0")} if db else set()

    @property
    def state(self) -> str:
        """A name for what the index holds: another after each change, "" where there is no index yet."""
        with self._reading() as db:
            return _state_name(db)

    def __len__(self) -> int:
        return self._state("passages")

    @property
    def documents(self) -> int:
        return self._state("documents")

    def close(self) -> None:
        """Close the file; a later call opens it again."""
        with self._lock:
            if self._db is not None:
                self._db.close()
            self._db = self._tantivy = None

    def __enter__(self) -> "Index":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> None:
        if self._db is None and self.path.exists():
            self._db = open_to_read(self.path)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        """One state of the index in the block; None where it is still to be made."""
        with self._lock, errors_in_one_line(self.path):
            self._open()
            if self._db is None or not self._db.execute("SELECT 1 FROM sqlite_master").fetchone():
                yield None
                return
            self._db.execute("BEGIN")
            try:
                yield self._db
            finally:
                self._db.execute("ROLLBACK")

    def _state(self, column: str) -> int:
        with self._reading() as db:
            return db.execute(f"SELECT {column} FROM state").fetchone()[0] if db else 0

    def _hits(self, db: sqlite3.Connection, query: str, limit: int) -> list[tuple[int, float]]:
        limit = min(limit, max(1, db.execute("SELECT passages FROM state").fetchone()[0]))
        state = _state_name(db)
        if self._tantivy is None or self._tantivy[0] != state:
            self._tantivy = (state, open_tantivy(self.folder, state))
        tantivy = self._tantivy[1]
        return tantivy.search(query, limit) if tantivy else search_sqlite(db, query, limit)


def _state_name(db: sqlite3.Connection | None) -> str:
    return "{} {}".format(*db.execute("SELECT identity, changes FROM state").fetchone()) if db else ""


def _passage(facts: Sequence[Any], score: float = 0.0) -> Passage:
    _, text, title, source, licence, address = facts
    return Passage(text, title, source, licence, score, address=address)
