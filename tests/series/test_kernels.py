"""The kernels that the runner starts: what they inherit, what they must not, and where their sockets are."""

import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
import pytest
from conftest import fails
from papermill.exceptions import PapermillExecutionError

from helpers import PROJECT_ROOT, InputError, StageError
from helpers.run_dir.folder import open_run
from helpers.series import runner
from helpers.series.runner import execute, run_series, socket_folder
from helpers.tracking.secrets import SECRETS

SHOWN = """
import json, locale, os, pathlib, sys
names = ["WORLD_SIZE", "RANK", "LOCAL_RANK", "HF_TOKEN", "WANDB_API_KEY", "NCBI_API_KEY"]
import helpers.machine.hardware
facts = {name: os.environ.get(name) for name in names}
facts |= {"encoding": locale.getpreferredencoding(), "argv": sys.argv}
pathlib.Path(os.environ["SHOWN"]).write_text(json.dumps(facts))
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run whose 01 only writes down what its kernel is like."""
    opened = open_run("smoke", tmp_path / "run")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(SHOWN)])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    (tmp_path / "notebooks").mkdir()
    nbformat.write(notebook, tmp_path / "notebooks/01_setup.ipynb")
    monkeypatch.setattr(runner, "PROJECT_ROOT", tmp_path)
    monkeypatch.setattr(runner, "write_index", lambda run: None)
    monkeypatch.setenv("SHOWN", str(tmp_path / "shown.json"))
    monkeypatch.setenv("PYTHONPATH", str(PROJECT_ROOT))
    return opened


def socket_folders():
    """Those of this process."""
    return set(Path("/tmp").glob(f"ai-doctor-{os.getpid()}-*"))


@pytest.fixture
def page(tmp_path, monkeypatch):
    """Colab, with every secret: its page answers the process that it talks to; any other waits for ten seconds."""
    (tmp_path / "colab/google/colab").mkdir(parents=True)
    (tmp_path / "colab/google/colab/userdata.py").write_text(
        "import os\n"
        "def get(name):\n"
        "    if os.getpid() == int(os.environ['PAGE']):\n"
        "        return 'the ' + name\n"
        "    raise TimeoutError(name)\n"
    )
    monkeypatch.setenv("PAGE", str(os.getpid()))
    monkeypatch.syspath_prepend(str(tmp_path / "colab"))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'colab'}:{PROJECT_ROOT}")
    for name in ("google.colab", "google.colab.userdata"):  # what the test imports is gone afterwards
        monkeypatch.setitem(sys.modules, name, None)
        del sys.modules[name]
    import google

    monkeypatch.setattr(google, "__path__", [str(tmp_path / "colab/google"), *google.__path__])
    import google.colab

    for name in SECRETS:
        monkeypatch.setenv(name, "")  # put back afterwards
        monkeypatch.delenv(name)


def test_a_kernel_is_one_process_with_utf8_and_colabs_secrets_and_leaves_nothing(run, page, monkeypatch):
    """Whatever locale and launcher the series was started by. While it runs, its sockets and key are in one folder."""
    before = socket_folders()
    for name, value in {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}.items():
        monkeypatch.setenv(name, value)
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):  # LOCAL_RANK tells here that a launcher is at work
        monkeypatch.setenv(name, "1" if name == "WORLD_SIZE" else "0")
    run_series(run, ["01_setup"])
    facts = json.loads(Path(os.environ["SHOWN"]).read_text())
    assert facts["encoding"].lower() == "utf-8"
    assert [facts[name] for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK")] == [None] * 3
    assert {name: facts[name] for name in SECRETS} == {name: f"the {name}" for name in SECRETS}
    [key] = [word for word in facts["argv"] if word.endswith("/kernel.json")]
    assert key.startswith(f"/tmp/ai-doctor-{os.getpid()}-")
    gc.collect()
    assert socket_folders() == before


def test_a_stage_that_fails_below_a_long_tmpdir_leaves_no_sockets(run, tmp_path, monkeypatch):
    folder = tmp_path / ("b" * 120)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    before = socket_folders()
    monkeypatch.delenv("SHOWN")
    with pytest.raises(StageError, match="KeyError"):
        execute(run, "01_setup")
    gc.collect()  # the error's frames hold the kernel's manager
    assert list(folder.iterdir()) == []
    assert socket_folders() == before


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({}, (1, True)),
        ({"WORLD_SIZE": "2"}, (1, True)),
        ({"RANK": "1"}, (1, True)),
        ({"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1"}, (1, True)),
        ({"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}, (2, False)),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}, (2, True)),
    ],
)
def test_several_processes_are_believed_of_a_launcher_alone(variables, told):
    code = "from helpers.machine.processes import is_main_process, world_size; print((world_size(), is_main_process()))"
    clean = {name: value for name, value in os.environ.items() if name not in ("WORLD_SIZE", "RANK", "LOCAL_RANK")}
    done = subprocess.run([sys.executable, "-c", code], env=clean | variables, capture_output=True, text=True)
    assert done.stdout.strip() == str(told)


def test_a_kernel_that_does_not_answer_is_one_line(run, monkeypatch):
    """As where the clock jumps a day ahead as it starts: jupyter_client waits by that clock."""

    monkeypatch.setattr("papermill.execute_notebook", fails(RuntimeError("Kernel didn't respond in 300 seconds")))
    with pytest.raises(
        StageError, match=r"^01_setup failed: its kernel did not start in 300 seconds, or the clock"
    ) as e:
        execute(run, "01_setup")
    assert (e.value.traceback, e.value.status) == ("", 1)


# Sockets ----------------------------------------------------------------------------------------------------------


def test_sockets_have_a_folder_of_this_user_and_those_of_killed_runs_are_removed_and_no_others():
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left_over = Path(f"/tmp/ai-doctor-{dead.pid}-abcdefgh")
    others = [Path(f"/tmp/ai-doctor-{os.getppid()}-abcdefgh"), Path(f"/tmp/ai-doctor-runs-of-{os.getpid()}")]
    for each in (left_over, *others):
        each.mkdir()
        (each / "socket-1").touch()
    with socket_folder() as made:
        assert len(f"{made}/socket-9") <= 103
        assert Path(made).stat().st_mode & 0o077 == 0
        assert not left_over.exists()
        assert all((each / "socket-1").exists() for each in others)
    assert not Path(made).exists()
    for each in others:
        shutil.rmtree(each)


# A full disk -----------------------------------------------------------------------------------------------------

FULL = r"01_setup: the disk of .*run, or of the temporary folder, is full: free some room and run it again$"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("OSError", "[Errno 28] No space left on device"),
        ("RuntimeError", "I/O error: No space left on device (os error 28)"),
        ("OSError", "3342812 requested and 510816 written"),
    ],
)
def test_a_disk_that_fills_up_in_a_stage_is_one_line(run, monkeypatch, name, text):
    def fail(source, target, **_):
        shutil.copy(source, target)
        raise PapermillExecutionError(1, 1, "x = 1", name, text, ["Traceback"])

    monkeypatch.setattr("papermill.execute_notebook", fail)
    with pytest.raises(InputError, match=FULL):
        execute(run, "01_setup")
    assert (run / "notebooks/01_setup.html").is_file()  # what the stage had said before


def test_a_disk_too_full_for_the_notebook_leaves_no_half_one(run, monkeypatch):
    """Papermill writes as the cells run."""

    def half(source, target, **_):
        Path(target).write_text('{"cells": [{"cell_ty')
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("papermill.execute_notebook", half)
    with pytest.raises(InputError, match=FULL):
        execute(run, "01_setup")
    assert list((run / "notebooks").iterdir()) == []
