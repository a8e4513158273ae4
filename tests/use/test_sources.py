"""Answers with sources: what is put before a question, what is listed after the reply, and the index it comes from."""

import pytest
from fake_server import Server
from libraries import document, library_of

from helpers import InputError
from helpers.files import read_jsonl
from helpers.knowledge.index import Index
from helpers.prompts.passages import LEAD, with_passages
from helpers.run_dir import open_run
from helpers.use.ask import Answerer
from helpers.use.client import MAX_QUESTION, Ended
from helpers.use.sources import find_index, looked_up_once, open_book, with_sources


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return library_of(tmp_path_factory.mktemp("sources") / "index.sqlite").index


# ------------------------------------------------------------------------------------------------------ the open book


def test_the_question_gets_as_many_passages_as_are_asked_for(index):
    text, passages = open_book(index, "The liver?", 2)
    assert [each.source for each in passages] == ["liver", "liver"]
    assert text == with_passages("The liver?", passages)
    assert open_book(index, "zebra", 2) == ("zebra", [])


def test_passages_that_are_too_much_for_a_question_are_left_out(tmp_path):
    long = [document(f"d{n}", f"The zebra. {'Words and more. ' * 60}") for n in range(10)]
    library = library_of(tmp_path / "index.sqlite", *long, *(document(f"f{n}", "Bones.") for n in range(30)))
    counts = {}
    for size in (10, 4000, MAX_QUESTION - 20, MAX_QUESTION):
        question = "zebra ".ljust(size, "x")
        text, passages = open_book(library.index, question, 10)
        assert len(text) <= MAX_QUESTION
        assert text.endswith(question)
        counts[size] = len(passages)
    assert counts[10] > counts[4000] > counts[MAX_QUESTION] == counts[MAX_QUESTION - 20] == 0
    more = library.index.search("zebra", counts[10] + 1)
    assert len(with_passages("zebra ".ljust(10, "x"), more)) > MAX_QUESTION


def echoing(checked):
    def rows(questions):
        return ({"reply": f"{question}</think>[1] and [9]", "closed": True} for question in questions)

    return Answerer("m", lambda question: iter([Ended(question, True, 1, 1.0, 0.1)]), rows, checked.append)


def test_an_answerer_with_sources_looks_each_question_up(index):
    checked, before = [], len(index.asked)
    answerer = with_sources(echoing(checked), looked_up_once(index, 1), "1 passages of 8 documents")
    heart, none = answerer.rows(["The heart?", "zebra"])
    assert heart["sources"] == [{"source": "heart", "title": heart["sources"][0]["title"], "address": ""}]
    assert heart["reply"].startswith(LEAD)
    assert (heart["unknown_citations"], none["unknown_citations"]) == ([9], [1, 9])
    assert (none["sources"], none["reply"]) == ([], "zebra</think>[1] and [9]")
    [end] = answerer.stream("The heart?")
    answerer.check("The heart?")
    assert index.asked[before:] == ["The heart?", "zebra"]  # once each
    assert end.text == checked[0] == open_book(index, "The heart?", 1)[0]
    assert answerer.made_by == "m, with 1 passages of 8 documents"


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
    assert called.err.splitlines() == [f"error: {notes.parent / 'note'} does not exist; did you mean {notes}?"]


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


def test_a_file_of_questions_has_sources_in_every_row(cli, notes):
    cli("index", "notes", "--out", "i.sqlite")
    (notes.parent / "q.txt").write_text("Does the heart beat?\nzebra\n")
    server = Server([{"content": "Hm.</think>Yes [2]."}])
    for _ in range(2):  # the second call finds all of it done
        called = cli("ask", "--file", "q.txt", "--out", "r.jsonl", "--endpoint", server.url, "--index", "i.sqlite")
        assert called.status == 0
    rows = read_jsonl(notes.parent / "r.jsonl")
    assert [row["question"] for row in rows] == ["Does the heart beat?", "zebra"]
    assert [[each["source"] for each in row["sources"]] for row in rows] == [["heart.md"], []]
    assert [row["unknown_citations"] for row in rows] == [[2], [2]]
    assert len(server.requests) == 2


@pytest.mark.parametrize("option", [["--sources"], ["--index", "none.sqlite"]])
def test_without_an_index_ask_is_one_line(cli, notes, option):
    called = cli("ask", "Why?", "--endpoint", "http://127.0.0.1:9/v1", *option)
    assert (called.status, called.out) == (2, "")
    [line] = called.err.splitlines()
    assert line.startswith("error: ")
    assert "no index there; run 07_retrieval, or make one" in line
