"""Documents into an index: the newest version of each stays, and a file that is already there is not read again."""

import os
import sqlite3
from collections.abc import Collection
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from helpers.files import fingerprint
from helpers.knowledge.cnxml import bundle_of
from helpers.knowledge.corpora import read_file, source_files
from helpers.knowledge.documents import Deletion, Document, Rejection, passages

TRANSACTION = 50_000  # items: NLM's files have at most 30,000 records, so that each is in or out as a whole
KEPT_REJECTIONS = 300


@dataclass
class Added:
    """What a call of `Index.add` did. `documents` and `passages` are new or replaced; `deleted` are gone.

    `unchanged`: documents that were there with the same text, or newer. `rejected` lists the first KEPT_REJECTIONS
    of `rejections`.
    """

    documents: int = 0
    passages: int = 0
    unchanged: int = 0
    deleted: int = 0
    rejected: list[Rejection] = field(default_factory=list)
    rejections: int = 0


class Importer:
    """One call of `Index.add`: writes to `db`, counts in `added`, commits after every file and TRANSACTION items."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db, self.added = db, Added()
        self.db.execute("BEGIN IMMEDIATE")
        (last,) = db.execute("SELECT coalesce(max(rowid), 0) FROM passages").fetchone()
        self.next_row = last + 1
        self.waiting = 0
        self.documents = self.rows = 0  # change of the two counts since the last commit
        self.changed = False

    def source(self, source: str | Path) -> None:
        root = Path(source).expanduser()
        files = source_files(root)
        for path in files:
            self.file(path, root)
        if root.is_dir():
            self.forget_gone(Path(_where(root)), set(map(_where, files)))

    def file(self, path: Path, root: Path) -> None:
        try:
            content = _content(path)
        except OSError as error:
            self.reject(Rejection(str(path), f"cannot be read: {error.strerror or error}"))
            return
        if self.known(path, content):
            return
        row = self.db.execute(
            "INSERT INTO files (path, content, finished) VALUES (?, ?, 0)"
            " ON CONFLICT (path) DO UPDATE SET content = excluded.content, finished = 0 RETURNING id",
            [_where(path), content],
        )
        (file,) = row.fetchone()
        rejections, found, sources = self.added.rejections, 0, set()
        for item in read_file(path, root):
            self.item(item, file)
            if isinstance(item, Document):
                found += 1
                sources.update([item.source] if not item.version else [])
        left_out = self.added.rejections - rejections
        if not left_out:  # a file that can only be read in part proves nothing gone
            self.forget(file, sources)
        self.db.execute("UPDATE files SET finished = ?, documents = ? WHERE id = ?", [1 + left_out, found, file])
        self.commit()

    def known(self, path: Path, content: str) -> bool:
        """Whether a file's documents are in the index, from here or from where it lay before; counted if so."""
        where = _where(path)
        if self.db.execute("SELECT 1 FROM files WHERE path = ? AND content != ?", [where, content]).fetchone():
            return False
        row = self.db.execute(
            "SELECT id, path, documents, finished FROM files WHERE content = ? AND finished AND documents"
            " ORDER BY path != ?",
            [content, where],
        ).fetchone()
        if not row:
            return False
        file, before, documents, finished = row
        self.added.unchanged += documents
        self.added.rejections += finished - 1
        if before != where and not os.path.exists(before):
            self.db.execute("DELETE FROM files WHERE path = ?", [where])  # an import of it that was interrupted
            self.db.execute("UPDATE files SET path = ? WHERE id = ?", [where, file])
        return True

    def item(self, item: Document | Deletion | Rejection, file: int = 0) -> None:
        if isinstance(item, Rejection):
            self.reject(item)
        elif isinstance(item, Deletion):
            self.delete(item, file)
        else:
            # A version is only given where the source's name is unique everywhere, as a PMID is and a row's id is not.
            self.document(item, 0 if item.version else file)
        self.waiting += 1
        if self.waiting >= TRANSACTION:
            self.commit()

    def document(self, document: Document, space: int) -> None:
        shown = repr((document.sections, document.licence, document.address))
        content = blake2b(shown.encode(), digest_size=16).digest()
        row = self.db.execute(
            "SELECT id, version, content, first, count FROM documents WHERE space = ? AND source = ?",
            [space, document.source],
        ).fetchone()
        if row:
            number, version, before, first, count = row
            gone = first is None
            same = document.version == version and (version if gone else content == before)
            if document.version < version or same:
                self.added.unchanged += 1
                return
            self.drop_passages(first, count)
            self.db.execute("DELETE FROM documents WHERE id = ?", [number])
        self.insert(document, space, content)

    def insert(self, document: Document, space: int, content: bytes) -> None:
        texts = [(passage.title, passage.text) for passage in passages(document)]
        values = [space, document.source, document.version, content, document.licence, document.address]
        cursor = self.db.execute(
            "INSERT INTO documents (space, source, version, content, licence, address, first, count)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [*values, self.next_row, len(texts)],
        )
        rows = [(row, *both, cursor.lastrowid) for row, both in enumerate(texts, self.next_row)]
        self.db.executemany("INSERT INTO passages (rowid, title, text, document) VALUES (?, ?, ?, ?)", rows)
        self.next_row += len(rows)
        self.documents, self.rows = self.documents + 1, self.rows + len(rows)
        self.added.documents, self.added.passages = self.added.documents + 1, self.added.passages + len(rows)
        self.changed = True

    def delete(self, deletion: Deletion, file: int) -> None:
        """Withdraw what has that source and is no newer: by a file, not what other files named."""
        rows = self.db.execute(
            "SELECT id, space, version, first, count FROM documents"
            " WHERE source = ?1 AND (?2 = 0 OR space IN (0, ?2)) ORDER BY id",
            [deletion.source, file],
        ).fetchall()
        for number, _, version, first, count in rows:
            as_of = deletion.version or version  # without a version: as of what there is now
            if as_of >= version:
                self.added.deleted += first is not None
                self.drop_passages(first, count)
                self.db.execute(
                    "UPDATE documents SET version = ?, content = NULL, first = NULL, count = 0 WHERE id = ?",
                    [as_of, number],
                )
        if deletion.version and not any(space == 0 for _, space, *_ in rows):
            self.db.execute(
                "INSERT INTO documents (space, source, version, count) VALUES (0, ?, ?, 0)",
                [deletion.source, deletion.version],
            )

    def drop_passages(self, first: int | None, count: int) -> None:
        if first is not None:
            self.db.execute("DELETE FROM passages WHERE rowid BETWEEN ? AND ?", [first, first + count - 1])
            self.documents, self.rows, self.changed = self.documents - 1, self.rows - count, True

    def forget(self, file: int, kept: Collection[str] = ()) -> None:
        """Remove the file's documents that are not `kept`.

        Not what has a version: NLM's files may be removed once they are read, and only deletions withdraw records.
        """
        rows = self.db.execute(
            "SELECT id, source, first, count FROM documents WHERE space = ? AND first IS NOT NULL", [file]
        ).fetchall()
        for number, source, first, count in rows:
            if source not in kept:
                self.drop_passages(first, count)
                self.db.execute("DELETE FROM documents WHERE id = ?", [number])
                self.added.deleted += 1

    def forget_gone(self, folder: Path, there: set[str]) -> None:
        """Remove what files of the folder gave that are not `there` now."""
        for file, where in self.db.execute("SELECT id, path FROM files").fetchall():
            if where not in there and Path(where).is_relative_to(folder):
                self.forget(file)
                self.db.execute("DELETE FROM files WHERE id = ?", [file])

    def reject(self, rejection: Rejection) -> None:
        self.added.rejections += 1
        if len(self.added.rejected) < KEPT_REJECTIONS:
            self.added.rejected.append(rejection)

    def commit(self) -> None:
        """What was read so far is in the index from here on, whatever happens to this process."""
        self.db.execute(
            "UPDATE state SET changes = changes + ?, documents = documents + ?, passages = passages + ?",
            [self.changed, self.documents, self.rows],
        )
        self.db.execute("COMMIT")
        self.waiting = self.documents = self.rows = 0
        self.changed = False
        self.db.execute("BEGIN IMMEDIATE")

    def finish(self) -> Added:
        self.commit()
        self.db.execute("COMMIT")
        return self.added


def _where(path: Path) -> str:
    real = os.path.realpath(path)  # resolve() fails for links in a circle
    return real.encode(errors="backslashreplace").decode()  # a name need not be UTF-8


def _content(path: Path) -> str:
    """What a file's documents depend on: its name and bytes, and for a module also the books that have it."""
    bundle = bundle_of(path) if path.suffix.lower() == ".cnxml" else None
    # A link beside what it leads to is the same file: by their two names each would replace the other at every import.
    return fingerprint(Path(os.path.realpath(path)), *(sorted(bundle.glob("collections/*.xml")) if bundle else []))
