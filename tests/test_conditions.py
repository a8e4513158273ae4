"""A machine that fails: no room, no memory, no network. One clear line, and what was finished stays as it was."""

import errno
import os
import socket
import sys
import time
from types import SimpleNamespace

import pytest
from test_cli import error_line

from helpers import InputError
from helpers.config import Config
from helpers.files import write_jsonl, write_text
from helpers.models import packaged
from helpers.models.loading import model_source
from helpers.run_dir import Run, open_run
from helpers.series import runner
from helpers.sources import stored
from helpers.sources.rows import read_rows
from helpers.tracking import tracked

FULL = OSError(errno.ENOSPC, "No space left on device")
ROW = {"Question": "Which?", "Complex_CoT": "So.", "Response": "That."}


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fails(error):
    def fail(*_, **__):
        raise error

    return fail


# The cache folder -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["a file", "below a file", "read-only", "full"])
@pytest.mark.parametrize("name", ["tiny", "embedded"])
def test_a_cache_folder_that_cannot_be_used_is_one_line(tmp_path, monkeypatch, place, name):
    (tmp_path / "file").write_text("mine")
    folder = {"a file": "file", "below a file": "file/cache"}.get(place, "cache")
    monkeypatch.setenv("AI_DOCTOR_CACHE", str(tmp_path / folder))
    if place == "read-only":  # root may write anywhere
        monkeypatch.setattr("tempfile.mkdtemp", fails(OSError(errno.EROFS, "Read-only file system")))
    monkeypatch.setattr(packaged, "_dequantise", fails(FULL))
    with pytest.raises(InputError, match=f"^cannot unpack {name} to the cache folder .*; set AI_DOCTOR_CACHE to"):
        model_source(name)
    assert contents(tmp_path) == {"file": b"mine"}


# The temporary folder ---------------------------------------------------------------------------------------------


def test_a_full_temporary_folder_is_one_line_before_any_folder_is_made(tmp_path, monkeypatch):
    write_jsonl(tmp_path / "rows.jsonl", [ROW] * 50)
    made = stored.tempfile.SpooledTemporaryFile(1000)
    monkeypatch.setattr(made, "rollover", fails(FULL))
    monkeypatch.setattr(stored.tempfile, "SpooledTemporaryFile", lambda size: made)
    with pytest.raises(InputError, match=r"^cannot keep the rows in the temporary folder: No space left.*; set TMPDIR"):
        open_run("smoke", tmp_path / "run", {"data.source": str(tmp_path / "rows.jsonl")})
    assert not (tmp_path / "run").exists()


def test_rows_that_need_a_file_are_read_back_as_they_were(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "IN_MEMORY", 1000)
    rows = [{name: f"{text} {k} é" for name, text in ROW.items()} for k in range(100)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    read, _ = read_rows(Config.resolve("laptop", {"data.source": str(tmp_path / "rows.jsonl")}).data, 1)
    changed = read[3] | {"Response": "Other.", "split": "train"}
    assert [{name: row[name] for name in ROW} for row in read] == rows
    assert dict(changed) == {**rows[3], "Response": "Other.", "line": 4, "split": "train"}
    assert dict(read[3]) == {**rows[3], "line": 4}


# Memory -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def finished(tmp_path):
    """A run folder with something finished in it, and its content."""
    run = open_run("smoke", tmp_path / "run")
    write_text(run / "baseline/metrics.json", "{}")
    return SimpleNamespace(path=run.path, before=contents(run.path))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("MemoryError", ""),
        ("RuntimeError", "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: not enough memory: you tried"),
        ("OutOfMemoryError", "CUDA out of memory. Tried to allocate 40 GiB"),
    ],
)
def test_a_stage_without_memory_is_one_line(cli, finished, monkeypatch, name, text):
    from papermill.exceptions import PapermillExecutionError

    error = PapermillExecutionError(3, 3, "x = 1", name, text, ["Traceback"])
    monkeypatch.setattr("papermill.execute_notebook", fails(error))
    result = cli("run", "--run-dir", finished.path, "--only", "01")
    assert error_line(result).startswith("error: 01_setup: memory ran out (")
    assert contents(finished.path) == finished.before


