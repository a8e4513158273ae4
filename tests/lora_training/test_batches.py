"""The rows of each step on one card and on two: the same, also where an epoch does not fill its last step."""

import subprocess
import sys
from itertools import chain

import pytest
from accelerate.data_loader import BatchSamplerShard, SeedableRandomSampler
from datasets import Dataset
from torch import manual_seed
from torch.utils.data import BatchSampler, RandomSampler
from trainings import LAUNCH
from transformers.trainer_pt_utils import LengthGroupedSampler

from helpers import PROJECT_ROOT
from helpers.dataset_prep.prepare import prepare
from helpers.files import read_jsonl
from helpers.lora_training.batches import ByEpoch, filled
from helpers.models.loading import load_tokenizer
from helpers.run_dir.folder import open_run

ROWS, BATCH, SEED = 45, 2, 5  # 45 rows in steps of 8: the last has 5


def steps(batches, size):
    """The rows of each step, a list of `size` micro-batches."""
    return [sorted(chain.from_iterable(batches[i : i + size])) for i in range(0, len(batches), size)]


def grouped():
    return LengthGroupedSampler(8, lengths=[7 * i % 23 for i in range(ROWS)])


@pytest.mark.parametrize("epoch", [0, 2.0])
@pytest.mark.parametrize("kind", ["random", "grouped"])
def test_two_cards_take_the_rows_of_one(kind, epoch):
    manual_seed(SEED)
    if kind == "random":  # what accelerate makes of it on one card
        one = SeedableRandomSampler(range(ROWS), data_seed=SEED)
        one.set_epoch(int(epoch))
    else:
        one = ByEpoch(grouped(), SEED, lambda: epoch, ROWS)
    alone = steps(list(BatchSampler(one, BATCH, drop_last=False)), 4)
    cards = []
    for card in range(2):
        manual_seed(SEED)
        shuffled = RandomSampler(range(ROWS)) if kind == "random" else grouped()
        sampler = ByEpoch(shuffled, SEED, lambda: epoch, ROWS + 3)
        assert len(sampler) == 48
        cards.append(list(BatchSamplerShard(BatchSampler(sampler, BATCH, drop_last=False), 2, card)))
    assert len(cards[0]) == len(cards[1]) == 12
    together = steps([batch for both in zip(*cards, strict=True) for batch in both], 4)
    assert [[row for row in step if row < ROWS] for step in together] == alone
    assert sorted(chain.from_iterable(together)) == list(range(ROWS + 3))


def test_an_epoch_is_filled_with_rows_that_have_no_label():
    rows = Dataset.from_list([{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}] * 5)
    assert filled(rows, 5, pad=9) is rows
    more = filled(rows, 4, pad=9).to_list()
    assert more[:5] == rows.to_list()
    assert more[5:] == [{"input_ids": [9, 9], "labels": [-100, -100]}] * 3
    packs = rows.add_column("seq_lengths", [[3]] * 5)
    assert filled(packs, 2, pad=9)[5] == {"input_ids": [9, 9], "labels": [-100, -100], "seq_lengths": [2]}


@pytest.mark.slow
@pytest.mark.parametrize("packing", [False, True])
def test_two_processes_have_the_losses_of_one(tmp_path, packing):
    """Three epochs of 17 rows, or four packs, in steps of four rows."""
    losses = []
    for cards in (1, 2):
        settings = {"training.max_steps": -1, "training.epochs": 3, "training.packing": packing, "data.sample_size": 24}
        settings |= {"training.gradient_accumulation": 3 - cards, "model.max_length": 512 + 256 * packing}
        run = open_run("smoke", tmp_path / f"{cards}", settings)
        prepare(run, load_tokenizer(run.config.model))
        command = [sys.executable, *(LAUNCH if cards > 1 else ["train.py"]), "--run-dir", str(run.path)]
        subprocess.run(command, cwd=PROJECT_ROOT, check=True)
        losses.append([row["loss"] for row in read_jsonl(run / "training/log.jsonl") if "loss" in row])
    assert len(losses[0]) > 3
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
