"""A user's own texts: plain text, Markdown, HTML and PDF."""

from collections.abc import Iterator
from pathlib import Path

from helpers.knowledge.documents import Document, Rejection
from helpers.knowledge.markup import sections


def read_own_file(path: Path, root: Path) -> Iterator[Document | Rejection]:
    """One file as one document; its `source` is its path below `root`."""
    name = path.relative_to(root).as_posix() if path != root else path.name
    if path.suffix.lower() not in (".txt", ".md"):
        yield Rejection(str(path), f"is of an unknown kind ({path.suffix or 'no suffix'})")
        return
    paragraphs = path.read_text(encoding="utf-8", errors="replace").split("\n\n")
    yield Document(name, sections([((path.stem,), paragraphs)]))
