"""The SQLite file of an index: its layout, opening it to read or to write, and its errors in one line each."""

import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from helpers import InputError
from helpers.files import locked

APPLICATION = 0x41494458  # "AIDX", in the header of the file
LAYOUT = 1
TOKENIZER = "porter unicode61 remove_diacritics 2"

# A document's passages are the rows `first` to `first + count - 1`; `first` is NULL for one that is withdrawn, whose
# row stays so that no older version brings it back. `space` is 0 for a source that is unique everywhere, else the file
# that it is unique in. `finished` is 0 until a file is read to its end, then 1 and the number of parts left out.
SCHEMA = f"""
CREATE TABLE state (identity TEXT, changes INTEGER, documents INTEGER, passages INTEGER);
CREATE TABLE files (id INTEGER PRIMARY KEY, path TEXT UNIQUE, content TEXT, finished INTEGER, documents INTEGER);
CREATE INDEX files_by_content ON files (content);
CREATE TABLE documents (id INTEGER PRIMARY KEY, space INTEGER, source TEXT, version TEXT, content BLOB, licence TEXT,
    address TEXT, first INTEGER, count INTEGER, UNIQUE (source, space));
CREATE INDEX documents_by_space ON documents (space);
CREATE VIRTUAL TABLE passages USING fts5 (title, text, document UNINDEXED, tokenize = '{TOKENIZER}');
CREATE VIRTUAL TABLE vocabulary USING fts5vocab (passages, row);
INSERT INTO passages (passages, rank) VALUES ('hashsize', 33554432);
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {LAYOUT};
"""


@contextmanager
def errors_in_one_line(path: Path) -> Iterator[None]:
    """SQLite's and the system's errors in the block as InputError."""
    try:
        yield
    except sqlite3.Error as error:
        raise InputError(f"the index {path}: {error}") from None
    except OSError as error:
        raise InputError(f"the index {path}: {error}") from None  # which names the file


def open_to_read(path: Path) -> sqlite3.Connection:
    """A connection that writes nothing but what ends a killed process's half done work. InputError: not an index."""
    with errors_in_one_line(path):
        return _checked(_connect(path, "mode=rw"), path)  # read-only where the file cannot be written to


@contextmanager
def open_to_write(path: Path) -> Iterator[sqlite3.Connection]:
    """The connection of the one process that may write; what the block did not commit is undone.

    A new or empty file gets the layout. InputError if another process writes, or for another kind of file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with errors_in_one_line(path), _write_lock(path):
        db = _connect(path, "mode=rwc")
        try:
            if not path.stat().st_size:
                db.executescript(f"BEGIN IMMEDIATE;{SCHEMA}")
                db.execute("INSERT INTO state VALUES (?, 0, 0, 0)", [secrets.token_hex(8)])
                db.execute("COMMIT")
            _checked(db, path)
            with suppress(sqlite3.OperationalError):  # on some network drives readers wait for each commit
                db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("PRAGMA cache_size = -65536")  # 64 MiB
            yield db
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")
            with suppress(sqlite3.OperationalError):  # a reader keeps it from that; then the next writer does it
                db.execute("PRAGMA busy_timeout = 0")
                db.execute("PRAGMA wal_checkpoint (TRUNCATE)")
                db.execute("PRAGMA journal_mode = DELETE")  # one file at rest, which a read-only medium can hold
            db.close()


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise InputError(f"the index {path}: it is not a file")
    # The index's own lock lets one thread at a time in; transactions are begun by hand.
    return sqlite3.connect(
        f"{path.resolve().as_uri()}?{mode}", uri=True, timeout=10, isolation_level=None, check_same_thread=False
    )


def _checked(db: sqlite3.Connection, path: Path) -> sqlite3.Connection:
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (layout,) = db.execute("PRAGMA user_version").fetchone()
    if (application, layout) != (APPLICATION, LAYOUT) and path.stat().st_size:
        db.close()
        why = "it is not an index"
        if application == APPLICATION:
            why = f"it has layout {layout}, this version reads {LAYOUT}: delete it and build it again"
        raise InputError(f"the index {path}: {why}")
    return db


@contextmanager
def _write_lock(path: Path) -> Iterator[None]:
    # Not the file itself: closing a second handle on it would release the locks that SQLite holds in this process.
    folder = path.with_name(f".{path.name}.lock")
    folder.mkdir(exist_ok=True)
    try:
        with locked(folder):
            try:
                yield
            finally:
                folder.rmdir()
    except BlockingIOError:
        raise InputError(f"the index {path}: another process is adding to it: wait until that has ended") from None
