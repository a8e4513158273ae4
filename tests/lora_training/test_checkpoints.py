"""Checkpoints on the disk: complete before they are marked, and the newest two by their steps."""

import os

import pytest

from helpers.files import read_json
from helpers.lora_training import checkpoints
from helpers.lora_training.checkpoints import last_checkpoint, mark_complete
from helpers.run_dir.folder import open_run
from helpers.run_dir.layout import MARKER


@pytest.fixture
def run(tmp_path):
    run = open_run("smoke", tmp_path / "run")
    (run / "data").mkdir()
    (run / "data/train.jsonl").write_text("{}\n")
    return run


def saved(run, step, age=0.0):
    """A checkpoint as transformers leaves it, `age` seconds old."""
    folder = run / f"checkpoints/checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_text(str(step))
    mark_complete(run, folder)
    os.utime(folder, (1e9 - age, 1e9 - age)) if folder.exists() else None
    return folder


def steps(run):
    return sorted(int(path.name.split("-")[1]) for path in (run / "checkpoints").glob("checkpoint-*"))


@pytest.mark.parametrize("direction", [1, -1, 0])
def test_the_two_of_the_most_steps_stay_whatever_their_dates(run, direction):
    """A clock that is put back, or files copied from a drive: transformers deletes the newest then, by its date."""
    for step in (8, 9, 10, 11):
        saved(run, step, age=direction * 86_400 * step)
    assert steps(run) == [10, 11]
    assert last_checkpoint(run)[1] == 11


def test_a_checkpoint_is_flushed_with_its_name_before_it_is_marked(run, monkeypatch):
    order = []
    for name in ("flush", "flush_names", "write_json"):
        call = getattr(checkpoints, name)
        monkeypatch.setattr(checkpoints, name, lambda *a, c=call, n=name: (order.append((n, a[0])), c(*a)))
    older = saved(run, 1)
    folder = saved(run, 2)
    assert order[3:] == [("flush", folder), ("flush_names", folder.parent), ("write_json", folder / MARKER)]
    assert read_json(folder / MARKER)["files"].keys() == {"adapter_model.safetensors"}
    assert older.exists()
