"""train.py and evaluate.py as two processes on this CPU run them, one after the other in one launch."""

import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from helpers import PROJECT_ROOT
from helpers.evaluation.evaluate import evaluate
from helpers.files import read_json, read_jsonl, write_jsonl
from helpers.lora_training.batches import load_split
from helpers.lora_training.checkpoints import last_checkpoint
from helpers.models.loading import load_tokenizer
from helpers.run_dir.folder import open_run

# Imports take most of a launch, so that both scripts run in the same two processes.
BOTH = """
import runpy, sys
from accelerate import PartialState
for script in ("train.py", "evaluate.py"):
    sys.argv[0] = script
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as ended:
        if ended.code:
            raise
    PartialState().wait_for_everyone()  # else one would look for an adapter that the other is still writing
"""
SETTINGS = {
    "training.max_steps": -1, "training.checkpoints": 2, "evaluation.max_validation": 2, "evaluation.max_questions": 3,
    "generation.temperature": 0.9, "generation.max_new_tokens": 8,
}  # fmt: skip
SIDES = ("base", "tuned")


@pytest.fixture(scope="module")
def together(tmp_path_factory, sample_rows):
    """The run that both processes made, and what they said."""
    folder = tmp_path_factory.mktemp("together")
    run = open_run("smoke", folder / "run", SETTINGS)
    write_jsonl(run / "data/train.jsonl", sample_rows[:8])
    write_jsonl(run / "data/validation.jsonl", sample_rows[8:10])
    (folder / "both.py").write_text(BOTH)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", folder / "both.py"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT_ROOT)}
    done = subprocess.run(
        [*launch, "--run-dir", run.path], cwd=PROJECT_ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(run=run, out=done.stdout)


def test_two_processes_train_together_and_one_of_them_writes(together):
    run, metrics = together.run, read_json(together.run / "training/metrics.json")
    assert together.out.count("validation loss") == 1
    assert (metrics["steps"], metrics["epochs"]) == (2, 1)  # eight rows, two processes of two each
    rows = load_split(run, "train", load_tokenizer(run.config.model))
    assert metrics["tokens"] == sum(len(row["input_ids"]) for row in rows)
    assert [row["step"] for row in read_jsonl(run / "training/log.jsonl") if "loss" in row] == [1, 2]
    assert last_checkpoint(run)[1] == 2


def test_two_processes_share_the_questions_out_as_one_would_answer_them(together, tmp_path):
    assert together.out.count("loss of unseen rows") == 1
    alone = open_run("auto", shutil.copytree(together.run.path, tmp_path / "alone"))
    shutil.rmtree(alone / "evaluation")
    evaluate(alone)
    for side in SIDES:
        one, two = (read_jsonl(run / f"evaluation/predictions.{side}.jsonl") for run in (alone, together.run))
        for a, b in zip(one, two, strict=True):
            assert a.keys() == b.keys()
            for key in a:  # losses and probabilities but for rounding, the rest to the letter
                rounded = key.startswith("nll") or (key == "letters" and a[key])
                assert b[key] == (pytest.approx(a[key], rel=1e-4) if rounded else a[key])


def test_the_next_process_asks_no_question_again(together, monkeypatch):
    kept = {path.name for path in (together.run / "evaluation").glob(".replies.*")}
    assert kept == {f".replies.{name}.jsonl" for name in SIDES}
    monkeypatch.setattr("helpers.generation.replies.decode", None)
    evaluate(together.run)
