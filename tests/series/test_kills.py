"""Killed at random moments, a series and a training with two processes end as if undisturbed.

AI_DOCTOR_KILL_SEED repeats a run (the seed is printed), AI_DOCTOR_KILLS says how many kills each test makes.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import cycle
from pathlib import Path

import psutil
import pytest
from trainings import LAUNCH

from helpers import PROJECT_ROOT
from helpers.files import read_json
from helpers.run_dir.layout import STAGES

pytestmark = pytest.mark.slow

SEED = int(os.environ.get("AI_DOCTOR_KILL_SEED") or random.SystemRandom().randrange(10**6))
KILLS = int(os.environ.get("AI_DOCTOR_KILLS", 28))
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
WHOM = ("tree", "parent", "group")
SETTINGS = {
    "training.max_steps": 24,  # 2.7 epochs
    "training.checkpoints": 12,
    "generation.max_new_tokens": 24,
    "export.gguf": "q8_0",  # f16 comes with it
}
SERIES = ["-m", "helpers", "run", "--profile", "smoke"]
TIMES = re.compile(r"seconds|_ms$|per_second|memory_gib|resumed_from|^time$|^created$")
NO_RESULTS = re.compile(r"notebooks/|index\.html|stages\.json|run\.yaml|README\.md|checkpoints/|\.sqlite|\.replies")


class Command:
    """A command at work on a folder; `lines` are those of its standard output so far."""

    def __init__(self, folder: Path, *args: str, path: Sequence[Path] = ()) -> None:
        self.tmp = folder.parent / "tmp"
        self.tmp.mkdir(exist_ok=True)
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "AI_DOCTOR"))}
        more = {"TMPDIR": str(self.tmp), "JUPYTER_RUNTIME_DIR": str(self.tmp), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, *args, "--run-dir", str(folder)],
            cwd=PROJECT_ROOT,
            env=clean | more | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": ":".join(map(str, (*path, PROJECT_ROOT)))},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        self.lines: list[str] = []
        self.errors: list[str] = []
        for stream, found in ((self.process.stdout, self.lines), (self.process.stderr, self.errors)):
            threading.Thread(target=found.extend, args=(stream,), daemon=True).start()

    def wait_for(self, condition) -> bool:
        """Whether the condition came true before the end."""
        while self.process.poll() is None:
            if condition():
                return True
            time.sleep(0.02)
        return False

    def kill(self, number: int, whom: str) -> None:
        parent = psutil.Process(self.process.pid)
        if whom == "group":
            os.killpg(self.process.pid, number)
        for each in [parent, *parent.children(recursive=True)] if whom == "tree" else [parent] * (whom == "parent"):
            with suppress(psutil.NoSuchProcess):
                each.send_signal(number)

    def end(self, seconds: float = 3600) -> int:
        status = self.process.wait(seconds)
        time.sleep(0.2)  # what was said last is read
        return status


def results(folder: Path) -> dict[str, object]:
    """By name what a run's results are, without times: JSON as values, other files as bytes."""

    def timeless(value):
        if isinstance(value, dict):
            return {key: timeless(each) for key, each in value.items() if not TIMES.search(key)}
        return [timeless(each) for each in value] if isinstance(value, list) else value

    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not NO_RESULTS.search(name):
            text = path.read_bytes()
            if name == "adapter/adapter_config.json":
                found[name] = sorted(line.rstrip(b",") for line in text.splitlines())  # PEFT writes a set
            elif path.suffix == ".json" and "merged" not in name:
                found[name] = timeless(json.loads(text))
            elif path.suffix == ".yaml":
                found[name] = text.replace(str(folder).encode(), b"")
            elif name == "training/log.jsonl":
                found[name] = [timeless(json.loads(line)) for line in text.splitlines()]
            else:
                found[name] = text
    return found


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def different(one: dict, other: dict) -> list[str]:
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def draw(count: int) -> list[tuple[int, str, float]]:
    """Signal, whom and moment of each kill: every pair of the first two before one comes again."""
    print(f"\nAI_DOCTOR_KILL_SEED={SEED}")
    dice = random.Random(SEED)
    pairs = [(number, whom) for number in SIGNALS for whom in WHOM]
    dice.shuffle(pairs)
    return [(*pair, dice.random()) for pair, _ in zip(cycle(pairs), range(count), strict=False)]


def check_stop(command: Command, number: int, whom: str, status: int) -> None:
    """What a stopped command says, and its status."""
    if number == signal.SIGKILL:
        assert status == -number
        return
    [line] = command.errors
    assert line.startswith("stopped: the same command goes on with ") or "training is saved after step" in line
    assert status == 128 + number


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    command = Command(folder, *SERIES, *(f"--set={key}={value}" for key, value in SETTINGS.items()))
    assert command.end() == 0, command.errors
    return folder


