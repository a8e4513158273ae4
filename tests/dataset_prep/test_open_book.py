"""Training rows with passages in front, and a corpus to train on as text."""

import json
import random

import pytest
from libraries import ORGANS, library_of

from helpers import InputError
from helpers.dataset_prep.open_book import add_passages, corpus_rows
from helpers.prompts.encoding import encode_example
from helpers.prompts.passages import LEAD

OPTIONS = "\n\nA. The first option\nB. The second option"


def row(line, split="train"):
    organ = ORGANS[line % len(ORGANS)]
    question = f"Case {line}: the {organ} hurts. Why?{OPTIONS}"
    return {"Question": question, "Complex_CoT": f"Thought {line}.", "Response": "A.", "line": line, "split": split}


ROWS = [row(n) for n in range(16)] + [row(n, "validation") for n in range(16, 20)] + [row(20, "test")]


@pytest.fixture
def library(tmp_path):
    return library_of(tmp_path / "index.sqlite")


@pytest.fixture
def add(library, smollm_tokenizer):
    def call(rows=ROWS, share=0.5, seed=1, max_length=2048):
        return add_passages(rows, library, share, 2, seed, smollm_tokenizer, max_length, "native")

    return call


def changed(rows):
    return {each["line"]: each for each in rows if "passages" in each}


@pytest.mark.parametrize(("share", "count", "beside"), [(0, 0, 0), (0.25, 4, 1), (0.5, 8, 2), (1, 16, 4)])
def test_a_share_of_the_training_rows_has_passages_and_a_quarter_of_them_others(add, share, count, beside):
    found = changed(add(share=share)).values()
    assert len(found) == count
    assert sum(each["passages"]["beside"] for each in found) == beside
    assert all(each["Question"].startswith(LEAD) for each in found)


def test_the_seed_and_the_rows_content_decide_not_their_order(add):
    shuffled = random.Random(0).sample(ROWS, len(ROWS))
    assert changed(add()) == changed(add(shuffled))
    assert [each["line"] for each in add(shuffled)] == [each["line"] for each in shuffled]
    assert changed(add()).keys() != changed(add(seed=2)).keys()


def test_what_is_beside_the_point_was_not_found_for_the_row(add, library):
    for each in changed(add(share=1)).values():
        own = {p.source for p in library.index.search(ROWS[each["line"]]["Question"].removesuffix(OPTIONS), 2)}
        shown = set(each["passages"]["sources"])
        assert shown
        assert shown.isdisjoint(own) if each["passages"]["beside"] else shown <= own


def test_a_row_is_never_left_without_others_where_its_neighbour_has_the_same(add, library):
    """Twelve rows on one organ, and four on others: all four that are beside the point still find something."""
    rows = [row(8 * n) for n in range(12)] + [row(n) for n in (1, 2, 3, 4)]
    for seed in range(4):
        found = changed(add(rows, share=1, seed=seed))
        assert sum(each["passages"]["beside"] for each in found.values()) == 4


def test_all_but_the_question_stays_as_it_was(add):
    for before, after in zip(ROWS, add(share=1), strict=True):
        assert after["Question"].endswith(before["Question"])
        assert {**after, "Question": None, "passages": None} == {**before, "Question": None, "passages": None}
        assert ("passages" in after) == (before["split"] == "train")


def test_no_row_becomes_longer_than_the_model_reads(add, smollm_tokenizer):
    """Of two passages both fit, or one, or none, as there is room; a row that was too long is left as it was."""
    bare = max(len(encode_example(smollm_tokenizer, each, 9999)["input_ids"]) for each in ROWS)
    kept = set()
    for room in range(bare - 20, bare + 120, 10):
        for each in changed(add(share=1, max_length=room)).values():
            assert encode_example(smollm_tokenizer, each, room)
            kept.add(len(each["passages"]["sources"]))
    assert kept == {1, 2}
    assert changed(add(share=1, max_length=bare - 20)) == {}


@pytest.mark.parametrize("options", [OPTIONS, "\nA) one\nB) two", "\n\n(A) one\n(B) two", "\nA: one\nB: two", ""])
def test_the_options_are_in_no_query(add, library, options):
    rows = [{**each, "Question": each["Question"].replace(OPTIONS, options)} for each in ROWS]
    add(rows, share=1)
    assert sorted(library.index.asked) == sorted(each["Question"].removesuffix(OPTIONS) for each in ROWS[:16])


# ---------------------------------------------------------------------------------------------------------- corpora


def corpus(folder, count, name="corpus.jsonl"):
    """`count` documents, of several passages each, as rows of a file."""
    text = "\n".join(" ".join([f"Sentence {n}."] * 60) for n in range(6))
    rows = [{"id": f"d{n}", "title": f"Document {n}", "text": text} for n in range(count)]
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("".join(json.dumps(each) + "\n" for each in rows))
    return str(folder / name)


@pytest.mark.parametrize(("count", "unseen"), [(1, 0), (2, 1), (3, 1), (40, 2), (60, 3)])
def test_a_twentieth_of_the_documents_is_kept_out_and_one_at_least(tmp_path, count, unseen):
    rows = corpus_rows([corpus(tmp_path, count)], seed=1)
    sides = {split: {each["source"] for each in rows if each["split"] == split} for split in ("train", "unseen")}
    assert (len(sides["train"]), len(sides["unseen"])) == (count - unseen, unseen)
    assert sides["train"].isdisjoint(sides["unseen"])
    assert len(rows) > 2 * count


def test_a_corpus_stays_in_reading_order_and_the_seed_chooses(tmp_path):
    file = corpus(tmp_path, 40)
    rows = corpus_rows([file], seed=1)
    assert list(dict.fromkeys(each["source"] for each in rows)) == [f"corpus.jsonl#d{n}" for n in range(40)]
    assert corpus_rows([file], seed=1) == rows != corpus_rows([file], seed=2)


@pytest.mark.parametrize("content", ["", '{"id": 1, "text": ""}\n'])
def test_a_corpus_without_a_document_is_one_line(tmp_path, content):
    (tmp_path / "empty.jsonl").write_text(content)
    with pytest.raises(InputError, match=r"^data\.corpus = \['.*'\]: no document could be read.*$") as caught:
        corpus_rows([str(tmp_path / "empty.jsonl")], seed=1)
    assert "\n" not in str(caught.value)
