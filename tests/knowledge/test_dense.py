"""Dense vectors: of a tiny random embedder, as by hand; kept, made anew, and fused with BM25."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast

from helpers import InputError
from helpers.knowledge.dense import FusedIndex
from helpers.knowledge.documents import Document, Section
from helpers.knowledge.index import Index
from helpers.knowledge.library import open_index, open_library
from helpers.run_dir.folder import open_run
from helpers.use.citations import find_index

WORDS = ["[PAD]", "[UNK]", "a", "the", "of", "heart", "liver", "kidney", "beats", "filters", "blood", "bile", "makes"]
TEXTS = ["The heart beats", "liver stores blood and makes bile for the heart", "a kidney filters blood", "bile " * 60]


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("bert")
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "model_max_length": 10**30}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(WORDS), max_position_embeddings=40, **sizes)).save_pretrained(folder)
    return folder


def doc(source, text):
    return Document(source, [Section(("T",), [text])], "CC0")


@pytest.fixture
def index(tmp_path):
    made = Index(tmp_path / "i.sqlite")
    made.add([doc(str(n), text) for n, text in enumerate(TEXTS)])
    return made


def by_hand(embedder, text):
    """One text alone, so that there is no padding: the plain mean of what the model gives for its first 40 tokens."""
    ids = AutoTokenizer.from_pretrained(embedder)(text)["input_ids"][:40]
    mean = AutoModel.from_pretrained(embedder)(torch.tensor([ids])).last_hidden_state[0].mean(0).detach().numpy()
    return mean / np.linalg.norm(mean)


def test_scores_are_the_cosines_of_mean_vectors_whatever_the_padding(index, embedder):
    query = "the heart of a kidney"
    wanted = by_hand(embedder, query)
    expected = {str(n): float(by_hand(embedder, f"T\n{text}") @ wanted) for n, text in enumerate(TEXTS)}
    found = FusedIndex(index.path, str(embedder)).nearest(query, 10)
    assert [each.source for each in found] == sorted(expected, key=expected.get, reverse=True)
    assert [each.score for each in found] == pytest.approx([expected[each.source] for each in found], abs=2e-3)
    assert found[:2] == FusedIndex(index.path, str(embedder)).nearest(query, 2)
    assert (found[0].title, found[0].licence) == ("T", "CC0")


def test_vectors_are_made_anew_when_the_index_changes(index, embedder):
    dense = FusedIndex(index.path, str(embedder))
    assert {each.source for each in dense.nearest("kidney", 10)} == {"0", "1", "2", "3"}
    with Index(index.path) as other:  # as another process would
        other.add([doc("0", "bile bile"), doc("9", "a kidney")])
    found = dense.nearest("kidney", 10)
    assert {each.source for each in found} == {"0", "1", "2", "3", "9"}
    assert [each.text for each in found if each.source == "0"] == ["bile bile"]


def test_nothing_is_found_for_nothing_or_in_nothing(index, embedder, tmp_path):
    dense = FusedIndex(index.path, str(embedder))
    assert dense.nearest(" \n", 3) == []
    assert len(dense.nearest("\ud800 \x00 zebra", 3)) == 3
    assert FusedIndex(tmp_path / "none.sqlite", str(embedder)).nearest("heart", 3) == []


@pytest.mark.parametrize("name", ["no-such-embedder", "./none", "folder"])
def test_what_is_no_embedder_is_one_line(index, tmp_path, name):
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="the embedder") as error:
        FusedIndex(index.path, str(tmp_path / name) if name == "folder" else name).nearest("heart")
    assert "\n" not in str(error.value)


def test_a_passage_that_both_find_is_one(index, embedder):
    fused = open_index(index.path, str(embedder))
    found = fused.search("kidney bile", 10)
    assert sorted(each.source for each in found) == ["0", "1", "2", "3"]
    places = [[each.source for each in find("kidney bile", 10)] for find in (index.search, fused.nearest)]
    expected = {s: sum(1 / (61 + ranked.index(s)) for ranked in places if s in ranked) for s in "0123"}
    assert {each.source: each.score for each in found} == pytest.approx(expected)
    assert [each.score for each in found] == sorted(expected.values(), reverse=True)
    assert fused.search("kidney bile", 2) == found[:2]


def test_the_setting_reaches_the_search_of_07_and_of_ask(embedder, tmp_path, write):
    """Where it is set, a passage is found that has no word of the question."""
    settings = {"retrieval.sources": [str(write("a.txt", "The heart beats"))]}
    for name, asked, many in (("plain", settings, 0), ("fused", settings | {"retrieval.embedder": str(embedder)}, 1)):
        run = open_run("smoke", tmp_path / name, asked)
        assert len(open_library(run).index.search("kidney", 3)) == many
        assert len(find_index(run, None).search("kidney", 3)) == many
    assert len(find_index(None, tmp_path / "plain/retrieval/index.sqlite", str(embedder)).search("kidney", 3)) == 1