def test_a_series_killed_in_every_stage_ends_as_an_undisturbed_one(undisturbed, tmp_path):
    seconds = {stage: record["seconds"] for stage, record in read_json(undisturbed / "stages.json").items()}
    folder, kills, spare = tmp_path / "run", draw(KILLS), 0
    arguments = [*SERIES, *(f"--set={key}={value}" for key, value in SETTINGS.items())]
    for i, (number, whom, moment) in enumerate(kills):
        stage = list(STAGES)[i * len(STAGES) // KILLS]
        command = Command(folder, *arguments)
        if command.wait_for(lambda c=command, s=stage: any(line.startswith(s) for line in c.lines)):
            time.sleep(moment * seconds[stage])
        if command.process.poll() is not None:
            assert command.end() == 0
            spare += 1
            continue
        command.kill(number, whom)
        status = command.end(60)
        left = [path.name for path in folder.rglob(".*") if ".tmp" in path.name or path.is_dir()]
        print(f"{stage} {signal.Signals(number).name} {whom} after {moment * seconds[stage]:.1f} s: {status}, {left}")
        check_stop(command, number, whom, status)
    command = Command(folder, *arguments)
    assert command.end() == 0, command.errors
    print(f"{KILLS - spare} kills; left in the temporary folder: {sorted(os.listdir(tmp_path / 'tmp'))}")
    assert different(results(undisturbed), results(folder)) == []
    assert files(folder) == files(undisturbed)
    left = {path.name for path in (tmp_path / "tmp").iterdir()}
    assert {name for name in left if not re.search("wandb|torch", name)} == set()  # wandb's and torch's own


def test_a_training_with_two_processes_that_is_killed_ends_as_an_undisturbed_one(undisturbed, tmp_path):
    """The launcher's own status and traceback are torch's; what is ours is the line, and that the training goes on."""
    for name in ("undisturbed", "killed"):
        shutil.copytree(undisturbed / "data", tmp_path / name / "data")
        shutil.copyfile(undisturbed / "run.yaml", tmp_path / name / "run.yaml")

    def started(folder: Path) -> Command:
        """A training that has opened the folder and trains, or ended because it was finished."""
        note = folder / "training/made_from.json"
        before = note.stat().st_ino if note.is_file() else None
        command = Command(folder, *LAUNCH)
        command.wait_for(lambda: note.is_file() and note.stat().st_ino != before)
        return command

    command = started(tmp_path / "undisturbed")
    begun = time.monotonic()
    assert command.end() == 0, command.errors
    length, folder, kills = time.monotonic() - begun, tmp_path / "killed", 0
    for number, whom, moment in draw(min(KILLS, 9)):
        command = started(folder)
        time.sleep(moment * length / 2)  # else the first is often the last
        if command.process.poll() is not None:
            assert command.end() == 0, command.errors
            break
        workers = psutil.Process(command.process.pid).children(recursive=True)
        command.kill(number, whom)
        status, kills = command.end(60), kills + 1
        killed = time.monotonic()
        _, alive = psutil.wait_procs(workers, timeout=120)  # those of a launcher that was killed may train to the end
        name, gone = signal.Signals(number).name, time.monotonic() - killed
        print(f"{name} {whom} after {moment * length / 2:.1f} s: {status}, workers gone {gone:.1f} s later")
        assert alive == []
        stops = ("stopped: the same command goes on with ", "stopped by SIGTERM: training is saved after step ")
        said = [line for line in command.errors if line.startswith(stops)]
        assert len(said) == (number != signal.SIGKILL), command.errors
    assert Command(folder, *LAUNCH).end() == 0
    assert kills
    assert different(results(tmp_path / "undisturbed"), results(folder)) == []
    assert files(folder) == files(tmp_path / "undisturbed")


JUMPS = """
import random, sys, time
now, now_ns, began, dice = time.time, time.time_ns, time.monotonic(), random.Random(0)
# The series' own goes back alone: where it goes forward as a kernel starts, jupyter_client takes that for 300 seconds
# without an answer, which is one line (see test_kernels).
days = (-86400, 86400) if any("ipykernel" in word for word in sys.orig_argv) else (-86400,)
jumps = [dice.choice(days) for _ in range(10_000)]
def shift(): return sum(jumps[: int((time.monotonic() - began) / 5)])
time.time, time.time_ns = lambda: now() + shift(), lambda: now_ns() + shift() * 10**9
"""


def test_a_clock_that_jumps_a_day_every_five_seconds_changes_nothing(undisturbed, tmp_path):
    """Python's clock, in the series and in its kernels; what the file system dates is in test_checkpoints."""
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock/sitecustomize.py").write_text(JUMPS)
    settings = [f"--set={key}={value}" for key, value in SETTINGS.items()]
    command = Command(tmp_path / "run", *SERIES, *settings, path=[tmp_path / "clock"])
    assert command.end() == 0, command.errors
    assert different(results(undisturbed), results(tmp_path / "run")) == []
    seconds = [record["seconds"] for record in read_json(tmp_path / "run/stages.json").values()]
    assert all(0 < each < 86_400 / 2 for each in seconds)
    assert 0 < read_json(tmp_path / "run/training/metrics.json")["seconds"] < 86_400 / 2
