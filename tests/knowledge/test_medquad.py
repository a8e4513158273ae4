import json

import pytest
from libraries import read_documents

from helpers import InputError
from helpers.knowledge.documents import Document, Rejection

ROW = {
    "id": "1-1", "source": "GARD", "url": "https://a.b/c", "focus": "Gout", "question": "What is it ?", "answer": "x",
}  # fmt: skip


def lines(*rows):
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


def test_a_pair_is_a_document(write):
    (found,) = read_documents(write("q.jsonl", lines(ROW | {"answer": "One.\n \n Two."})))
    assert [(s.path, s.paragraphs) for s in found.sections] == [(("Gout", "What is it ?"), ["One.", "Two."])]
    assert (found.source, found.address, found.licence) == ("1-1", "https://a.b/c", "CC BY 4.0")


def test_no_pair_takes_the_place_of_another_that_has_its_id(write):
    rows = [ROW, ROW | {"source": "CDC"}, ROW | {"source": "CDC", "focus": "Flu"}, ROW | {"id": "1-2"}]
    found = list(read_documents(write("q.jsonl", lines(*rows))))
    assert [document.source for document in found] == ["1-1", "1-1@CDC", "1-1@CDC#2", "1-2"]


def test_bad_rows_are_rejections_with_their_line_and_the_others_stay(write):
    bad = [ROW | {"answer": " "}, "{", "[1]", "[" * 100_000, ROW | {"answer": None}, '{"id": "\\ud800"}']
    path = write("q.jsonl", lines(ROW, "", *bad, ROW | {"id": "\ud800 2\u0000", "answer": "\ud800y\u0007"}))
    found = list(read_documents(path))
    assert [type(entry) for entry in found] == [Document, *[Rejection] * 6, Document]
    assert [entry.where.rpartition(" ")[2] for entry in found[1:-1]] == ["3", "4", "5", "6", "7", "8"]
    assert (found[-1].source, found[-1].sections[0].paragraphs) == ("2", ["y"])


def test_other_rows_need_a_text(write):
    rows = [{"text": "One.\n\nTwo.", "title": "T", "license": "MIT", "url": "https://x"}, {"text": "Three.", "id": 7}]
    first, second, third = read_documents(write("own.jsonl", lines(*rows, {"text": ""})))
    assert (first.source, first.sections[0].path, first.sections[0].paragraphs) == (
        "own.jsonl#1",
        ("T",),
        ["One.", "Two."],
    )
    assert (first.licence, first.address, second.source, type(third)) == ("MIT", "https://x", "own.jsonl#7", Rejection)


def test_no_other_row_takes_the_place_of_one_with_its_id(write):
    rows = [{"text": "One."}, {"text": "Two.", "id": 1}, {"text": "Three.", "id": "1"}]
    found = [document.source for document in read_documents(write("own.jsonl", lines(*rows)))]
    assert found == ["own.jsonl#1", "own.jsonl@2#1", "own.jsonl@3#1"]


def test_rows_of_another_kind_are_named_by_their_keys(write):
    path = write("f/q.jsonl", lines({"instruction": "x", "output": "y"}))
    with pytest.raises(InputError, match=r"q\.jsonl has rows with the keys instruction, output"):
        list(read_documents(path))
    write("f/z.txt", "Good.")
    rejection, document = read_documents(path.parent)
    assert "instruction" in rejection.why
    assert document.source == "z.txt"


def test_no_real_answer_is_lost(corpora, write):
    """A third of the rows: each collection numbers its own anew."""
    rows = (corpora / "medquad.jsonl").read_text(encoding="utf-8").split("\n")[:-1:3]
    found = list(read_documents(write("some.jsonl", "\n".join(rows))))
    assert len({document.source for document in found}) == len(found) == len(rows) == 5_469
    for document, row in list(zip(found, map(json.loads, rows), strict=True))[::3]:
        assert " ".join(p for s in document.sections for p in s.paragraphs).split() == row["answer"].split()
