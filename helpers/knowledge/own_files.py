"""A user's own texts: plain text, Markdown, HTML and PDF."""

import codecs
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml

from helpers.knowledge.documents import Document, Rejection, UnknownKindError, UnreadableError
from helpers.knowledge.html_text import Outline, Parts, read_html, without_comments
from helpers.knowledge.licences import licence_in, licence_name
from helpers.knowledge.markup import clean, sections
from helpers.knowledge.pdf import read_pdf

MAX_BYTES = 64 << 20
FRONT = {"title": "title", "licence": "licence", "license": "licence", "address": "address", "url": "address"}
MARKS = {  # UTF-32's first: its mark begins with UTF-16's
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_own_file(path: Path, root: Path) -> Iterator[Document | Rejection]:
    """One .txt, .md, .html or .pdf as one document, with its headings.

    `source` is the path below `root`, with slashes. The licence is the first line of a LICENSE in the file's folder or
    one above it up to `root`; Markdown may give its own between `---` lines, with `title` and `address`.
    Raises UnreadableError, UnknownKindError for any other suffix.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None and path.is_file():
        suffix = f"suffix {clean(path.suffix)!r}" if path.suffix else "no suffix"
        known = f".jsonl, .xml, .xml.gz, {', '.join(READERS)}"
        raise UnknownKindError(f"is of an unknown kind ({suffix}); read are {known}")
    content = _content(path)
    if reader is _pdf:
        about, parts, lost = _pdf(path, content)
    else:
        (about, parts), lost = reader(path, _decode(content, reader is _html)), []
    yield from lost
    found = sections(parts)
    if not found:
        raise UnreadableError("has no text")
    licence = licence_name(about.get("licence", "")) or licence_above(path, root)
    yield Document(source_of(path, root), found, licence, clean(about.get("address", "")))


def source_of(path: Path, root: Path) -> str:
    """The path below `root` with slashes; the name alone where `root` is the file."""
    below = path.relative_to(root) if path != root and path.is_relative_to(root) else Path(path.name)
    # A name that is not UTF-8 has surrogates, which no index takes.
    return clean(below.as_posix().encode("utf-8", "backslashreplace").decode())


def licence_above(path: Path, root: Path) -> str:
    """The licence in the file's folder, or in the nearest one above it up to `root`."""
    for folder in path.parents:
        if licence := licence_in(folder):
            return licence
        if folder in (root, root.parent):
            break
    return ""


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise UnreadableError("is not a file" if path.exists() else "is a broken link")
    if path.stat().st_size > MAX_BYTES:
        raise UnreadableError(f"is larger than {MAX_BYTES >> 20} MiB: cut it into parts")
    content = path.read_bytes()
    if not content.strip():
        raise UnreadableError("is empty")
    return content


def _decode(content: bytes, is_html: bool) -> str:
    """By its byte order mark; else UTF-8, else what HTML declares, else Windows' western encoding."""
    marked = next((name for mark, name in MARKS.items() if content.startswith(mark)), None)
    declared = re.search(rb"<meta[^>]{1,200}charset=[\"']?([\w-]{1,40})", content[:4096]) if is_html else None
    for encoding in [marked] if marked else ["utf-8", declared[1].decode() if declared else "cp1252", "cp1252"]:
        try:
            text = content.decode(encoding)
        except (ValueError, LookupError):
            continue
        if "\0" in text:
            raise UnreadableError("is not text (it has zero bytes)")
        return text.replace("\r\n", "\n").replace("\r", "\n")
    raise UnreadableError("is neither UTF-8, UTF-16 with a byte order mark nor Windows-1252")


def _text(path: Path, text: str) -> tuple[dict[str, str], Parts]:
    return {}, [((path.stem,), _paragraphs(text))]


def _paragraphs(text: str) -> list[str]:
    return re.split(r"\n[^\S\n]*\n|\f", text)


def _markdown(path: Path, text: str) -> tuple[dict[str, str], Parts]:
    """Headings by # outside code fences, or underlined with === or ---; inline marks and comments left out."""
    about, text = _front_matter(text)
    parts = Outline(about.get("title") or path.stem)
    fence, lines = "", []
    for line in without_comments(text).split("\n"):
        mark = re.match(r" {0,3}(`{3,}|~{3,})", line)
        if mark and not fence:
            fence = mark[1]
        elif fence and mark and mark[1].startswith(fence) and not line.strip(" `~"):
            fence = ""
        elif fence:
            lines.append(line)
        elif heading := re.match(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#*)?[ \t]*$", line):
            parts.add(_paragraphs("\n".join(lines)))
            parts.heading(len(heading[1]), _inline(heading[2] or ""))
            lines = []
        elif (rule := re.match(r" {0,3}(=+|-+)[ \t]*$", line)) and lines and lines[-1].strip():
            title = lines.pop()
            parts.add(_paragraphs("\n".join(lines)))
            parts.heading(1 if rule[1][0] == "=" else 2, _inline(title))
            lines = []
        else:
            lines.append(_inline(line))
    parts.add(_paragraphs("\n".join(lines)))
    return about, parts.found


def _front_matter(text: str) -> tuple[dict[str, str], str]:
    """What stands between `---` lines at the top, as far as FRONT names it, and the text after it."""
    match = re.match(r"---[ \t]*\n(.{0,20000}?)\n(?:---|\.\.\.)[ \t]*(?:\n|$)", text, re.DOTALL)
    try:
        values = yaml.safe_load(match[1]) if match else None
    except (yaml.YAMLError, ValueError, RecursionError):
        values = None
    if not match or not isinstance(values, dict):
        return {}, text
    named = {FRONT[key]: value for key, value in values.items() if isinstance(key, str) and key in FRONT}
    return {key: str(value) for key, value in named.items() if isinstance(value, str | int | float)}, text[
        match.end() :
    ]


def _inline(line: str) -> str:
    """Without the marks of links, images, emphasis and tables; a line too long to be prose as it is."""
    if len(line) > 5000:
        return line
    line = re.sub(r"!?\[([^\[\]]*)\]\([^()\s]*(?:\s+\"[^\"]*\")?\)", r"\1", line)
    line = re.sub(r"(\*\*|__|``?)(?=\S)(.+?)(?<=\S)\1", r"\2", line)
    line = re.sub(r"(?<![\w*])([*_])(?=[^\s*_])([^*_]+)(?<=\S)\1(?![\w*])", r"\2", line)
    if line.strip().startswith("|"):
        line = (
            "" if not re.search(r"[^|:\-\s]", line) else "; ".join(cell.strip() for cell in line.strip(" |").split("|"))
        )
        return f"\n{line}\n"
    return line


def _html(path: Path, text: str) -> tuple[dict[str, str], Parts]:
    try:
        return {}, read_html(text, path.stem)
    except (AssertionError, ValueError) as error:  # html.parser gives up on some broken declarations
        raise UnreadableError(f"is broken HTML ({clean(str(error))[:100]})") from None


def _pdf(path: Path, content: bytes) -> tuple[dict[str, str], Parts, list[Rejection]]:
    title, pages, lost = read_pdf(content)
    rejections = [Rejection(f"{path}: page {number}", why) for number, why in lost]
    return {}, [((title or path.stem, *headings), _paragraphs(text)) for headings, text in pages], rejections


READERS: dict[str, Callable] = {
    **dict.fromkeys((".txt",), _text),
    **dict.fromkeys((".md", ".markdown"), _markdown),
    **dict.fromkeys((".html", ".htm"), _html),
    ".pdf": _pdf,
}
