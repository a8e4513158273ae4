"""A run's library: made of the sources that are set, once, and of the questions' own abstracts."""

import pytest

from helpers.files import read_jsonl
from helpers.knowledge import importing
from helpers.knowledge.documents import Passage
from helpers.knowledge.library import HANDBOOK, holds, open_library
from helpers.questions.multiple_choice import ChoiceQuestion
from helpers.run_dir.folder import open_run


@pytest.fixture
def opened(tmp_path):
    def call(*sources, questions=(), **settings):
        settings = {f"retrieval.{key}": value for key, value in settings.items()}
        return open_library(
            open_run("smoke", tmp_path / "run", {"retrieval.sources": [*sources], **settings}), questions
        )

    return call


def question(number, context=None, relevant=None):
    options = {"A": "yes", "B": "no"}
    text = f"Does zebra {number} help?"
    return ChoiceQuestion(
        id=f"q{number}", question=text, options=options, answer_idx="A", context=context, relevant=relevant
    )


def test_the_handbook_is_known_by_its_name(opened):
    library = opened("handbook")
    rows = read_jsonl(HANDBOOK)
    assert library.index.documents == library.added.documents == len(rows)
    assert library.added.rejections == 0
    [best] = library.index.search(rows[3]["text"], 1)
    assert holds(best, rows[3]["id"])


def test_a_second_opening_reads_nothing_again(opened, monkeypatch, write):
    file, asked = write("notes.md", "# Heart\n\nIt beats.\n"), [question(1, "The liver.")]
    opened(str(file), questions=asked)
    monkeypatch.setattr(importing, "read_file", None)
    again = opened(str(file), questions=asked)
    assert (again.added.documents, again.added.unchanged, again.index.documents) == (0, 2, 2)


def test_what_came_to_a_folder_or_left_it_comes_to_the_index_or_leaves_it(opened, write):
    gone, _, odd = (write(f"notes/{name}.md", f"# Part\n\nOf {k}.\n") for k, name in enumerate(("a", "b", "\x1bc")))
    assert opened(str(gone.parent)).index.documents == 3
    gone.unlink()
    library = opened(str(gone.parent))
    assert (library.added.deleted, library.index.documents, library.index.search("0", 1)) == (1, 2, [])
    odd.unlink()
    write("notes/d.md", "# Liver\n\nIt is brown.\n")
    library = opened(str(gone.parent))
    assert (library.added.documents, library.added.deleted, library.index.documents) == (1, 1, 2)


def test_an_index_of_other_sources_is_made_anew(opened, write):
    heart, liver = write("heart.md", "# Heart\n\nIt beats.\n"), write("liver.md", "# Liver\n\nIt is brown.\n")
    opened(str(heart))
    library = opened(str(liver))
    assert library.index.documents == 1
    assert library.index.search("beats", 1) == []


def test_other_questions_change_their_abstracts_alone(opened, write, monkeypatch):
    """03 opens the library without them, and 07 with them."""
    liver = str(write("liver.md", "# Liver\n\nIt is brown.\n"))
    opened(liver)
    asked = [question(1, "The spleen."), question(2, "The lung.")]
    for some, added, deleted in ((asked, 2, 0), (asked[1:], 0, 1), ((), 0, 1)):
        library = opened(liver, questions=some)
        assert (library.added.documents, library.added.deleted) == (added, deleted)
        assert library.index.documents == 1 + len(some)


def test_a_questions_context_is_found_without_its_words(opened, write):
    asked = [question(1, "The liver is brown.\nIt is large.", "123"), question(2, "Spleen."), question(3)]
    library = opened(str(write("notes.md", "# Heart\n\nIt beats.\n")), questions=asked)
    assert library.index.documents == 3
    [found] = library.index.search("brown", 5)
    assert (found.title, found.text) == ("Abstract", "The liver is brown.\nIt is large.")
    assert holds(found, "123")
    assert [holds(each, "q2") for each in library.index.search("spleen", 5)] == [True]
    assert library.index.search("zebra", 5) == []


def test_a_query_is_widened_where_a_table_of_synonyms_is_set(opened, write):
    notes = str(write("notes.md", "# Heart\n\nIt beats.\n"))
    table = write(
        "terms.obo", 'format-version: 1.2\n\n[Term]\nid: X:1\nname: Kidney stone\nsynonym: "Nephrolithiasis" EXACT []\n'
    )
    assert opened(notes).widened("A kidney stone?") == "A kidney stone?"
    assert opened(notes, synonyms=[str(table)]).widened("A kidney stone?") == "A kidney stone? Nephrolithiasis"


@pytest.mark.parametrize(
    ("source", "relevant", "held"),
    [
        ("m46383", "m46383", True),
        ("handbook.jsonl#gout", "gout", True),
        ("handbook.jsonl#pseudogout", "gout", False),
        ("gout", "handbook.jsonl#gout", False),
        ("m463831", "m46383", False),
        ("", None, False),
    ],
)
def test_a_passage_is_of_the_document_that_a_question_names(source, relevant, held):
    assert holds(Passage("text", "title", source, ""), relevant) is held


def test_its_names_are_those_by_which_holds_knows_its_passages(opened, write):
    library = opened(str(write("rows.jsonl", '{"id": "a#2", "text": "A heart."}\n{"id": "b", "text": "A lung."}\n')))
    sources = {passage.source for passage in library.index.search("heart lung", 2)}
    assert library.names == sources | {"a#2", "2", "b"}
    assert all(any(holds(p, name) for p in library.index.search("heart lung", 2)) for name in library.names)
