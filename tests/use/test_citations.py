"""Answers with sources: what is put before a question, what is listed after the reply, and the index it comes from."""

import pytest
from fake_server import Server
from libraries import document, library_of

from helpers import InputError
from helpers.knowledge.documents import Passage
from helpers.knowledge.index import Index
from helpers.prompts.passages import with_passages
from helpers.run_dir.folder import open_run
from helpers.use.citations import find_index, look_up, source_lines, unknown_citations
from helpers.use.client import MAX_QUESTION


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return library_of(tmp_path_factory.mktemp("sources") / "index.sqlite").index


# ------------------------------------------------------------------------------------------------------ the open book


def test_the_question_gets_as_many_passages_as_are_asked_for(index):
    text, passages = look_up(index, "The liver?", 2)
    assert [each.source for each in passages] == ["liver", "liver"]
    assert text == with_passages("The liver?", passages)
    assert look_up(index, "zebra", 2) == ("zebra", [])


def test_passages_that_are_too_much_for_a_question_are_left_out(tmp_path):
    long = [document(f"d{n}", f"The zebra. {'Words and more. ' * 60}") for n in range(10)]
    library = library_of(tmp_path / "index.sqlite", *long, *(document(f"f{n}", "Bones.") for n in range(30)))
    counts = {}
    for size in (10, 4000, MAX_QUESTION - 20, MAX_QUESTION):
        question = "zebra ".ljust(size, "x")
        text, passages = look_up(library.index, question, 10)
        assert len(text) <= MAX_QUESTION
        assert text.endswith(question)
        counts[size] = len(passages)
    assert counts[10] > counts[4000] > counts[MAX_QUESTION] == counts[MAX_QUESTION - 20] == 0
    more = library.index.search("zebra", counts[10] + 1)
    assert len(with_passages("zebra ".ljust(10, "x"), more)) > MAX_QUESTION


# --------------------------------------------------------------------------------------------------- what a reply cites

THREE = [
    Passage("The heart beats.", "Heart > Beat", "m1", "CC BY 4.0", address="https://there/m1"),
    Passage("The liver.", "Liver", "m2", ""),
    Passage("The spleen.", "", "m3", "CC0"),
]


@pytest.mark.parametrize(
    ("answer", "unknown"),
    [
        ("It beats [1], and it is brown [2][3].", []),
        ("As in [7].", [7]),
        ("As in [1, 9].", [9]),
        ("As in [ 9 ] and [4;8].", [4, 8, 9]),
        ("As in [0], [12,5] and [5].", [0, 5, 12]),
        ("As in [1-3], [2–3] and [ 1 — 2 ].", []),
        ("As in [2-5], or [1, 3–4; 9].", [4, 5, 9]),
        ("As in [5-4] and [6 and 7], & [2&8].", [4, 5, 6, 7, 8]),
        ("As in [1, 2, and 5], and [1; 4; & 6].", [4, 5, 6]),
        ("As in [^1], [^4], [citation:2][citation:5], [Source 6], [passages 1, 7], 【8】.", [4, 5, 6, 7, 8]),
        (
            "【4†source】, ［5］, [#6], [7, p. 3], \\[8\\], [documents 9], [No. 10], [number 11]",
            [4, 5, 6, 7, 8, 9, 10, 11],
        ),
        ("Power was [4/5] for [5 to 10] days, at [6 mg] and [No 12 mg].", []),
        ("In [2019], [2019-2021] and [a], of [1.5], [3 mg] and 7.", []),
        ("First (1) rest, (4) ice and (9-11) walks.", []),
        ("", []),
    ],
)
def test_citations_that_no_passage_has(answer, unknown):
    assert unknown_citations(f"Thought.</think>{answer}", THREE) == unknown


def test_a_thought_may_cite_anything():
    assert unknown_citations("Is it [7]?</think>No, [1].", THREE) == []
    assert unknown_citations("Is it [7]? It never ends", THREE) == []
    assert unknown_citations("Is it [7]?</think>Yes, [7].", []) == [7]


