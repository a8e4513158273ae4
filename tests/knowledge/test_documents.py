import time

from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.knowledge.documents import MAX_CHARACTERS, Document, Section, passages

TEXT = st.text(alphabet=st.sampled_from("ab. !?\n\tcd\u00a0"), max_size=120)


@given(st.lists(TEXT, max_size=6), st.integers(1, 9))
@settings(max_examples=40)
def test_no_word_is_lost_and_no_passage_is_too_long(paragraphs, most):
    found = list(passages(Document("d", [Section(("Book", "Chapter"), paragraphs)]), most))
    assert [word for p in found for word in p.text.split()] == " ".join(paragraphs).split()
    assert all(0 < len(p.text.split()) <= most for p in found)
    assert {p.title for p in found} <= {"Book > Chapter"}


def test_paragraphs_merge_under_their_heading_and_never_across_headings():
    sections = [
        Section(("Heart", "Valves"), ["One two.", "Three."]),
        Section(("Heart", "Heart"), ["Four.", "Five six."]),
    ]
    found = list(passages(Document("m1", sections, "CC BY 4.0", "https://example.org/m1"), 3))
    assert [(p.title, p.text) for p in found] == [
        ("Heart > Valves", "One two.\nThree."),
        ("Heart", "Four.\nFive six."),
    ]
    assert {(p.source, p.licence, p.address) for p in found} == {("m1", "CC BY 4.0", "https://example.org/m1")}


def test_a_long_paragraph_is_cut_between_sentences():
    document = Document("d", [Section(("t",), ["One two. Three four. Five six seven eight nine."])])
    assert [p.text for p in passages(document, 4)] == ["One two. Three four.", "Five six seven eight", "nine."]


def test_a_sentence_of_a_whole_file_is_cut_in_one_pass():
    document = Document("d", [Section(("t",), ["word " * 10**6])])
    began = time.process_time()
    assert sum(1 for _ in passages(document)) == 5000
    assert time.process_time() - began < 5


def test_text_without_spaces_is_cut_too():
    paragraphs = ["Gout. " + "A" * 9_001, "糖尿病" * 3_000, ("B" * 3_000 + " ") * 3]
    found = [p.text for p in passages(Document("d", [Section(("t",), paragraphs)]))]
    assert "".join("".join(found).split()) == "".join("".join(paragraphs).split())
    assert max(map(len, found)) == MAX_CHARACTERS
    assert len(found) < 12
