"""Corpora as they come: which files a source has, in reading order, and what each of them says.

A source is a file or a folder: an OpenStax bundle or its modules, NLM's PubMed files, MedQuAD, own texts, or a mix.
"""

import difflib
import os
from collections.abc import Iterator
from pathlib import Path

from helpers import InputError
from helpers.knowledge import cnxml, own_files
from helpers.knowledge.documents import Deletion, Document, Rejection

Found = Document | Deletion | Rejection


def read_documents(source: str | Path) -> Iterator[Found]:
    """Every document, deletion and rejection of a source, file by file in reading order.

    Raises InputError for a path that does not exist, and for a single file of a kind that is not known.
    """
    root = Path(source).expanduser()
    for path in source_files(root):
        yield from read_file(path, root)


def source_files(source: Path) -> list[Path]:
    """The files that a source consists of, in reading order: a book's modules as the book has them, others by name.

    Hidden files, checksums and licences are not among them; files of an unknown kind are, and `read_file` rejects
    them by name. Links are followed once. Raises InputError for a path that does not exist, with the nearest name.
    """
    source = Path(source).expanduser()
    if not source.exists():
        raise InputError(f"{source} does not exist{_nearest(source)}")
    return [source] if not source.is_dir() else list(_walk(source, set()))


def read_file(path: Path, root: Path) -> Iterator[Found]:
    """One of the files of `source_files(root)`, read on its own: nothing of it depends on what was read before.

    A faulty file is a Rejection; only a file that is the whole source (`path == root`) and of an unknown kind raises
    InputError.
    """
    try:
        if path.suffix.lower() == ".cnxml":
            yield from cnxml.read_module(path, path.read_bytes())
        else:
            yield from own_files.read_own_file(path, root)
    except OSError as error:
        yield Rejection(str(path), f"cannot be read: {error.strerror or error}")


def _walk(folder: Path, seen: set[Path]) -> Iterator[Path]:
    real = folder.resolve()
    if real in seen:
        return
    seen.add(real)
    if (folder / "collections").is_dir() and (folder / "modules").is_dir():
        yield from cnxml.module_files(folder)
        return
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(Path(entry.path), seen)
        else:
            yield Path(entry.path)


def _nearest(path: Path) -> str:
    parent = next((p for p in path.absolute().parents if p.is_dir()), Path("/"))
    names = [entry.name for entry in os.scandir(parent)]
    missing = path.absolute().relative_to(parent).parts[0]
    near = difflib.get_close_matches(missing, names, n=1)
    return f"; did you mean {parent / near[0]}?" if near else ""
