"""Names of medical concepts, read from UMLS (MRCONSO.RRF), MeSH's descriptors, or an ontology in OBO format (HPO)."""

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from helpers import InputError, printable
from helpers.knowledge.documents import UnreadableError
from helpers.knowledge.markup import clean, stream, unpacked

MAX_LINE = 1 << 20  # bytes; a name in MRCONSO has at most 3,000 characters
CUI = re.compile(r"C\d{7}")
OBO_SYNONYM = re.compile(r'^synonym: "((?:[^"\\]|\\.)*)" EXACT\b(?! obsolete_synonym)', re.MULTILINE)
# HPO's inheritance, modifiers (sharp, episodic), course, blood groups, history and frequency are not phenotypes.
NOT_PHENOTYPES = {"HP:0000005", "HP:0012823", "HP:0031797", "HP:0032223", "HP:0032443", "HP:0040279"}


@dataclass(frozen=True)
class Term:
    """One name of a concept. `concept` is a CUI, or the source's own id with its prefix: MESH:D009203, HP:0001250."""

    concept: str
    text: str
    preferred: bool
    origin: str  # the vocabulary (UMLS's SAB): its licence, 11c, asks that a name's source can be told


def read_terms(path: Path) -> Iterator[Term | None]:
    """The names in a file, by its ending (each also with .gz), and None for each record that cannot be read.

    Of XML that breaks off the names before that are kept, and a line says so. InputError for any other file.
    """
    readers = {".rrf": _mrconso, ".xml": _mesh, ".obo": _obo}
    reader = readers.get(Path(path.name.lower().removesuffix(".gz")).suffix)
    if not reader:
        raise InputError(f"{path.name} has an unknown ending; valid: {', '.join(readers)}, each also with .gz")
    if not path.is_file():
        raise InputError(f"{path} is not a file")
    try:
        yield from reader(path)
    except UnreadableError as error:
        print(printable(f"{path.name} {error}: only the names before that are used"))
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', '') or error}") from None


def _mrconso(path: Path) -> Iterator[Term | None]:
    """English names in use (SUPPRESS is N) of restriction level 0, which needs the UMLS licence alone."""
    with unpacked(path) as handle:
        for line in iter(partial(handle.readline, MAX_LINE), b""):
            fields = line.decode("utf-8-sig", errors="replace").rstrip("\r\n").split("|")
            if fields[18:] != [""] or not CUI.fullmatch(fields[0]) or not clean(fields[14]) or "\ufffd" in fields[14]:
                if line.strip():
                    yield None
            elif fields[1] == "ENG" and fields[16] == "N" and fields[15] == "0":
                preferred = [fields[i] for i in (2, 4, 6)] == ["P", "PF", "Y"]
                yield Term(fields[0], clean(fields[14]), preferred, fields[11])


def _mesh(path: Path) -> Iterator[Term | None]:
    """Headings and entry terms of NLM's descriptor XML, one record in memory."""
    with unpacked(path) as handle:
        for record in stream(handle, lambda element, depth: depth == 1 and element.tag == "DescriptorRecord"):
            own, heading = (clean(record.findtext(tag, "")) for tag in ("DescriptorUI", "DescriptorName/String"))
            if not own or not heading:
                yield None
                continue
            yield Term(f"MESH:{own}", heading, True, "MSH")
            for term in record.iterfind("ConceptList/Concept/TermList/Term"):
                text = clean(term.findtext("String", ""))
                if term.get("IsPermutedTermYN") != "Y" and text not in ("", heading):  # "Infarction, Myocardial"
                    yield Term(f"MESH:{own}", text, False, "MSH")


def _obo(path: Path) -> Iterator[Term | None]:
    """Names and exact synonyms of the terms in use, without what is below NOT_PHENOTYPES; all of it in memory."""
    with unpacked(path) as handle:
        text = handle.read().decode("utf-8", errors="replace").replace("\r\n", "\n")
    terms, parents = {}, {}
    for stanza in re.split(r"^(?=\[)", text, flags=re.MULTILINE):
        if stanza.startswith("[Term]") and "\nis_obsolete: true" not in stanza:
            own, name = (re.search(rf"^{tag}: *(\S.*)", stanza, re.MULTILINE) for tag in ("id", "name"))
            if not own or not name or "\ufffd" in stanza:
                yield None
                continue
            synonyms = [re.sub(r"\\(.)", r"\1", synonym) for synonym in OBO_SYNONYM.findall(stanza)]
            terms[clean(own[1])] = [name[1], *synonyms]
            parents[clean(own[1])] = set(re.findall(r"^is_a: (\S+)", stanza, re.MULTILINE))
    others, size = set(NOT_PHENOTYPES), 0
    while size != len(others):
        size = len(others)
        others |= {own for own in terms if parents[own] & others}
    for own, names in terms.items():
        for number, name in enumerate(filter(None, map(clean, names if own not in others else []))):
            yield Term(own, name, number == 0, own.partition(":")[0].replace("HP", "HPO"))