def test_the_command_without_memory_is_one_line(cli, finished, monkeypatch):
    monkeypatch.setattr(runner, "stage_inputs", fails(MemoryError()))
    assert "memory ran out" in error_line(cli("run", "--run-dir", finished.path, "--only", "01"))
    assert contents(finished.path) == finished.before


def test_a_kernel_that_the_system_kills_is_one_line(cli, finished, monkeypatch):
    from nbclient.exceptions import DeadKernelError

    monkeypatch.setattr("papermill.execute_notebook", fails(DeadKernelError("Kernel died")))
    result = cli("run", "--run-dir", finished.path, "--only", "01")
    assert result.err.strip() == "error: 01_setup failed: its kernel died, most often because memory ran out"
    assert contents(finished.path) == finished.before


# Weights & Biases -------------------------------------------------------------------------------------------------


@pytest.fixture
def wandb(monkeypatch):
    """A wandb whose `init` fails in the modes in `broken`; `modes` are those that were tried."""
    fake = SimpleNamespace(broken={}, modes=[], Settings=dict, teardown=lambda: None)

    def init(mode, **_):
        fake.modes.append(mode)
        if mode in fake.broken:
            raise fake.broken[mode]
        return SimpleNamespace(finish=lambda exit_code=0: None, mode=mode)

    fake.init = init
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr("helpers.tracking._check_connection", lambda: None)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    for name in ("WANDB_MODE", "WANDB_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    return fake


@pytest.mark.parametrize("error", [OSError("Network is unreachable"), TimeoutError(), RuntimeError("ssl")])
def test_whatever_wandb_says_of_the_network_the_job_goes_on(wandb, tmp_path, capsys, error):
    wandb.broken = {"online": error}
    run = open_run("smoke", tmp_path / "run", {"tracking.wandb": "auto"})
    with tracked(run, "training") as tracker:
        assert tracker.mode == "offline"
    assert wandb.modes == ["online", "offline"]
    assert capsys.readouterr().out.startswith("W&B online fails (")


def test_a_wandb_that_cannot_write_either_is_done_without(wandb, tmp_path, capsys):
    wandb.broken = {"online": OSError("no route"), "offline": FULL}
    run = open_run("smoke", tmp_path / "run", {"tracking.wandb": "auto"})
    with tracked(run, "training") as tracker:
        assert tracker is None
    assert capsys.readouterr().out.splitlines()[-1] == f"W&B cannot start ({FULL}): no tracking"


@pytest.mark.slow
def test_a_wandb_server_that_never_answers_is_given_up_soon(tmp_path, monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
        monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
        run, began = open_run("smoke", tmp_path / "run", {"tracking.wandb": "auto"}), time.monotonic()
        with tracked(run, "training"):
            seconds = time.monotonic() - began
    assert seconds < 30
    assert capsys.readouterr().out.startswith("W&B online fails (")


# The run folder ---------------------------------------------------------------------------------------------------


def test_a_disk_that_fills_up_while_03_writes_leaves_the_older_data(cli, finished, monkeypatch):
    from papermill.exceptions import PapermillExecutionError

    write_text(finished.path / "data/report.json", "{}")
    before = contents(finished.path)
    error = PapermillExecutionError(3, 3, "x = 1", "OSError", str(FULL), ["Traceback"])
    monkeypatch.setattr("papermill.execute_notebook", fails(error))
    assert "is full" in error_line(cli("run", "--run-dir", finished.path, "--only", "03"))
    assert contents(finished.path) == before


def test_a_read_only_run_folder_is_one_line_before_any_work(finished, monkeypatch):
    monkeypatch.setattr("tempfile.TemporaryFile", fails(OSError(errno.EROFS, os.strerror(errno.EROFS))))
    with pytest.raises(InputError, match=r"^cannot write to the run folder .*: Read-only file system$"):
        open_run("auto", finished.path)
    assert contents(finished.path) == finished.before
    assert Run(finished.path, Config.resolve("smoke")).record["profile"] == "smoke"
