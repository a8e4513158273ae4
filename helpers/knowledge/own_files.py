"""A user's own texts: plain text, Markdown, HTML and PDF."""

import codecs
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml

from helpers.knowledge.documents import Document, Rejection
from helpers.knowledge.licences import licence_in, licence_name
from helpers.knowledge.markup import clean, sections
from helpers.knowledge.pdf import PdfError, read_pdf

Parts = list[tuple[tuple[str, ...], list[str]]]
MAX_BYTES = 64 << 20
FRONT = {"title": "title", "licence": "licence", "license": "licence", "address": "address", "url": "address"}
MARKS = {  # UTF-32's first: its mark begins with UTF-16's
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
DROPPED = ("script", "style", "nav", "template", "noscript", "iframe", "svg", "head", "button", "select", "textarea")
BLOCKS = (
    *("address", "article", "aside", "blockquote", "body", "caption", "dd", "details", "div", "dl", "dt", "figcaption"),
    *("figure", "footer", "form", "header", "hr", "li", "main", "ol", "p", "pre", "section", "summary", "table"),
    *("tr", "ul"),
)
HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
BREAK, HEADING, LINE = "\ue001", "\ue002", "\ue003"  # where a block ends, a heading begins, a line breaks


class _UnreadableError(ValueError):
    """Why a file cannot be read, in words that follow its name."""


def read_own_file(path: Path, root: Path) -> Iterator[Document | Rejection]:
    """One .txt, .md, .html or .pdf as one document, with its headings; any other suffix is a Rejection that names it.

    `source` is the path below `root`, with slashes. The licence is the first line of a LICENSE in the file's folder or
    one above it up to `root`; Markdown may give its own between `---` lines, with `title` and `address`.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        yield Rejection(str(path), unknown_kind(path))
        return
    try:
        content = _content(path)
        if reader is _pdf:
            about, parts, lost = _pdf(path, content)
        else:
            (about, parts), lost = reader(path, _decode(content, reader is _html)), []
    except _UnreadableError as error:
        yield Rejection(str(path), str(error))
        return
    yield from lost
    found = sections(parts)
    if not found:
        yield Rejection(str(path), "has no text")
        return
    licence = licence_name(about.get("licence", "")) or licence_above(path, root)
    yield Document(source_of(path, root), found, licence, clean(about.get("address", "")))


def unknown_kind(path: Path) -> str:
    """What is wrong with a file whose suffix is none that is read."""
    suffix = f"suffix {clean(path.suffix)!r}" if path.suffix else "no suffix"
    return f"is of an unknown kind ({suffix}); read are .jsonl, .xml, .xml.gz, {', '.join(READERS)}"


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
        raise _UnreadableError("is not a file" if path.exists() else "is a broken link")
    if path.stat().st_size > MAX_BYTES:
        raise _UnreadableError(f"is larger than {MAX_BYTES >> 20} MiB: cut it into parts")
    content = path.read_bytes()
    if not content.strip():
        raise _UnreadableError("is empty")
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
            raise _UnreadableError("is not text (it has zero bytes)")
        return text.replace("\r\n", "\n").replace("\r", "\n")
    raise _UnreadableError("is neither UTF-8, UTF-16 with a byte order mark nor Windows-1252")


def _text(path: Path, text: str) -> tuple[dict[str, str], Parts]:
    return {}, [((path.stem,), _paragraphs(text))]


def _paragraphs(text: str) -> list[str]:
    return re.split(r"\n[^\S\n]*\n|\f", text)


def _markdown(path: Path, text: str) -> tuple[dict[str, str], Parts]:
    """Headings by # outside code fences, or underlined with === or ---; inline marks and comments left out."""
    about, text = _front_matter(text)
    parts = _Parts(about.get("title") or path.stem)
    fence, lines = "", []
    for line in re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL).split("\n"):
        mark = re.match(r" {0,3}(`{3,}|~{3,})", line)
        if mark and not fence:
            fence = mark[1]
        elif fence and mark and mark[1].startswith(fence) and not line.strip(" `~"):
            fence = ""
        elif fence:
            lines.append(line)
        elif heading := re.match(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#*)?[ \t]*$", line):
            parts.add(lines)
            parts.heading(len(heading[1]), _inline(heading[2] or ""))
            lines = []
        elif (rule := re.match(r" {0,3}(=+|-+)[ \t]*$", line)) and lines and lines[-1].strip():
            title = lines.pop()
            parts.add(lines)
            parts.heading(1 if rule[1][0] == "=" else 2, _inline(title))
            lines = []
        else:
            lines.append(_inline(line))
    parts.add(lines)
    return about, parts.found


class _Parts:
    """Collects paragraphs under the headings that are open."""

    def __init__(self, title: str) -> None:
        self.title, self.open, self.found = title, {}, []

    def heading(self, level: int, text: str) -> None:
        self.open = {above: title for above, title in self.open.items() if above < level} | {level: text}

    def add(self, lines: list[str]) -> None:
        self.found.append(((self.title, *self.open.values()), _paragraphs("\n".join(lines))))


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
    """Without the marks of links, images, emphasis and tables."""
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
    """What a reader of the page sees, by h1 to h6; the cells of a table's row are parted by semicolons."""
    from bs4 import BeautifulSoup, Comment  # slow to import

    text = re.sub(f"[{BREAK}{HEADING}{LINE}]", "", text)
    try:
        soup = BeautifulSoup(text, "html.parser")
    except (AssertionError, ValueError, RecursionError) as error:  # html.parser gives up on some broken declarations
        raise _UnreadableError(f"is broken HTML ({clean(str(error))[:100]})") from None
    title = clean(soup.title.get_text()) if soup.title else ""
    for tag in soup.find_all(lambda tag: tag.name in DROPPED or _hidden(tag)):
        tag.extract()
    for comment in soup.find_all(string=lambda string: isinstance(string, Comment)):
        comment.extract()
    for tag in soup.find_all([*BLOCKS, *HEADINGS, "br", "td", "th"]):
        _mark(tag)
    parts = _Parts(title or path.stem)
    for piece in soup.get_text().split(BREAK):
        level, mark, heading = piece.partition(HEADING)
        if mark:
            parts.heading(int(level.strip() or 1), heading.replace(LINE, " "))
        else:
            line = "; ".join(cell for cell in map(clean, piece.split("\t" + LINE)) if cell)
            parts.found.append(((parts.title, *parts.open.values()), [line.replace(LINE, " ")]))
    return {}, _merged(parts.found)


def _hidden(tag) -> bool:
    style = re.sub(r"\s", "", str(tag.get("style") or "")).lower()
    hidden = tag.has_attr("hidden") or str(tag.get("aria-hidden") or "").lower() == "true"
    return hidden or "display:none" in style or "visibility:hidden" in style


def _mark(tag) -> None:
    if tag.name == "br":
        tag.replace_with(" ")
    elif tag.name in ("td", "th"):
        tag.append("\t" + LINE)
    else:
        tag.insert(0, BREAK + (tag.name[1] + HEADING if tag.name in HEADINGS else ""))
        tag.append(BREAK)


def _merged(parts: Parts) -> Parts:
    """Neighbours under one heading together."""
    merged: Parts = []
    for path, paragraphs in parts:
        if merged and merged[-1][0] == path:
            merged[-1][1].extend(paragraphs)
        else:
            merged.append((path, list(paragraphs)))
    return merged


def _pdf(path: Path, content: bytes) -> tuple[dict[str, str], Parts, list[Rejection]]:
    try:
        title, pages, lost = read_pdf(content)
    except PdfError as error:
        raise _UnreadableError(str(error)) from None
    rejections = [Rejection(f"{path}: page {number}", why) for number, why in lost]
    return {}, [((title or path.stem, *headings), _paragraphs(text)) for headings, text in pages], rejections


READERS: dict[str, Callable] = {
    **dict.fromkeys((".txt",), _text),
    **dict.fromkeys((".md", ".markdown"), _markdown),
    **dict.fromkeys((".html", ".htm"), _html),
    ".pdf": _pdf,
}
