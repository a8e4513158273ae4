"""A machine that fails: no room, no memory, no network. One clear line, and what was finished stays as it was."""

import errno
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from conftest import contents, error_line, fails

from helpers import InputError
from helpers.config import Config
from helpers.files import write_json, write_jsonl, write_text
from helpers.models import packaged
from helpers.models.loading import model_source
from helpers.run_dir.folder import open_run
from helpers.series import runner
from helpers.sources import rows as row_source
from helpers.sources.rows import read_rows

FULL = OSError(errno.ENOSPC, "No space left on device")
ROW = {"Question": "Which?", "Complex_CoT": "So.", "Response": "That."}


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


def test_two_that_unpack_the_same_model_at_once_make_it_once(tmp_path, monkeypatch):
    made, both = [], threading.Barrier(2)

    def make(_, folder):
        made.append(folder)
        time.sleep(0.2)
        write_json(folder / "config.json", {})

    def ask(_):
        both.wait()
        return packaged.embedded_folder()

    monkeypatch.setenv("AI_DOCTOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(packaged, "_dequantise", make)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(ask, range(2))
    assert (first, len(made)) == (second, 1)
    assert (first / "config.json").is_file()


# The temporary folder ---------------------------------------------------------------------------------------------


def test_a_full_temporary_folder_is_one_line_before_any_folder_is_made(tmp_path, monkeypatch):
    write_jsonl(tmp_path / "rows.jsonl", [ROW] * 50)
    made = row_source.tempfile.SpooledTemporaryFile(1000)
    monkeypatch.setattr(made, "rollover", fails(FULL))
    monkeypatch.setattr(row_source.tempfile, "SpooledTemporaryFile", lambda size: made)
    with pytest.raises(InputError, match=r"^cannot keep the rows in the temporary folder: No space left.*; set TMPDIR"):
        open_run("smoke", tmp_path / "run", {"data.source": str(tmp_path / "rows.jsonl")})
    assert not (tmp_path / "run").exists()


def test_rows_that_need_a_file_are_read_back_as_they_were(tmp_path, monkeypatch):
    monkeypatch.setattr(row_source, "IN_MEMORY", 1000)
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
        ("ImportError", "libtorch_cpu.so: failed to map segment from shared object"),
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


# A file of somebody else's, or a drive that is gone --------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EIO, errno.ESTALE])
def test_a_file_out_of_reach_is_one_line_in_a_stage_and_in_the_command(cli, finished, monkeypatch, number):
    from papermill.exceptions import PapermillExecutionError

    denied = OSError(number, "no such luck", "/there/x")
    error = PapermillExecutionError(3, 3, "x = 1", type(denied).__name__, str(denied), ["Traceback"])
    monkeypatch.setattr("papermill.execute_notebook", fails(error))
    line = error_line(cli("run", "--run-dir", finished.path, "--only", "01"))
    assert line == "error: 01_setup: no such luck: '/there/x'; what was finished stays"
    monkeypatch.setattr(runner, "stage_inputs", fails(denied))
    line = error_line(cli("run", "--run-dir", finished.path, "--only", "01"))
    assert line == "error: no such luck: /there/x; what was finished stays"
    assert contents(finished.path) == finished.before


def test_a_run_record_that_may_not_be_read_says_so(finished, monkeypatch):
    monkeypatch.setattr("pathlib.Path.read_text", fails(PermissionError(errno.EACCES, "Permission denied")))
    with pytest.raises(InputError, match=r"^cannot read .*run\.yaml: Permission denied$"):
        open_run("auto", finished.path)
