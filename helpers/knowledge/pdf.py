"""The text of a PDF, page by page, under its outline."""

import io
import logging
import re
import unicodedata
from typing import Any

from helpers.knowledge.documents import UnreadableError
from helpers.knowledge.markup import clean

MAX_PAGES = 5000
Pages = list[tuple[tuple[str, ...], str]]


def read_pdf(content: bytes) -> tuple[str, Pages, list[tuple[int, str]]]:
    """Title ("" if it has none), ((outline titles..., 'page 3'), text) for each page, and (page, why) of lost pages.

    Raises UnreadableError for a file that is broken, encrypted, without text, or of more than MAX_PAGES pages.
    """
    import pypdf  # slow to import

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # its many warnings say nothing that a user could do
    try:
        reader = pypdf.PdfReader(io.BytesIO(content), strict=False)
        if reader.is_encrypted and not reader.decrypt(""):
            raise UnreadableError("is encrypted: save it without a password")
        count = len(reader.pages)
    except UnreadableError:
        raise
    except pypdf.errors.DependencyError:
        raise UnreadableError("is encrypted: save it without a password") from None
    except Exception as error:  # of a broken file pypdf raises whatever it trips over
        raise UnreadableError(f"is a broken PDF ({_brief(error)})") from None
    if count > MAX_PAGES:
        raise UnreadableError(f"has {count} pages, more than {MAX_PAGES}: cut it into parts")
    outline, pages, lost = _outline(reader), [], []
    for number in range(count):
        try:
            text = _tidy(reader.pages[number].extract_text())
        except Exception as error:  # as above; the other pages are kept
            lost.append((number + 1, f"cannot be read ({_brief(error)})"))
            continue
        pages.append(((*_headings(outline, number), f"page {number + 1}"), text))
    if not any(text.strip() for _, text in pages):
        raise UnreadableError(
            "is a broken PDF: no page can be read" if lost else "has no text (scanned pages?): run OCR on it"
        )
    return _title(reader), pages, lost


def _brief(error: BaseException) -> str:
    return clean(str(error))[:100] or type(error).__name__


def _title(reader: Any) -> str:
    try:
        return clean(str((reader.metadata or {}).get("/Title") or ""))
    except Exception:  # broken metadata
        return ""


def _tidy(text: str) -> str:
    """Ligatures as letters; a word that is hyphenated at the end of its line in one piece."""
    text = re.sub("[ﬀ-ﬆ]", lambda match: unicodedata.normalize("NFKC", match[0]), text)
    return re.sub(r"(?<=[a-z])-\n(?=[a-z])", "", text)


def _outline(reader: Any) -> list[tuple[int, tuple[str, ...]]]:
    """(page, titles down to it) of each entry, in order; empty if the outline is missing or broken."""
    found: list[tuple[int, tuple[str, ...]]] = []

    def walk(entries: list[Any], path: tuple[str, ...]) -> None:
        below = path
        for entry in entries:
            if isinstance(entry, list):
                walk(entry, below)
                continue
            below = (*path, clean(str(entry.title or "")))
            page = reader.get_destination_page_number(entry)
            if page is not None and page >= 0:
                found.append((page, below))

    try:
        walk(reader.outline, ())
    except Exception:  # an outline that is broken: pages have their numbers
        return []
    return sorted(found, key=lambda entry: entry[0])


def _headings(outline: list[tuple[int, tuple[str, ...]]], page: int) -> tuple[str, ...]:
    """The first entry that begins on the page, else the last one before it."""
    for start, path in outline:
        if start == page:
            return path
    return next((path for start, path in reversed(outline) if start < page), ())
