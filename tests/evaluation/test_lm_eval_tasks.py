"""The tasks that a run leaves for lm-evaluation-harness: read and scored by the harness itself, in its own folder."""

import json
import os
import subprocess
import sys

import pytest
import yaml

from helpers.config import Config
from helpers.evaluation.lm_eval_tasks import write_tasks
from helpers.files import atomic_dir, read_jsonl
from helpers.models.packaged import cache_folder

SETTINGS = Config.resolve("smoke", {"generation.max_new_tokens": 24}).generation
RELEASE = "0.4.13"
# What it imports and this environment has not.
PACKAGES = ["evaluate", "jsonlines", "more-itertools", "pytablewriter", "rouge-score", "sacrebleu", "sqlitedict"]
PACKAGES += ["word2number", "dataproperty", "mbstrdecoder", "pathvalidate", "tabledata", "tcolorpy", "typepy"]
PACKAGES += ["portalocker", "tabulate", "lxml", "nltk", "absl-py", "colorama", "pytz", "dill", "tqdm-multiprocess"]
# A backend that gives the replies that it is handed, and what the harness makes of them.
HARNESS = """
import json, sys
from lm_eval.api.model import LM
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager
task = json.load(sys.stdin)
asked = []
class Given(LM):
    loglikelihood = loglikelihood_rolling = None
    def generate_until(self, requests):
        asked.extend(request.args for request in requests)
        return [task["replies"][request.doc["id"]] for request in requests]
loaded = TaskManager(include_defaults=False, include_path=task["folder"]).load(["t"])
found = evaluate(Given(), loaded, bootstrap_iters=0)["results"]["t"]
json.dump({"accuracy": found["exact_match,last-statement"], "asked": asked}, sys.stdout)
"""
REPLIES = {
    "t-0": "It is B.</think>The answer is (A).",
    "t-1": "</think>The answer is B, no: the answer is A",
    "t-2": "The answer is A, I think, but",
    "t-3": "</think>Nobody knows.",
    "t-4": "</think>The answer is (B).",
}


def question(task, i, **more):
    row = {"task": task, "id": f"{task}-{i}", "question": "Why?", "prompt": f"<|Why {i}?|>", "target": "A"}
    return {**row, "options": {"A": "yes", "B": "no"}, **more}


def test_the_tasks_hold_prompts_sampling_and_choice_questions_alone(tmp_path):
    rows = [question("t", 0), question("t", 1)]
    write_tasks(tmp_path / "tasks", [question("older", 0)], SETTINGS)
    opened = {key: value for key, value in question("validation", 0).items() if key != "options"}
    write_tasks(tmp_path / "tasks", [opened, *rows], SETTINGS)
    assert sorted(path.name for path in (tmp_path / "tasks").iterdir()) == ["t.jsonl", "t.yaml"]
    assert read_jsonl(tmp_path / "tasks/t.jsonl") == rows
    task = yaml.safe_load((tmp_path / "tasks/t.yaml").read_text())
    assert task["generation_kwargs"] == {
        "until": [], "max_gen_toks": 24, "do_sample": False, "temperature": 0.0, "top_p": 1.0,
    }  # fmt: skip
    assert task["dataset_kwargs"] == {"data_files": {"test": str(tmp_path / "tasks/t.jsonl")}}


@pytest.mark.network
def test_the_harness_reads_and_scores_them(tmp_path):
    folder = cache_folder() / f"lm-eval-{RELEASE}"
    if not folder.is_dir():
        with atomic_dir(folder) as temporary:
            command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps", "--python", sys.executable]
            command += ["--target", str(temporary), f"lm-eval=={RELEASE}", *PACKAGES]
            ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
            if ended.returncode:
                pytest.skip(f"no package index: {ended.stderr.strip().splitlines()[-1]}")
    rows = [question("t", i) for i in range(5)]
    write_tasks(tmp_path / "tasks", rows, SETTINGS)
    given = json.dumps({"folder": str(tmp_path / "tasks"), "replies": REPLIES})
    paths = {"PYTHONPATH": str(folder), "HF_DATASETS_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", HARNESS]
    done = subprocess.run(command, input=given, env=os.environ | paths, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found["accuracy"] == pytest.approx(2 / 5)  # the first two
    assert found["asked"] == [[row["prompt"], yaml.safe_load((tmp_path / "tasks/t.yaml").read_text())[
        "generation_kwargs"]] for row in rows]  # fmt: skip
