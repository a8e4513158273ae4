"""The packaged handbook: what its sections have to be for 07 to measure a search with it."""

import re
from collections import Counter

from libraries import read_documents

from helpers import PROJECT_ROOT
from helpers.files import read_jsonl
from helpers.knowledge.documents import Document, passages
from helpers.knowledge.library import HANDBOOK
from helpers.questions.multiple_choice import choice_questions

SECTIONS = read_jsonl(HANDBOOK)
RELEVANT = Counter(question.relevant for question in choice_questions(["sample"])["sample"])


def test_half_of_the_sections_answer_a_question_and_half_do_not():
    named = [section["id"] for section in SECTIONS if section["id"] in RELEVANT]
    assert len(named) >= 80
    assert len(SECTIONS) - len(named) >= 80
    assert {*named} == RELEVANT.keys()


def test_ids_titles_and_texts_are_unique():
    for key in ("id", "title", "text"):
        assert len({section[key] for section in SECTIONS}) == len(SECTIONS)
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", section["id"]) for section in SECTIONS)


def test_a_section_is_one_passage_of_60_to_125_words():
    documents = list(read_documents(HANDBOOK))
    assert [type(document) for document in documents] == [Document] * len(SECTIONS)
    for document, section in zip(documents, SECTIONS, strict=True):
        [passage] = passages(document)
        assert passage.text == section["text"]
        assert 60 <= len(passage.text.split()) <= 125


def test_the_review_has_a_line_for_each_section_with_its_questions():
    review = read_jsonl(PROJECT_ROOT / "docs/handbook_review.jsonl")
    assert [line["id"] for line in review] == [section["id"] for section in SECTIONS]
    assert all(line["source"] for line in review)
    asked = {}
    for question in choice_questions(["sample"])["sample"]:
        asked.setdefault(question.relevant, []).append(question.id)
    assert {line["id"]: line["questions"] for line in review if line["questions"]} == asked
