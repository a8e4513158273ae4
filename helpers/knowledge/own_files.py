"""A user's own texts: plain text, Markdown, HTML and PDF."""

import codecs
import io
import logging
import re
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

from markdown_it import MarkdownIt

from helpers.knowledge.documents import Document, Rejection, UnknownKindError, UnreadableError
from helpers.knowledge.html_text import Parts, read_html
from helpers.knowledge.licences import licence_in
from helpers.knowledge.markup import clean, sections
from helpers.sources.tables import brief

MAX_BYTES = 64 << 20
MAX_MARKDOWN = 8 << 20  # of which an honest file takes 24 s, and one of brackets alone 150
MAX_PAGES = 5000
FRONT_MATTER = re.compile(r"---[ \t]*\n(?=[\w-]+:).{0,20000}?\n(?:---|\.\.\.)[ \t]*(?:\n|$)", re.DOTALL)
Read = tuple[Parts, list[Rejection]]  # a file's text, and what of it was lost


def read_own_file(path: Path, root: Path) -> Iterator[Document | Rejection]:
    """One .txt, .md, .html or .pdf as one document, with its headings; `source` is the path below `root`.

    Its licence is the first line of a LICENSE in its folder or in `root`. UnknownKindError for any other suffix.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None and path.is_file():
        suffix = f"suffix {clean(path.suffix)!r}" if path.suffix else "no suffix"
        known = f".jsonl, .xml, .xml.gz, {', '.join(READERS)}"
        raise UnknownKindError(f"is of an unknown kind ({suffix}); read are {known}")
    parts, lost = reader(path, _content(path))
    yield from lost
    found = sections(parts)
    if not found:
        raise UnreadableError("has no text")
    yield Document(source_of(path, root), found, licence_in(path.parent) or licence_in(root))


def source_of(path: Path, root: Path) -> str:
    """The path below `root` with slashes; the name alone where `root` is the file."""
    below = path.relative_to(root) if path != root and path.is_relative_to(root) else Path(path.name)
    # A name that is not UTF-8 has surrogates, which no index takes.
    return clean(below.as_posix().encode("utf-8", "backslashreplace").decode())


def _content(path: Path) -> bytes:
    if not path.is_file():
        lacking = "is a broken link" if path.is_symlink() else "is not there"
        raise UnreadableError("is not a file" if path.exists() else lacking)
    limit = MAX_MARKDOWN if READERS.get(path.suffix.lower()) is _markdown else MAX_BYTES
    if path.stat().st_size > limit:
        raise UnreadableError(f"is larger than {limit >> 20} MiB: cut it into parts")
    content = path.read_bytes()
    if not content.strip():
        raise UnreadableError("is empty")
    return content


def _decode(content: bytes, declared: str = "cp1252") -> str:
    """By its byte order mark; else UTF-8, else what HTML declares, else Windows' western encoding."""
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    for encoding in ["utf-16"] if marked else ["utf-8-sig", declared, "cp1252"]:
        try:
            text = content.decode(encoding)
        except (ValueError, LookupError):
            continue
        if "\0" in text:
            raise UnreadableError("is not text (it has zero bytes)")
        return text.replace("\r\n", "\n").replace("\r", "\n")
    raise UnreadableError("is neither UTF-8, UTF-16 with a byte order mark nor Windows-1252")


def _text(path: Path, content: bytes) -> Read:
    return [((path.stem,), _paragraphs(_decode(content)))], []


def _paragraphs(text: str) -> list[str]:
    return re.split(r"\n[^\S\n]*\n|\f", text)


def _markdown(path: Path, content: bytes) -> Read:
    text = _decode(content)
    front = FRONT_MATTER.match(text)  # CommonMark would take it for a heading
    page = MarkdownIt("commonmark").enable("table").render(text[front.end() :] if front else text)
    return _page(page, path.stem), []


def _html(path: Path, content: bytes) -> Read:
    declared = re.search(rb"<meta[^>]{1,200}charset=[\"']?([\w-]{1,40})", content[:4096])
    return _page(_decode(content, declared[1].decode() if declared else "cp1252"), path.stem), []


def _page(text: str, name: str) -> Parts:
    try:
        return read_html(text, name)
    except (AssertionError, ValueError) as error:  # html.parser gives up on some broken declarations
        raise UnreadableError(f"is broken HTML ({brief(error)})") from None


def _pdf(path: Path, content: bytes) -> Read:
    """A section for each page, under the PDF's title. Pages that cannot be read are lost alone."""
    import pypdf  # slow to import

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # its many warnings say nothing that a user could do
    try:
        reader = pypdf.PdfReader(io.BytesIO(content), strict=False)
        if reader.is_encrypted and not reader.decrypt(""):
            raise pypdf.errors.FileNotDecryptedError
        count = len(reader.pages)
        title = clean(str((reader.metadata or {}).get("/Title") or ""))
    except (pypdf.errors.DependencyError, pypdf.errors.FileNotDecryptedError):  # the first: a cipher not installed
        raise UnreadableError("is encrypted: save it without a password") from None
    except Exception as error:  # of a broken file pypdf raises whatever it trips over
        raise UnreadableError(f"is a broken PDF ({brief(error)})") from None
    if count > MAX_PAGES:
        raise UnreadableError(f"has {count} pages, more than {MAX_PAGES}: cut it into parts")
    pages, lost = [], []
    for number in range(count):
        try:
            text = reader.pages[number].extract_text()
        except Exception as error:  # as above; the other pages are kept
            lost.append(Rejection(f"{path}: page {number + 1}", f"cannot be read ({brief(error)})"))
            continue
        text = re.sub("[ﬀ-ﬆ]", lambda match: unicodedata.normalize("NFKC", match[0]), text)  # ligatures
        text = re.sub(r"(?<=[a-z])-\n(?=[a-z])", "", text)  # a word that is hyphenated at the end of its line
        pages.append(((title or path.stem, f"page {number + 1}"), _paragraphs(text)))
    if not lost and not sections(pages):
        raise UnreadableError("has no text (scanned pages?): run OCR on it")
    return pages, lost


READERS: dict[str, Callable[[Path, bytes], Read]] = {
    ".txt": _text,
    **dict.fromkeys((".md", ".markdown"), _markdown),
    **dict.fromkeys((".html", ".htm"), _html),
    ".pdf": _pdf,
}
