"""Documents into an index: the newest version of each stays, and a file that is already there is not read again."""

import re
import sqlite3
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from helpers.files import fingerprint
from helpers.knowledge.cnxml import bundle_of
from helpers.knowledge.corpora import read_file, source_files
from helpers.knowledge.documents import Deletion, Document, Rejection, passages

TRANSACTION = 50_000  # items: NLM's files have at most 30,000 records, so that each is in or out as a whole
KEPT_REJECTIONS = 300
NO_TEXT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters, halves of surrogate pairs


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
        """A file or a folder. Raises InputError if it does not exist."""
        root = Path(source).expanduser()
        files = source_files(root)
        for path in files:
            self.file(path, root)
        if root.is_dir():
            self.forget_gone(root.resolve(), set(map(_where, files)))

    def file(self, path: Path, root: Path) -> None:
        """One file, from where an interrupted import of the same content stopped; not at all if it is there."""
        try:
            content = _content(path)
        except OSError as error:
            self.reject(Rejection(str(path), f"cannot be read: {error.strerror or error}"))
            return
        if known := self.known(path, content):
            self.added.unchanged += known
            return
        file, edition, done = self.begin(path, content)
        rejections, found, number = self.added.rejections, 0, -1
        for number, item in enumerate(read_file(path, root)):
            found += isinstance(item, Document)
            if number >= done or isinstance(item, Rejection):
                self.item(item, file, edition)
            else:
                self.added.unchanged += isinstance(item, Document)
            if self.waiting >= TRANSACTION:
                self.db.execute("UPDATE files SET done = ? WHERE id = ?", [number + 1, file])
                self.commit()
        if edition and rejections == self.added.rejections:  # a file that can only be read in part proves nothing gone
            self.forget_older(file, edition)
        self.db.execute(
            "UPDATE files SET done = ?, finished = 1, documents = ? WHERE id = ?", [number + 1, found, file]
        )
        self.commit()

    def known(self, path: Path, content: str) -> int:
        """How many documents a file gave that is in the index with this content, here or where it lay before."""
        where = _where(path)
        if self.db.execute("SELECT 1 FROM files WHERE path = ? AND content != ?", [where, content]).fetchone():
            return 0
        rows = self.db.execute(
            "SELECT id, path, documents FROM files WHERE content = ? AND finished ORDER BY path != ?", [content, where]
        ).fetchall()
        if not rows:
            return 0
        file, before, documents = rows[0]
        if before != where and not Path(before).exists():
            self.db.execute("DELETE FROM files WHERE path = ?", [where])  # an import of it that was interrupted
            self.db.execute("UPDATE files SET path = ? WHERE id = ?", [where, file])
        return documents

    def begin(self, path: Path, content: str) -> tuple[int, int, int]:
        """The file's id, its edition, and how many of its items are in the index."""
        where = _where(path)
        row = self.db.execute("SELECT id, content, edition, done FROM files WHERE path = ?", [where]).fetchone()
        if row is None:
            cursor = self.db.execute("INSERT INTO files VALUES (NULL, ?, ?, 0, 0, 0, 0)", [where, content])
            return cursor.lastrowid or 0, 0, 0
        file, before, edition, done = row
        if before == content:
            return file, edition, done
        self.db.execute(
            "UPDATE files SET content = ?, edition = ?, done = 0, finished = 0 WHERE id = ?",
            [content, edition + 1, file],
        )
        return file, edition + 1, 0

    def loose(self, item: Document | Deletion | Rejection) -> None:
        """One that comes without a file."""
        self.item(item)
        if self.waiting >= TRANSACTION:
            self.commit()

    def item(self, item: Document | Deletion | Rejection, file: int = 0, edition: int = 0) -> None:
        """One of a stream. Raises TypeError for anything else."""
        if isinstance(item, Rejection):
            self.reject(item)
            return
        if not isinstance(item, Document | Deletion):
            raise TypeError(f"{type(item).__name__} is neither a path nor a Document, Deletion or Rejection")
        if isinstance(item, Deletion):
            self.delete(item, file, edition)
        else:
            # A version is only given where the source's name is unique everywhere, as a PMID is and a row's id is not.
            self.document(item, 0 if item.version else file, file, edition)
        self.waiting += 1

    def document(self, document: Document, space: int, file: int, edition: int) -> None:
        content = _digest(document)
        row = self.db.execute(
            "SELECT id, version, content, first, count FROM documents WHERE space = ? AND source = ?",
            [space, clean(document.source)],
        ).fetchone()
        if row:
            number, version, before, first, count = row
            gone = first is None
            if document.version < version or (gone and version and document.version == version):
                self.added.unchanged += 1
                return
            if document.version == version and content == before and not gone:
                self.db.execute(
                    "UPDATE documents SET file = ?1, edition = ?2 WHERE id = ?3 AND (file, edition) != (?1, ?2)",
                    [file, edition, number],
                )
                self.added.unchanged += 1
                return
            self.drop_passages(first, count)
            self.db.execute("DELETE FROM documents WHERE id = ?", [number])
        self.insert(document, space, content, file, edition)

    def insert(self, document: Document, space: int, content: bytes, file: int, edition: int) -> None:
        first, texts = self.next_row, list(_texts(document))
        values = [space, clean(document.source), clean(document.version), content, clean(document.licence)]
        cursor = self.db.execute(
            "INSERT INTO documents VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [*values, clean(document.address), first, len(texts), file, edition],
        )
        rows = [(first + k, *both, cursor.lastrowid) for k, both in enumerate(texts)]
        self.db.executemany("INSERT INTO passages (rowid, title, text, document) VALUES (?, ?, ?, ?)", rows)
        self.next_row += len(rows)
        self.documents, self.rows = self.documents + 1, self.rows + len(rows)
        self.added.documents, self.added.passages = self.added.documents + 1, self.added.passages + len(rows)
        self.changed = True

    def delete(self, deletion: Deletion, file: int, edition: int) -> None:
        """Withdraw what has that source and is no newer: all of it, or by a file's deletion not what other files named.

        A deletion without a version is as of what there is now.
        """
        rows = self.db.execute(
            "SELECT id, space, version, first, count FROM documents"
            " WHERE source = ?1 AND (?2 = 0 OR space IN (0, ?2)) ORDER BY id",
            [clean(deletion.source), file],
        ).fetchall()
        for number, _, version, first, count in rows:
            as_of = clean(deletion.version) or version
            if as_of >= version:
                self.added.deleted += first is not None
                self.drop_passages(first, count)
                self.db.execute(
                    "UPDATE documents SET version = ?, content = NULL, first = NULL, count = 0 WHERE id = ?",
                    [as_of, number],
                )
        if deletion.version and not any(space == 0 for _, space, *_ in rows):
            self.db.execute(
                "INSERT INTO documents VALUES (NULL, 0, ?, ?, NULL, '', '', NULL, 0, ?, ?)",
                [clean(deletion.source), clean(deletion.version), file, edition],
            )

    def drop_passages(self, first: int | None, count: int) -> None:
        if first is not None:
            self.db.execute("DELETE FROM passages WHERE rowid BETWEEN ? AND ?", [first, first + count - 1])
            self.documents, self.rows, self.changed = self.documents - 1, self.rows - count, True

    def forget_older(self, file: int, edition: int) -> None:
        """Remove what an earlier content of the file gave and this one does not."""
        rows = self.db.execute(
            "SELECT id, first, count FROM documents WHERE file = ? AND edition < ? AND first IS NOT NULL",
            [file, edition],
        ).fetchall()
        for number, first, count in rows:
            self.drop_passages(first, count)
            self.db.execute("DELETE FROM documents WHERE id = ?", [number])
        self.added.deleted += len(rows)

    def forget_gone(self, folder: Path, there: set[str]) -> None:
        """Remove what files of the folder gave that are not `there` now.

        Not what has a version: NLM's files may be removed once they are read, and only deletions withdraw records.
        """
        plain = "NOT EXISTS (SELECT 1 FROM documents WHERE file = files.id AND version != '')"
        for file, where in self.db.execute(f"SELECT id, path FROM files WHERE {plain}").fetchall():
            if where not in there and Path(where).is_relative_to(folder):
                self.forget_older(file, sys.maxsize)
                self.db.execute("DELETE FROM files WHERE id = ?", [file])

    def reject(self, rejection: Rejection) -> None:
        self.added.rejections += 1
        if len(self.added.rejected) < KEPT_REJECTIONS:
            self.added.rejected.append(rejection)

    def commit(self) -> None:
        """What was read so far is in the index from here on, whatever happens to this process."""
        self.db.execute(
            "UPDATE state SET changes = changes + ?, documents = documents + ?, passages = passages + ?,"
            " stale = stale OR ?",
            [self.changed, self.documents, self.rows, self.changed],
        )
        self.db.execute("COMMIT")
        self.waiting = self.documents = self.rows = 0
        self.changed = False
        self.db.execute("BEGIN IMMEDIATE")

    def finish(self) -> Added:
        """Commit, and count in how many passages each term is: from that a search knows a long query's rarest words."""
        self.commit()
        if self.db.execute("SELECT stale FROM state").fetchone()[0]:
            self.db.execute("DELETE FROM frequencies")
            self.db.execute("INSERT INTO frequencies SELECT term, doc FROM vocabulary")
            self.db.execute("UPDATE state SET stale = 0")
        self.db.execute("COMMIT")
        return self.added


def clean(text: str) -> str:
    """Without what is no text: control characters become spaces, and so do halves of surrogate pairs."""
    return NO_TEXT.sub(" ", text)


def _where(path: Path) -> str:
    return clean(str(path.resolve()))


def _texts(document: Document) -> Iterator[tuple[str, str]]:
    for passage in passages(document):
        title, text = clean(passage.title).strip(), clean(passage.text).strip()
        if text:
            yield title, text


def _digest(document: Document) -> bytes:
    shown = repr((document.sections, document.licence, document.address))  # repr: also of lone surrogates
    return blake2b(shown.encode(), digest_size=16).digest()


def _content(path: Path) -> str:
    """What a file's documents depend on: its name and bytes, and for a module also the books that have it."""
    bundle = bundle_of(path) if path.suffix.lower() == ".cnxml" else None
    return fingerprint(path, *(sorted(bundle.glob("collections/*.xml")) if bundle else []))
