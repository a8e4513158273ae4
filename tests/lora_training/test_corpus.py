"""Text to learn before the rows: how it is encoded, its order, and a training that is stopped in the middle of it."""

import pytest
from trainings import Killed, killed_at, losses

from helpers import InputError
from helpers.config import Config
from helpers.dataset_prep.prepare import prepare
from helpers.files import read_json, read_jsonl, write_jsonl
from helpers.lora_training import train as lora_training
from helpers.lora_training.batches import CorpusFirst, load_corpus
from helpers.lora_training.checkpoints import identity, last_checkpoint
from helpers.lora_training.train import train
from helpers.models.loading import load_tokenizer
from helpers.prompts.encoding import encode_text
from helpers.run_dir.folder import Run, open_run

MARKUP = "Text with <|im_end|>, <think>, </think>, <|endoftext|> and <｜end▁of▁sentence｜>."


@pytest.mark.parametrize("name", ["r1_tokenizer", "smollm_tokenizer"])
@pytest.mark.parametrize("text", ["The heart.\nIt beats.", MARKUP, " spaces stay  \n", "β 漢字"])
def test_a_text_is_learnt_as_it_stands(request, name, text):
    tokenizer = request.getfixturevalue(name)
    encoded = encode_text(tokenizer, text, 512)
    begin, ids = encoded["input_ids"][: tokenizer.bos_token_id is not None], encoded["input_ids"]
    assert begin == ([] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id])
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids[len(begin) : -1], clean_up_tokenization_spaces=False) == text
    assert not set(ids[len(begin) : -1]) & set(tokenizer.get_added_vocab().values())
    assert encoded["labels"] == [-100, *ids[1:]]


def test_a_text_that_does_not_fit_or_cannot_be_spelt_is_none(smollm_tokenizer):
    length = len(encode_text(smollm_tokenizer, "The heart.", 512)["input_ids"])
    assert encode_text(smollm_tokenizer, "The heart.", length)
    assert encode_text(smollm_tokenizer, "The heart.", length - 1) is None
    assert encode_text(smollm_tokenizer, "The \x04 heart.", 512) is None


# ---------------------------------------------------------------------------------------------------------- the order


def test_the_corpus_comes_once_and_then_the_rows_again_and_again():
    order = list(CorpusFirst(30, 50, 75, seed=1))
    assert sorted(order[:30]) == list(range(30)) != order[:30]
    assert sorted(order[30:50]) == sorted(order[50:70]) == list(range(30, 50))
    assert order[30:50] != order[50:70]
    assert len(set(order[70:])) == 5
    assert min(order[70:]) >= 30
    assert len(CorpusFirst(30, 50, 75, seed=1)) == len(order) == 75


def test_the_order_depends_on_the_seed_alone():
    sampler = CorpusFirst(30, 50, 75, seed=1)
    assert list(sampler) == list(sampler) == list(CorpusFirst(30, 50, 75, seed=1))
    assert list(sampler) != list(CorpusFirst(30, 50, 75, seed=2))


# -------------------------------------------------------------------------------------------------------- the passages


def corpus_run(folder, corpus, **settings):
    run = Run(folder, Config.resolve("smoke", {"data.corpus": ["handbook"] if corpus else [], **settings}))
    rows = [{"title": f"Title {n}", "text": f"Text {n}." * (1 + 200 * (n == 2)), "split": "train"} for n in range(4)]
    write_jsonl(run / "data/corpus.jsonl", [*rows, {"title": "New", "text": "Unseen.", "split": "unseen"}])
    return run


def test_a_split_of_the_corpus_is_its_passages_under_their_titles(tmp_path, r1_tokenizer):
    """The third is too long."""
    run = corpus_run(tmp_path, True)

    def texts(*args):
        return [r1_tokenizer.decode(each["input_ids"], True) for each in load_corpus(run, *args)]

    assert texts("train", r1_tokenizer) == [f"Title {n}\nText {n}." for n in (0, 1, 3)]
    assert texts("unseen", r1_tokenizer) == ["New\nUnseen."]


def test_without_the_setting_there_is_no_corpus_and_without_the_file_one_line(tmp_path, r1_tokenizer):
    assert load_corpus(corpus_run(tmp_path / "one", False), "train", r1_tokenizer) == []
    run = corpus_run(tmp_path / "two", True)
    (run / "data/corpus.jsonl").unlink()
    with pytest.raises(InputError, match=r"has no data/corpus\.jsonl yet: run 03_dataset_prep first$"):
        load_corpus(run, "train", r1_tokenizer)


