"""PubMed citations as NLM ships them (baseline and update files) and as E-utilities return them."""

import gzip
import hashlib
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

from helpers.knowledge.documents import Deletion, Document, Rejection, UnreadableError
from helpers.knowledge.markup import clean, inline_text, local, sections, stream, unpacked

LICENCE = "NLM citation record; abstracts may be their publishers'"
NUMBER = re.compile(r"pubmed(\d{2})n(\d{4,})\.xml", re.IGNORECASE)
RECORDS = {"PubmedArticle", "PubmedBookArticle", "DeleteCitation"}


def file_version(path: Path) -> str:
    """`pubmed26n001334` for pubmed26n1334.xml.gz, so that a later file sorts later; "" for any other name."""
    match = NUMBER.match(path.name)
    return f"pubmed{match[1]}n{int(match[2]):06}" if match else ""


def read_pubmed(path: Path) -> Iterator[Document | Deletion | Rejection]:
    """The records of one .xml or .xml.gz file, one at a time in memory.

    Versions sort by file, then by the PMID's own version; without a file number by DateRevised, which sorts before any
    file: a record of NLM's files outranks a fetched one. A file that does not fit the .md5 beside it is one Rejection.
    """
    if not _fits_md5(path):
        yield Rejection(str(path), f"does not have the MD5 of {path.name}.md5: download it again")
        return
    version = file_version(path)
    try:
        with unpacked(path) as handle:
            for element in stream(handle, lambda element, depth: depth == 1 and local(element) in RECORDS):
                yield from _record(element, version, path)
    except (UnreadableError, zlib.error, EOFError, gzip.BadGzipFile) as error:
        yield Rejection(str(path), f"{error}; the records before that are kept")


def _fits_md5(path: Path) -> bool:
    """Whether the digest beside the file is its own: NLM's `MD5(name)= digest`, or md5sum's `digest name`."""
    beside = path.with_name(path.name + ".md5")
    given = beside.read_text(encoding="utf-8", errors="replace")[:4096] if beside.is_file() else ""
    expected = re.search(r"\b[0-9a-fA-F]{32}\b", given)
    with open(path, "rb") as handle:
        digest = hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)) if expected else None
    return not expected or expected[0].lower() == digest.hexdigest()


def _record(element: Element, version: str, path: Path) -> Iterator[Document | Deletion | Rejection]:
    if local(element) == "DeleteCitation":
        for pmid in element.iter("PMID"):
            if name := _digits(pmid.text):
                yield Deletion(name, f"{version}.999" if version else "")
        return
    citation = element.find("MedlineCitation" if local(element) == "PubmedArticle" else "BookDocument")
    if citation is None or not (name := _digits(citation.findtext("PMID"))):
        yield Rejection(str(path), f"a {local(element)} has no PMID")
        return
    title = _title(citation)
    paragraphs = _abstract(citation)
    if not title and not paragraphs:
        yield Rejection(f"{path}: PMID {name}", "has neither a title nor an abstract")
        return
    own = f"{version or _date(citation)}.{int(_digits(citation.find('PMID').get('Version')) or 1):03}"
    found = sections([((_marked(title, citation) or f"PMID {name}",), paragraphs or [title])])
    copyright_line = clean(_text(citation.find(".//CopyrightInformation")))
    yield Document(name, found, copyright_line or LICENCE, f"https://pubmed.ncbi.nlm.nih.gov/{name}/", own)


def _digits(text: str | None) -> str:
    """The text if it is a number of at most 12 ASCII digits, else ""."""
    return match[1] if (match := re.fullmatch(r"\s*0*([1-9][0-9]{0,11})\s*", text or "")) else ""


def _date(citation: Element) -> str:
    """DateRevised as 2026-01-31; "0000-00-00" where there is none."""
    parts = [_digits(citation.findtext(f"DateRevised/{name}")) for name in ("Year", "Month", "Day")]
    return "-".join(part.zfill(width) for part, width in zip(parts, (4, 2, 2), strict=True))


def _text(element: Element | None) -> str:
    return inline_text(element) if element is not None else ""


def _title(citation: Element) -> str:
    names = (".//ArticleTitle", "Book/BookTitle", ".//VernacularTitle")
    return next(filter(None, (clean(_text(citation.find(name))) for name in names)), "")


def _marked(title: str, citation: Element) -> str:
    """'Retracted: ' before the title of a retracted article, if it does not say so itself."""
    kinds = {kind.text for kind in citation.iter("PublicationType")}
    notes = {note.get("RefType") for note in citation.iter("CommentsCorrections")}
    retracted = "Retracted Publication" in kinds or "RetractionIn" in notes
    return f"Retracted: {title}" if retracted and not re.match(r"\W*retracted\b", title, re.IGNORECASE) else title


def _abstract(citation: Element) -> list[str]:
    """'LABEL: text' by part; without an Abstract the first other abstract in English."""
    others = [other for other in citation.findall("OtherAbstract") if (other.get("Language") or "eng") == "eng"]
    for abstract in [*citation.iterfind(".//Abstract"), *others]:
        parts = [_part(part) for part in abstract.iterfind("AbstractText")]
        if any(parts):
            return [part for part in parts if part]
    return []


def _part(part: Element) -> str:
    text, label = clean(inline_text(part)), clean(part.get("Label") or "")
    return f"{label}: {text}" if text and label and label != "UNLABELLED" else text
