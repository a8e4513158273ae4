"""One process at a time in a run folder, on file systems with locks and without; real second processes."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
from conftest import fails

from helpers import PROJECT_ROOT, InputError
from helpers.baseline_inference import predict_baseline
from helpers.config import Config
from helpers.dataset_prep.prepare import prepare
from helpers.evaluation.evaluate import evaluate
from helpers.export.gguf import convert
from helpers.export.merge import merge
from helpers.lora_training.train import train
from helpers.retrieval.reading import read_and_answer
from helpers.run_dir import owner
from helpers.run_dir.folder import Run, alone_in
from helpers.run_dir.owner import HELD, OWNER, owned

OTHER = """
import fcntl, os, signal, sys, time
from pathlib import Path
from helpers import InputError
from helpers.run_dir import owner
from helpers.run_dir import stopping
def refuse(*_): raise OSError(95, "Operation not supported")
if sys.argv[2] == "no locks": fcntl.flock = refuse
owner.BEAT_SECONDS = 0.1
signal.signal(signal.SIGINT, signal.SIG_IGN if "BACKGROUND" in os.environ else signal.default_int_handler)
try:
    with stopping.stops_in_one_line("stopped"), owner.owned(Path(sys.argv[1]), "runs/x"):
        print("in", flush=True)
        time.sleep(float(sys.argv[3]))
except InputError as error:
    print(error)
"""


@pytest.fixture
def other(tmp_path):
    """`other("no locks")`: a second process that asks for tmp_path; its first line is read with `said`."""
    started = []

    def start(locks, seconds=60.0, **more):
        clean = {name: value for name, value in os.environ.items() if name != HELD} | more
        command = [sys.executable, "-c", OTHER, tmp_path, locks, str(seconds)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(command, cwd=PROJECT_ROOT, env=clean, text=True, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def no_locks(monkeypatch):
    monkeypatch.setattr("fcntl.flock", fails(OSError(errno.ENOTSUP, "Operation not supported")))


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(owner, "BEAT_SECONDS", 0.1)
    monkeypatch.delenv(HELD, raising=False)


def said(process):
    return process.stdout.readline().strip()


def refusal(folder):
    with pytest.raises(InputError) as error, owned(folder, "runs/x"):
        pytest.fail("it was let in")
    return str(error.value)


def left_by(folder, **facts):
    """The file of an owner, this machine's by default."""
    now = {"token": "other", "host": "there", "machine": owner._machine(), "pid": os.getppid(), "since": "then"}
    (folder / OWNER).write_text(json.dumps(now | facts))


