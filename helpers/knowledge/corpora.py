"""Corpora as they come: the files of a source (a file or a folder) in reading order, and what each of them says."""

import gzip
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from helpers import InputError
from helpers.knowledge import cnxml, licences, medquad, own_files, pubmed
from helpers.knowledge.documents import Deletion, Document, Rejection, UnknownKindError, UnreadableError
from helpers.knowledge.markup import root_name, unpacked

Found = Document | Deletion | Rejection
CNXML = "{http://cnx.rice.edu/cnxml}document"
PUBMED = {"PubmedArticleSet", "PubmedBookArticleSet"}


def source_files(source: Path) -> list[Path]:
    """A source's files in reading order: a book's modules as the book has them, others by name; each link once.

    InputError for a missing path.
    """
    if not source.exists():
        raise InputError(f"{source} does not exist")
    return [source] if not source.is_dir() else list(_walk(source, set()))


def read_file(path: Path, root: Path) -> Iterator[Found]:
    """One of the files of `source_files(root)`; its content, not its suffix alone, decides what it is.

    A faulty file is a Rejection; only a whole source (`path == root`) of an unknown kind raises InputError.
    """
    try:
        yield from _reader(path, root)
    except OSError as error:
        yield Rejection(str(path), f"cannot be read: {error.strerror or error}")
    except UnreadableError as error:
        if path == root and isinstance(error, UnknownKindError):
            raise InputError(f"{path} {error}") from None
        yield Rejection(str(path), str(error))


def _reader(path: Path, root: Path) -> Iterator[Found]:
    kind = path.suffix.lower()
    if kind == ".jsonl" and path.is_file():
        return medquad.read_rows(path, own_files.source_of(path, root))
    if kind not in (".xml", ".cnxml", ".gz") or not path.is_file():
        return own_files.read_own_file(path, root)
    with unpacked(path) as handle:
        try:
            name = root_name(handle)
        except (UnreadableError, EOFError, zlib.error, gzip.BadGzipFile):
            # A damaged file of NLM's is reported as such; of any other the reader of small files says what is wrong.
            name = "PubmedArticleSet" if kind == ".gz" or pubmed.file_version(path) else CNXML
    if name in PUBMED:
        return pubmed.read_pubmed(path)
    if name != CNXML or kind == ".gz":
        raise UnknownKindError(f"is XML of an unknown kind: its root is <{name.rpartition('}')[2]}>")
    if path.stat().st_size > own_files.MAX_BYTES:
        raise UnreadableError(f"is larger than {own_files.MAX_BYTES >> 20} MiB")
    return cnxml.read_module(path, path.read_bytes())


def _walk(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """Folders that cannot be opened are given as they are, so that `read_file` says so."""
    try:
        real = folder.resolve()
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        is_bundle = (folder / "collections").is_dir() and (folder / "modules").is_dir()
    except (OSError, RuntimeError):
        yield folder
        return
    if real in seen:
        return
    seen.add(real)
    if is_bundle:
        yield from cnxml.bundle_files(folder)
        return
    files = [Path(entry.path) for entry in entries if not _is_passed_over(entry)]
    for path in sorted(files, key=lambda path: (pubmed.file_version(path), path.name)):
        if os.path.isdir(path):  # Path.is_dir() fails where a link leads into a folder that may not be entered
            yield from _walk(path, seen)
        else:
            yield path


def _is_passed_over(entry: os.DirEntry) -> bool:
    """Hidden files, checksums, licences and what an archive of a Mac holds beside its files."""
    name = entry.name
    return name.startswith((".", "__MACOSX")) or name.endswith(".md5") or bool(licences.FILE.fullmatch(name))