def test_a_source_line_has_number_title_source_licence_and_link():
    assert source_lines(THREE, "Thought.</think>[1].") == [
        "[1] Heart > Beat (m1, CC BY 4.0, https://there/m1)",
        "[2] Liver (m2, licence not stated)",
        "[3] untitled (m3, CC0)",
    ]


def test_a_citation_that_is_in_none_is_said_after_the_sources():
    lines = source_lines(THREE, "Thought.</think>[4], [1, 9].")
    assert lines[3:] == ["[4], [9]: cited in the answer, but no passage has this number"]
    assert source_lines(THREE, "A.</think>[1-99]")[3].endswith(
        "[16], ...: cited in the answer, but no passage has this number"
    )
    assert source_lines([], "A.</think>B.") == ["no passage was found for this question, or none that fits beside it"]


# ---------------------------------------------------------------------------------------------------------- the index


def test_the_index_is_the_named_one_or_that_of_the_run(tmp_path):
    run = open_run("smoke", tmp_path / "run")
    with pytest.raises(InputError, match=r"retrieval/index\.sqlite: no index there; run 07_retrieval, or make one"):
        find_index(run, None)
    with pytest.raises(InputError, match=r"^no run folder: no index there"):
        find_index(None, None)
    (run / "retrieval").mkdir()
    library_of(run / "retrieval/index.sqlite")
    other = library_of(tmp_path / "other.sqlite", document("a", "One."))
    assert find_index(run, None).documents == 8
    assert find_index(run, other.index.path).documents == find_index(None, other.index.path).documents == 1


def test_an_empty_index_is_one_line(tmp_path):
    with Index(tmp_path / "i") as made:
        made.add([])
    with pytest.raises(InputError, match=r"^.*/i holds no passage: add files with .*$"):
        find_index(None, tmp_path / "i")


@pytest.fixture
def notes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/heart.md").write_text("# Heart\n\nThe heart beats.\n")
    (tmp_path / "notes/liver.md").write_text("# Liver\n\nThe liver is brown.\n")
    (tmp_path / "notes/scan.tiff").write_bytes(b"II*\0")
    return tmp_path / "notes"


def test_the_index_command_adds_once_and_names_what_it_leaves_out(cli, notes):
    first = cli("index", "notes", "--out", "i.sqlite")
    assert first.status == 0
    assert "2 documents added, 0 unchanged, 0 deleted, 1 parts left out" in first.out
    assert "i.sqlite has 2 documents in 2 passages" in first.out
    [line] = first.err.splitlines()
    assert line.startswith("left out: ")
    assert "scan.tiff" in line
    (notes / "spleen.md").write_text("# Spleen\n\nThe spleen is soft.\n")
    again = cli("index", notes, "--out", "i.sqlite")
    assert "1 documents added, 2 unchanged, 0 deleted" in again.out
    assert "has 3 documents in 3 passages" in again.out


def test_a_source_that_does_not_exist_is_one_line(cli, notes):
    called = cli("index", "note", "--out", "i.sqlite")
    assert called.status == 2
    assert called.err.splitlines() == [f"error: {notes.parent / 'note'} does not exist"]


def test_ask_lists_the_sources_under_the_reply(cli, notes):
    cli("index", "notes", "--out", "i.sqlite")
    server = Server([{"content": "Hm [8].</think>Brown [1], as in [7]."}])
    called = cli("ask", "What colour has the liver?", "--endpoint", server.url, "--index", "i.sqlite")
    assert called.status == 0
    reply, sources = called.out.split("\nSources:\n")
    assert reply.endswith("as in [7].\n")
    assert sources.splitlines() == [
        "[1] liver > Liver (liver.md, licence not stated)",
        "[7]: cited in the answer, but no passage has this number",
    ]
    [(_, body)] = server.requests
    assert body["messages"][-1]["content"].count("The liver is brown.") == 1


@pytest.mark.parametrize("option", [["--sources"], ["--index", "none.sqlite"]])
def test_without_an_index_ask_is_one_line(cli, notes, option):
    called = cli("ask", "Why?", "--endpoint", "http://127.0.0.1:9/v1", *option)
    assert (called.status, called.out) == (2, "")
    [line] = called.err.splitlines()
    assert line.startswith("error: ")
    assert "no index there; run 07_retrieval, or make one" in line