@pytest.mark.parametrize("locks", ["locks", "no locks"])
def test_a_second_process_is_refused_in_one_line_and_a_dead_one_replaced(tmp_path, other, request, locks):
    if locks == "no locks":
        request.getfixturevalue("no_locks")
    first = other(locks)
    assert said(first) == "in"
    line = rf"another process is using runs/x: process {first.pid} on \S+, since \S+\+00:00; wait, or choose another.*"
    assert re.fullmatch(line, refusal(tmp_path))
    first.kill()
    first.wait()
    assert (tmp_path / OWNER).is_file()
    started = time.monotonic()
    with owned(tmp_path, "runs/x"):
        assert json.loads((tmp_path / OWNER).read_text())["pid"] == os.getpid()
    watched = time.monotonic() - started > 0.1 * owner.PATIENCE_BEATS
    assert watched == (locks == "no locks")  # a lock says at once that its process is gone
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [{"machine": "another"}, {}, None])
def test_an_owner_that_may_be_alive_is_watched_and_replaced_when_it_stands_still(tmp_path, no_locks, capsys, content):
    """On another machine, on this one without locks, with a file cut off when it was killed."""
    left_by(tmp_path, **(content or {}))
    if content is None:
        (tmp_path / OWNER).write_text('{"tok')
    started = time.monotonic()
    with owned(tmp_path, "runs/x") as first:
        assert first
    assert time.monotonic() - started >= 0.1 * owner.PATIENCE_BEATS
    assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_no_owner_behind(tmp_path, monkeypatch):
    """Half of its file would be watched by the next process, as another machine's."""
    monkeypatch.setattr(owner.json, "dump", fails(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OSError, match="No space left"), owned(tmp_path, "runs/x"):
        pytest.fail("it was let in")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("locks", [True, False])
def test_an_owner_elsewhere_that_beats_is_not_replaced(tmp_path, monkeypatch, request, locks):
    """Locks that work here alone, as on a drive that two machines have mounted, do not hide it."""
    if not locks:
        request.getfixturevalue("no_locks")
    left_by(tmp_path, machine="another", host="elsewhere", pid=7)
    beat = threading.Timer(0.3, left_by, (tmp_path,), {"machine": "another", "host": "elsewhere", "pid": 7, "beat": 1})
    beat.start()
    assert "process 7 on elsewhere, since then" in refusal(tmp_path)
    beat.join()
    assert (tmp_path / OWNER).is_file()


def test_one_whose_file_is_replaced_while_it_replaces_a_dead_ones_is_refused(tmp_path, monkeypatch):
    left_by(tmp_path)
    monkeypatch.setattr(owner.time, "sleep", lambda _: left_by(tmp_path, pid=7))
    assert "process 7 on there" in refusal(tmp_path)
    assert json.loads((tmp_path / OWNER).read_text())["pid"] == 7


def test_an_owner_whose_file_is_deleted_goes_on_until_another_comes(tmp_path, no_locks):
    with owned(tmp_path, "runs/x"):
        (tmp_path / OWNER).unlink()
        time.sleep(0.3)
        assert not (tmp_path / OWNER).exists()


def test_the_beat_grows_in_place_and_its_end_does_not_stop_the_work(tmp_path, monkeypatch):
    with owned(tmp_path, "runs/x"):
        before, inode = json.loads((tmp_path / OWNER).read_text()), (tmp_path / OWNER).stat().st_ino
        time.sleep(0.35)
        after = json.loads((tmp_path / OWNER).read_text())
        assert (int(after.pop("beat")) >= 2, int(before.pop("beat"))) == (True, 0)
        assert (after, (tmp_path / OWNER).stat().st_ino) == (before, inode)
        monkeypatch.setattr(threading, "excepthook", lambda _: None)
        monkeypatch.setattr(owner.json, "dump", lambda *_: 1 / 0)
        time.sleep(0.3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("more", "status"), [({}, 130), ({"BACKGROUND": "1"}, 143)])
def test_one_that_another_has_replaced_stops_and_leaves_the_others_file(tmp_path, other, more, status):
    first = other("no locks", **more)
    assert said(first) == "in"
    left_by(tmp_path, pid=7)
    _, errors = first.communicate(timeout=10)
    assert (first.returncode, errors.splitlines()[-1]) == (status, "stopped")
    assert re.match(r"another process is using runs/x: process 7 on there, since then; .*; this one stops", errors)
    assert json.loads((tmp_path / OWNER).read_text())["token"] == "other"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_process_says_so_once_and_gives_the_folder_back(tmp_path, other, number, status):
    first = other("locks")
    assert said(first) == "in"
    for _ in range(2 if number == signal.SIGTERM else 1):
        first.send_signal(number)
    assert (first.communicate(timeout=10)[1], first.returncode) == ("stopped\n", status)
    assert list(tmp_path.iterdir()) == []


def test_a_kernel_works_in_the_folder_of_its_series_and_an_orphan_does_not(tmp_path, other):
    with owned(tmp_path, "runs/x"):
        held = os.environ[HELD]
        with owned(tmp_path, "runs/x") as first:
            assert not first
        assert said(other("locks", 0, **{HELD: held})) == "in"
        assert (tmp_path / OWNER).is_file()
        assert said(other("locks", **{HELD: f"other {tmp_path}"})).startswith("another process is using")
        assert said(other("locks", **{HELD: f"{held.split()[0]} /elsewhere"})).startswith("another process is using")
    assert not os.environ[HELD]


def test_a_stage_by_hand_is_refused_where_another_process_works(tmp_path, other):
    assert said(other("locks")) == "in"
    for stage in (predict_baseline, prepare, train, evaluate, merge, convert, read_and_answer):
        with pytest.raises(InputError, match="another process is using"):
            stage(Run(tmp_path, Config.resolve("smoke")), None, None)


def test_what_killed_processes_left_is_removed_by_the_first_alone(tmp_path, monkeypatch):
    run = Run(tmp_path, Config.resolve("smoke"))
    names = [".stages.json.123.tmp", "training/.log.jsonl.123.tmp", "notebooks/.04.ipynb.tmp.ipynb",
             "export/.model-f16.gguf.tmp", "evaluation/.tasks.abcd1234/file"]  # fmt: skip
    kept = ["evaluation/.replies.base.jsonl", "training/log.jsonl", ".git/x.tmp"]

    def make():
        for name in (*names, *kept):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()

    make()
    with alone_in(run):
        assert sorted(str(f.relative_to(tmp_path)) for f in tmp_path.rglob("*") if f.is_file()) == sorted(
            [*kept, OWNER]
        )
        make()
        with alone_in(run):  # a stage in its series
            assert all((tmp_path / name).exists() for name in names)
    monkeypatch.setenv("RANK", "1")
    with alone_in(run):
        assert all((tmp_path / name).exists() for name in names)
        assert not (tmp_path / OWNER).exists()


def test_two_machines_that_copy_to_one_folder_are_told_apart(tmp_path, other, monkeypatch):
    """Each works in a folder of its own; the second is refused before it works."""
    backup = tmp_path / "drive"
    backup.mkdir()
    run = Run(tmp_path / "run", Config.resolve("smoke", {"session.backup": str(backup)}))
    run.path.mkdir()
    with alone_in(run):
        assert (backup / OWNER).is_file()
        assert os.environ[HELD].count("\n") == 1
        with alone_in(run):
            pass
    assert not (backup / OWNER).exists()
    left_by(backup, machine="another")
    monkeypatch.setattr(owner, "_watch", fails(InputError("another process is using it")))
    with pytest.raises(InputError), alone_in(run):
        pass
    assert not (run / OWNER).exists()
    shutil.rmtree(backup)
    with alone_in(run):  # unmounted: the work goes on
        assert (run / OWNER).is_file()