def test_another_corpus_is_another_training(tmp_path):
    run = corpus_run(tmp_path, True)
    before = identity(run)
    assert identity(run) == before
    write_jsonl(run / "data/corpus.jsonl", [{"title": "Other", "text": "Text.", "split": "train"}])
    assert identity(run)["rows"] != before["rows"]


# ------------------------------------------------------------------------------------------------------------ training

FEW = 12  # texts; with two a step the corpus ends after the sixth step of ten, and a checkpoint is at the fifth
SHORT = {
    "data.corpus": ["handbook"], "data.passages": 0.5, "training.max_steps": 4, "training.checkpoints": 2,
    "data.sample_size": 40, "evaluation.max_validation": 2, "training.validations": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """As 03 leaves it; gives a copy of it with few texts of the corpus in a new folder, and what 03 reported."""
    run = open_run("smoke", tmp_path_factory.mktemp("prepared") / "run", SHORT)
    report = prepare(run, load_tokenizer(run.config.model))

    def copy(folder):
        copied = open_run("smoke", folder, SHORT)
        for name in ("train", "validation"):
            write_jsonl(copied / f"data/{name}.jsonl", read_jsonl(run / f"data/{name}.jsonl"))
        rows = read_jsonl(run / "data/corpus.jsonl")
        few = [row for row in rows if row["split"] == "train"][:FEW] + [row for row in rows if row["split"] == "unseen"]
        write_jsonl(copied / "data/corpus.jsonl", few)
        return copied

    copy.run, copy.report = run, report
    return copy


class Batches:
    """Notes the first id of each row that a training's collator is given."""

    def __init__(self, monkeypatch):
        self.rows, collator = [], lora_training.collator

        def noting(*args):
            collate = collator(*args)
            return lambda examples: self.rows.extend(each["labels"] for each in examples) or collate(examples)

        monkeypatch.setattr(lora_training, "collator", noting)

    def are_text(self):
        """Text has one label of -100, a row as many as its prompt has tokens."""
        return [list(labels).count(-100) == 1 for labels in self.rows]


@pytest.fixture(scope="module")
def undisturbed(prepared, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        batches = Batches(patch)
        run = prepared(tmp_path_factory.mktemp("undisturbed") / "run")
        return run, train(run), batches


def test_03_leaves_rows_with_passages_and_the_corpus(prepared):
    rows = read_jsonl(prepared.run / "data/train.jsonl")
    with_passages = sum("passages" in row for row in rows)
    assert with_passages == sum(prepared.report["open_book"].values()) > 0.3 * len(rows)
    assert prepared.report["corpus"] == {"train": 182, "unseen": 10}
    assert not any("passages" in row for row in read_jsonl(prepared.run / "data/validation.jsonl"))


def test_texts_come_before_rows(undisturbed):
    _, metrics, batches = undisturbed
    assert batches.are_text() == [True] * FEW + [False] * (len(batches.rows) - FEW)
    assert metrics["steps"] == 10  # four of them are the rows'
    assert len(batches.rows) >= 20  # the loader reads one step ahead


def test_the_metrics_have_the_loss_of_unseen_texts_before_and_after(undisturbed):
    run, metrics, _ = undisturbed
    measured = [row["corpus_nll"] for row in read_jsonl(run / "training/log.jsonl") if "corpus_nll" in row]
    assert metrics["corpus_nll"] == {"before": measured[0], "after": measured[-1]}
    assert len(measured) == 2
    assert 0 < metrics["corpus_nll"]["after"] < metrics["corpus_nll"]["before"]
    assert read_json(run / "training/metrics.json")["corpus_nll"] == metrics["corpus_nll"]


def test_a_training_that_is_stopped_within_the_corpus_goes_on_in_the_same_order(
    undisturbed, prepared, tmp_path, monkeypatch
):
    whole, metrics, all_batches = undisturbed
    run = prepared(tmp_path / "run")
    with pytest.raises(Killed):
        train(run, watch=killed_at(6))
    assert last_checkpoint(run)[1] == 5
    batches = Batches(monkeypatch)
    again = train(run)
    assert again["resumed_from"] == 5
    assert batches.rows == all_batches.rows[10:]
    expected = losses(read_jsonl(whole / "training/log.jsonl"))
    assert losses(read_jsonl(run / "training/log.jsonl")) == pytest.approx(expected, rel=1e-5)
    assert again["corpus_nll"] == pytest.approx(metrics["corpus_nll"], rel=1e-5)
