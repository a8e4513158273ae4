"""The run folder: what opening one records and refuses, and that nothing in it is ever half written."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from conftest import MACHINE, contents, fails, refusal

from helpers import PROJECT_ROOT, InputError, files
from helpers.config import CHANGES, CORPUS, NONE, Config, marked, may_change
from helpers.files import (
    atomic_dir,
    clear_leftovers,
    fingerprint,
    project_path,
    read_jsonl,
    write_json,
    write_jsonl,
    write_text,
)  # fmt: skip
from helpers.machine import hardware
from helpers.run_dir import folder
from helpers.run_dir.folder import Run, alone_in, find_run, note_in_record, open_run, read_settings
from helpers.run_dir.layout import RESULT_FOLDERS


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    """A machine without a GPU, whatever runs the tests."""
    monkeypatch.setattr(hardware, "describe_machine", lambda: MACHINE)


def refused(*args, **kwargs) -> str:
    return refusal(open_run, *args, **kwargs)


# Opening ---------------------------------------------------------------------------------------------------------


def test_opening_a_folder_records_what_a_reader_needs_to_repeat_the_run(tmp_path):
    run = open_run("smoke", tmp_path / "a/run", {"lora.r": 8})
    record = yaml.safe_load((tmp_path / "a/run/run.yaml").read_text(encoding="utf-8"))
    assert record == run.record
    assert record["profile"] == "smoke"
    assert record["config"] == Config.resolve("smoke", {"lora.r": 8}).flat()
    assert record["config"]["lora.r"] == 8
    assert record["config"]["seed"] == 3407
    assert record["hardware"] == MACHINE.model_dump()
    for name in ("torch", "transformers", "trl", "peft", "datasets"):
        assert record["versions"][name] == metadata.version(name)
    assert record["versions"]["python"].count(".") == 2
    assert record["created"].endswith("+00:00")
    assert "git_commit" in record
    assert sorted(contents(tmp_path)) == ["a/run/run.yaml"]


def test_the_commit_is_recorded_and_marked_when_files_differ_from_it(tmp_path, monkeypatch):
    def git(*words):
        command = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false", *words]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    monkeypatch.setattr(folder, "PROJECT_ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert open_run("smoke", tmp_path / "runs/none").record["git_commit"] is None  # a download without .git
    (tmp_path / ".gitignore").write_text("runs/\n")
    git("init", "--quiet")
    git("add", ".gitignore")
    git("commit", "--quiet", "--message", "a commit")
    commit = git("rev-parse", "HEAD")
    assert open_run("smoke", tmp_path / "runs/clean").record["git_commit"] == commit
    (tmp_path / ".gitignore").write_text("runs/\nother\n")
    assert open_run("smoke", tmp_path / "runs/dirty").record["git_commit"] == f"{commit}-dirty"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert open_run("smoke", tmp_path / "runs/without").record["git_commit"] is None  # git is not installed


@pytest.mark.parametrize("profile", ["smoke", "auto"])
def test_a_folder_with_a_setting_that_is_none_any_more(tmp_path, profile):
    made = open_run("smoke", tmp_path)
    (tmp_path / "data").mkdir()
    record = yaml.safe_load((tmp_path / "run.yaml").read_text())
    record["config"] |= {"evaluation.strengths": [0.5], "evaluation.strength_questions": 2}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(record))
    before = contents(tmp_path)
    assert open_run(profile, tmp_path).config == find_run(tmp_path).config == made.config
    with pytest.raises(InputError, match="unknown key"):
        open_run(profile, tmp_path, {"evaluation.strengths": [0.5]})
    assert contents(tmp_path) == before


@pytest.mark.parametrize("profile", ["full", "auto"])
def test_a_folder_from_before_a_setting_existed(tmp_path, unasked, profile):
    """It has the profile's value of today, also where that hangs on the card; another one was not what made it."""
    made = open_run("full", tmp_path, {"data.source": "sample"})
    (tmp_path / "data").mkdir()
    record = yaml.safe_load((tmp_path / "run.yaml").read_text())
    for key in ("data.group_similarity", "training.packing"):
        del record["config"][key]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(record))
    before = contents(tmp_path)
    overrides = {"data.source": "sample"} if profile == "full" else {}
    assert open_run(profile, tmp_path, overrides).config == made.config
    assert find_run(tmp_path).config == made.config
    with pytest.raises(InputError, match=r"data\.group_similarity is 0\.3 there, 0\.4 asked"):
        open_run(profile, tmp_path, {**overrides, "data.group_similarity": 0.4})
    assert contents(tmp_path) == before


def test_auto_in_a_new_folder_is_what_this_machine_can_do(tmp_path, unasked, monkeypatch):
    assert open_run("auto", tmp_path / "cpu").config.profile == "laptop"
    card = MACHINE.model_copy(update={"gpu": "Tesla T4", "gpu_memory_gib": 14.7, "compute_capability": (7, 5)})
    monkeypatch.setattr(hardware, "describe_machine", lambda: card)
    run = open_run("auto", tmp_path / "t4")
    assert run.config.profile == "t4"
    assert run.record["config"]["profile"] == "t4"


def test_the_same_settings_open_the_folder_and_change_nothing(tmp_path):
    open_run("smoke", tmp_path, {"seed": 5})
    note_in_record(open_run("auto", tmp_path), data={"rows": 3})
    before = contents(tmp_path)
    for profile, overrides in (("smoke", {"seed": "5"}), ("auto", {"seed": 5}), ("auto", None)):
        assert open_run(profile, tmp_path, overrides).config.seed == 5
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("profile", "overrides", "key", "there", "asked"),
    [
        ("smoke", {"lora.r": 9}, "lora.r", "4", "9 asked; choose"),
        ("auto", {"lora.r": 9, "lora.alpha": 9, "seed": 9}, "seed", "3407", "9 asked (and 2 more); choose"),
        ("auto", {"training.max_steps": 3}, "training.max_steps", "4", "3 asked, and can only grow; choose"),
        ("auto", {"data.sample_size": None}, "data.sample_size", "24", "None"),
        ("laptop", {}, "profile", "'smoke'", "'laptop'"),
    ],
)
def test_another_configuration_is_refused_and_leaves_the_record_as_it_was(
    tmp_path, profile, overrides, key, there, asked
):
    open_run("smoke", tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train.jsonl").write_text("{}\n")
    before = contents(tmp_path)
    message = refused(profile, tmp_path, overrides)
    assert f"{key} is {there} there, {asked}" in message
    assert str(tmp_path) in message
    assert "--force" in message
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["baseline", "data", "adapter", "checkpoints", "training", "evaluation", "export"])
def test_whatever_a_stage_leaves_binds_the_folder(tmp_path, name):
    open_run("smoke", tmp_path)
    (tmp_path / name).mkdir()
    assert "lora.r is 4 there, 9 asked" in refused("smoke", tmp_path, {"lora.r": 9})


@pytest.mark.parametrize("overrides", [{}, {"model.name": "embedded"}])
def test_settings_that_led_to_nothing_are_replaced(tmp_path, unasked, overrides):
    """As after a misspelt model: 01 failed, and left its notebook and page."""
    open_run("full", tmp_path, {"model.name": "SmolLM2", "data.source": "sample"})
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks/01_setup.ipynb").write_text("{}")
    run = open_run("full", tmp_path, {"data.source": "sample", **overrides})
    assert run.config == open_run("full", tmp_path / "new", {"data.source": "sample", **overrides}).config
    assert open_run("auto", tmp_path).config == run.config  # as the notebooks open it
    assert (tmp_path / "notebooks/01_setup.ipynb").is_file()


# A folder's second life -------------------------------------------------------------------------------------------

CHANGED = {"model.max_length": 400, "training.max_steps": 9, "evaluation.questions": ["sample"]}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hardware, "describe_machine", lambda: MACHINE)
        open_run("smoke", folder, CHANGED)
    for name in RESULT_FOLDERS:
        write_text(folder / name / "file", name)
    return folder


@pytest.fixture
def finished(made, tmp_path):
    """A folder with a file in every result folder, made with settings that are not all the profile's."""
    return Path(shutil.copytree(made, tmp_path / "run"))


def asked_for(key):
    """A value for each setting that is not the finished folder's, and larger where it is a number."""
    here = Config.resolve("smoke", CHANGED).flat()[key]
    values = {
        "model.name": "embedded", "model.compute_dtype": "float32", "model.prompt_style": "plain",
        "data.sample_size": None, "training.backend": "transformers", "training.scheduler": "cosine",
        "training.optimizer": "sgd", "evaluation.questions": ["medqa"], "evaluation.rows": "test",
        "export.gguf": "f16", "tracking.wandb": "offline", "data.source": "sample", "data.config": None,
        "generation.top_p": 0.5, "data.near_duplicate": 0.5, "data.corpus": ["handbook"], "data.passages": 0.5,
        "retrieval.sources": ["docs"], "retrieval.synonyms": ["mesh.xml"], "retrieval.conditions": ["thought"],
        "session.minutes": 30.0, "session.backup": f"{tempfile.gettempdir()}/ai-doctor-copy",
    }  # fmt: skip
    if key in values:
        return values[key]
    if isinstance(here, bool):
        return not here
    return here + 1 if isinstance(here, int) else here * 1.5 + 0.1 if isinstance(here, float) else "owner/name"


def test_the_page_of_settings_shows_the_table_of_what_may_change():
    shown = (
        (PROJECT_ROOT / "docs/SETTINGS.md").read_text(encoding="utf-8").partition("| setting |")[2].partition("\n\n")[0]
    )
    rows = dict(re.findall(r"^\| (`.+`) \| ([^|]+?) \|", shown, flags=re.M))
    table = {name.removesuffix(".*"): rule for names, rule in rows.items() for name in re.findall(r"`([^`]+)`", names)}
    assert table == CHANGES


@pytest.mark.parametrize(
    "key", [k for k in Config.resolve("smoke").flat() if k not in ("profile", "data.source", "data.config")]
)
def test_each_setting_may_change_or_is_refused_as_the_table_says(finished, unasked, key):
    """What is let through is recorded beside the value before, and every other setting stays."""
    stored, asked = read_settings(finished), asked_for(key)
    assert asked != stored[key]
    if (CHANGES.get(key) or CHANGES[key.split(".")[0]]) == NONE:
        message = refused("auto", finished, {key: asked})
        assert f"{key} is {stored[key]!r} there, {asked!r} asked" in message
        assert "choose another run folder, or --force" in message
        assert read_settings(finished) == stored
        return
    run = open_run("auto", finished, {key: asked})
    assert run.config.flat() == {**stored, key: asked} == read_settings(finished)
    assert run.record["changes"][0]["settings"] == {key: [stored[key], asked]}
    assert all((finished / name / "file").read_text() == name for name in RESULT_FOLDERS)
    assert not (finished / "earlier").exists()


@pytest.mark.parametrize(
    ("there", "asked", "may"),
    [(60, 120, True), (60, 60.5, True), (60, 59, False), (60, -1, False), (-1, 120, False), (-1, -1, False)],
)
def test_a_number_of_steps_may_only_grow(there, asked, may):
    assert may_change("training.max_steps", there, asked) is may


@pytest.mark.parametrize("profile", ["auto", "smoke"])
@pytest.mark.parametrize("force", [False, True])
def test_overrides_are_laid_over_the_stored_settings(finished, profile, force):
    """Also by the name of the profile that the folder was made with, and by force."""
    stored = read_settings(finished)
    run = open_run(profile, finished, {"evaluation.max_questions": 3}, force)
    assert run.config.flat() == {**stored, "evaluation.max_questions": 3}
    assert run.config.training.max_steps == 9
    assert open_run("auto", finished).config == run.config
    assert not (finished / "earlier").exists()


@pytest.mark.parametrize(
    ("change", "first"),
    [
        ({"lora.r": 8}, "checkpoints"),
        ({"training.max_steps": 2}, "checkpoints"),
        ({"data.near_duplicate": 0.5, "lora.r": 8}, "data"),
        ({"model.max_length": 300, "training.learning_rate": 0.1}, "baseline"),
        ({"seed": 1}, "baseline"),
    ],
)
def test_force_sets_aside_what_was_made_with_the_old_settings(finished, capsys, change, first):
    stored, record = read_settings(finished), (finished / "run.yaml").read_bytes()
    run = open_run("auto", finished, change, force=True)
    assert run.config.flat() == {**stored, **change} == read_settings(finished)
    [aside] = (finished / "earlier").iterdir()
    gone = RESULT_FOLDERS[RESULT_FOLDERS.index(first) :]
    assert contents(aside) == {"run.yaml": record, **{f"{name}/file": name.encode() for name in gone}}
    assert {name for name in RESULT_FOLDERS if (finished / name).exists()} == {*RESULT_FOLDERS} - {*gone}
    assert capsys.readouterr().out == f"{run.label}: set aside in earlier/{aside.name}: {', '.join(gone)}\n"
    assert find_run(aside).config.flat() == stored  # a run folder by itself: its adapter can be asked


def test_force_with_another_profile_starts_the_folder_again(finished, capsys):
    assert "profile is 'smoke' there, 'laptop' asked" in refused("laptop", finished)
    run = open_run("laptop", finished, {"lora.r": 9}, force=True)
    assert run.config == Config.resolve("laptop", {"lora.r": 9})  # and nothing of the old settings
    assert "set aside in earlier/" in capsys.readouterr().out
    assert not any((finished / name).exists() for name in RESULT_FOLDERS)


def test_settings_for_one_opening_are_not_recorded(finished):
    """As `ask` takes them."""
    before = contents(finished)
    run = open_run("auto", finished, {"generation.temperature": 0.9}, record=False)
    assert run.config.generation.temperature == 0.9
    with pytest.raises(InputError, match=r"lora\.r is 4 there, 8 asked"):
        open_run("auto", finished, {"lora.r": 8}, record=False)
    assert contents(finished) == before


def test_two_folders_set_aside_in_one_second_are_two(finished):
    for r in (8, 9):
        write_text(finished / "adapter/file", str(r))
        open_run("auto", finished, {"lora.r": r}, force=True)
    assert sorted(file.read_text() for file in finished.glob("earlier/*/adapter/file")) == ["8", "9"]


def test_a_folder_in_which_a_series_is_at_work_keeps_its_settings(finished):
    with alone_in(open_run("auto", finished)):
        assert "a series is at work in" in refused("auto", finished, {"lora.r": 8}, force=True)
        assert "a series is at work in" in refused("auto", finished, {"evaluation.max_questions": 3})
        assert open_run("auto", finished).config.lora.r == 4
    assert open_run("auto", finished, {"evaluation.max_questions": 3}).config.evaluation.max_questions == 3


def test_sources_that_are_as_they_were_are_not_looked_at_again(finished, tmp_path):
    source = tmp_path / "rows.jsonl"
    write_jsonl(source, [{"Question": "Q", "Complex_CoT": "C", "Response": "A"}] * 2)
    open_run("auto", finished, {"data.source": str(source)}, force=True)
    write_text(finished / "data/file", "made from it")
    source.unlink()
    assert open_run("auto", finished, {"generation.top_p": 0.5}).config.data.source == str(source)
    assert "cannot read" in refused("auto", finished, {"evaluation.questions": "no/such.jsonl"})


# What killed processes left ---------------------------------------------------------------------------------------


def killed_in(block: str, folder: Path):
    """A process that kills itself within atomic_dir(folder)."""
    code = "import os, shutil, sys; from pathlib import Path; from helpers.files import atomic_dir\n"
    code += f"with atomic_dir(Path(sys.argv[1])) as new:\n (new / 'file').write_text('new')\n {block}"
    done = subprocess.run([sys.executable, "-c", code, folder], cwd=PROJECT_ROOT, check=False)
    assert done.returncode == -9


RENAMED = "rename = os.rename; os.rename = lambda a, b: (rename(a, b), os.kill(os.getpid(), 9))"


@pytest.mark.parametrize("block", ["os.kill(os.getpid(), 9)", RENAMED], ids=["in the block", "between two renames"])
@pytest.mark.parametrize("name", ["export/merged", "data"])
def test_what_a_killed_process_left_is_gone_for_the_next_and_the_old_folder_is_back(finished, name, block):
    write_text(finished / name / "file", "old")
    for mine in (".ipynb_checkpoints", ".git", ".cache.d", ".data.backup-of-mine"):
        write_text(finished / mine / "file", "mine")
    before = contents(finished)
    killed_in(block, finished / name)
    assert (finished / name).exists() == (block != RENAMED)
    with alone_in(open_run("auto", finished)):
        assert list((finished / name).parent.glob(".*.????????")) == []
    assert contents(finished) == before


def test_only_what_belongs_to_a_folder_is_removed_where_others_may_write(tmp_path):
    killed_in("os.kill(os.getpid(), 9)", tmp_path / "mine[1]")
    killed_in("os.kill(os.getpid(), 9)", tmp_path / "other")
    (tmp_path / ".notes.tmp").touch()
    clear_leftovers(tmp_path, "mine[1]")
    assert sorted(path.name.split(".")[1] for path in tmp_path.iterdir()) == ["notes", "other"]


@pytest.mark.parametrize("damage", [b"", b"config: words\n", b"profile: smoke\n", b"config: {seed: 1", b"\xff\xfe\x00"])
def test_a_damaged_record_is_one_line_that_names_it_and_is_not_overwritten(tmp_path, damage):
    (tmp_path / "run.yaml").write_bytes(damage)
    for force in (False, True):
        assert f"{tmp_path / 'run.yaml'} is not a run record" in refused("auto", tmp_path, force=force)
    assert contents(tmp_path) == {"run.yaml": damage}


def test_a_record_that_lacks_settings_names_one_and_force_replaces_it(tmp_path):
    (tmp_path / "run.yaml").write_text("config:\n  profile: of another program\n  seed: 1\n")
    assert "field required" in refused("auto", tmp_path)
    assert "field required" in refused("smoke", tmp_path)
    assert open_run("smoke", tmp_path, force=True).record["config"] == Config.resolve("smoke").flat()


def test_wrong_requests_make_no_folder(tmp_path):
    assert "did you mean 'smoke'" in refused("smok", tmp_path / "run")
    assert "'training.learning_rate'" in refused("smoke", tmp_path / "run", {"training.lr": 1})
    assert "lora.r = 0" in refused("smoke", tmp_path / "run", {"lora.r": 0})
    assert not (tmp_path / "run").exists()


# The user's own files are looked at before any stage spends time --------------------------------------------------


def test_a_source_that_is_not_there_makes_no_folder(tmp_path):
    for source in ("sampel", "no/such/file.jsonl", str(tmp_path)):
        message = refused("smoke", tmp_path / "run", {"data.source": source})
        assert message.startswith(f"data.source = {source!r} is neither sample nor hub nor an existing file")
    assert not (tmp_path / "run").exists()


def test_wrong_rows_questions_and_corpora_make_no_folder(tmp_path):
    """The faults themselves are in tests/sources."""
    (tmp_path / "mine.jsonl").write_text('{"id": "1"}\n')
    mine = str(tmp_path / "mine.jsonl")
    for overrides, says in (
        ({"data.source": mine}, "no column Question"),
        ({"evaluation.questions": ["sample", mine]}, "mine.jsonl line 1"),
        ({"retrieval.embedder": "/no/such"}, "retrieval.embedder: /no/such is neither a folder nor a hub id"),
        ({"model.name": "SmolLM2"}, "model.name: SmolLM2 is neither a folder nor a hub id"),
        *(({key: ["handbook", "no/such"]}, f"{key}: no/such does not exist") for key in marked(CORPUS)),
    ):
        assert says in refused("smoke", tmp_path / "run", overrides)
    assert not (tmp_path / "run").exists()


# Paths -----------------------------------------------------------------------------------------------------------


def test_a_relative_folder_lies_below_the_project_wherever_one_is(tmp_path, monkeypatch):
    (tmp_path / "project").mkdir()
    for module in (files, folder):
        monkeypatch.setattr(module, "PROJECT_ROOT", tmp_path / "project")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert project_path("~/x") == tmp_path / "x"
    run = open_run("smoke", "runs/../runs/x")
    assert run.path == tmp_path / "project/runs/x"
    assert (run / "run.yaml").is_file()
    assert run.label == "runs/x"
    assert open_run("smoke", tmp_path / "elsewhere").label == str(tmp_path / "elsewhere")


def test_a_missing_artefact_names_the_stage_that_makes_it(tmp_path):
    run = Run(tmp_path, Config.resolve("smoke"))
    with pytest.raises(InputError, match=r"has no data/train\.jsonl yet: run 03_dataset_prep first"):
        run.require("data/train.jsonl", "03_dataset_prep")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train.jsonl").touch()
    assert run.require("data/train.jsonl", "03_dataset_prep") == tmp_path / "data/train.jsonl"


# Folders that cannot be written to -------------------------------------------------------------------------------


def test_a_file_in_the_folders_place(tmp_path):
    for place in ("run", "run/deeper"):
        (tmp_path / "run").write_text("mine")
        assert refused("smoke", tmp_path / place).startswith(f"cannot write to the run folder {tmp_path / place}: ")
        assert contents(tmp_path) == {"run": b"mine"}


def test_a_folder_on_a_read_only_disk(tmp_path, monkeypatch):
    """The same where permissions do not bind, as for root: the file system itself refuses."""
    open_run("smoke", tmp_path)
    before = contents(tmp_path)

    monkeypatch.setattr(files.tempfile, "TemporaryFile", fails(OSError(30, "Read-only file system")))
    monkeypatch.setattr(folder, "write_text", lambda *args: pytest.fail("written all the same"))
    for overrides, force in ((None, False), ({"seed": 1}, True)):
        message = refused("smoke", tmp_path, overrides, force)
        assert message == f"cannot write to the run folder {tmp_path}: Read-only file system"
    assert find_run(tmp_path, record=False).config.seed == 3407  # to ask, serve or push what is in it
    assert contents(tmp_path) == before


# Whole or not at all ---------------------------------------------------------------------------------------------


def broken_rows():
    yield {"a": 1}
    raise RuntimeError("killed")


@pytest.mark.parametrize(
    ("write", "error"),
    [
        (lambda path: write_text(path, "begins well " * 10_000 + "\ud800"), UnicodeEncodeError),
        (lambda path: write_jsonl(path, broken_rows()), RuntimeError),
        (lambda path: write_jsonl(path, [{"a": 1}, {"a": float("nan")}]), ValueError),
        (lambda path: write_jsonl(path, [{"a": 1}, {"a": object()}]), TypeError),
        (lambda path: write_json(path, {"a": float("inf")}), ValueError),
    ],
)
def test_a_write_that_fails_in_the_middle_leaves_the_old_file_and_nothing_else(tmp_path, write, error):
    path = tmp_path / "file"
    with pytest.raises(error):
        write(path)
    assert contents(tmp_path) == {}
    path.write_text("old")
    with pytest.raises(error):
        write(path)
    assert contents(tmp_path) == {"file": b"old"}


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("old")

    monkeypatch.setattr(files.os, "fsync", fails(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        write_text(tmp_path / "file", "new")
    assert contents(tmp_path) == {"file": b"old"}


def test_a_folder_that_fails_in_the_middle_leaves_the_old_one_and_nothing_else(tmp_path):
    for old in ({}, {"data/a": b"old", "data/b": b"old"}):
        for name, content in old.items():
            (tmp_path / "data").mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(content)
        with pytest.raises(RuntimeError), atomic_dir(tmp_path / "data") as folder:  # noqa: PT012
            (folder / "a").write_text("new")
            assert contents(tmp_path / "data") == {name[5:]: content for name, content in old.items()}
            raise RuntimeError("killed")
        assert contents(tmp_path) == old
        assert len(list(tmp_path.iterdir())) == (1 if old else 0)


def test_a_folder_takes_the_place_of_the_old_one_whole(tmp_path):
    (tmp_path / "data/deep").mkdir(parents=True)
    (tmp_path / "data/deep/old").write_text("old")
    with atomic_dir(tmp_path / "data") as folder:
        (folder / "new").write_text("new")
    assert contents(tmp_path) == {"data/new": b"new"}
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o755  # a temporary folder is its maker's alone


# Reading back ----------------------------------------------------------------------------------------------------

ODD = "a\u2028b\u2029c\u0085d\x0be\x1cf\r\ng\n שלום 😀 <｜User｜> \ufeff\x00"


def test_every_text_comes_back_from_jsonl_as_it_was(tmp_path):
    rows = [{"text": ODD}, {"text": ""}, {ODD: [ODD]}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert read_jsonl(tmp_path / "rows.jsonl") == rows
    raw = (tmp_path / "rows.jsonl").read_bytes()
    assert raw.count(b"\n") == len(rows)
    assert "\u2028".encode() in raw  # written as it is and not as an escape, so that reading has to cope with it


def test_facts_found_later_join_the_record_and_leave_the_settings(tmp_path):
    run = open_run("smoke", tmp_path)
    before = dict(run.record)
    note_in_record(run, data={"fingerprint": "abc", "text": ODD.replace("\x00", "")})
    record = yaml.safe_load((tmp_path / "run.yaml").read_text(encoding="utf-8"))
    assert record.pop("data") == {"fingerprint": "abc", "text": ODD.replace("\x00", "")}
    assert record == before
    assert read_settings(tmp_path) == run.config.flat()


# Fingerprints ----------------------------------------------------------------------------------------------------


def test_a_fingerprint_is_of_content_and_order_and_not_of_dates(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    absent = fingerprint(one)
    one.touch()
    empty = fingerprint(one)
    one.write_text("1")
    two.write_text("2")
    full = fingerprint(one)
    assert len({absent, empty, full, fingerprint(), fingerprint(one, two), fingerprint(two, one)}) == 6
    os.utime(one, (0, 0))
    assert fingerprint(one) == full


def test_a_folders_fingerprint_changes_with_any_file_in_it(tmp_path):
    write_text(tmp_path / "f/a", "a")
    write_text(tmp_path / "f/deep/b", "b")
    prints = [fingerprint(tmp_path / "f")]
    (tmp_path / "f/deep/b").write_text("c")
    prints.append(fingerprint(tmp_path / "f"))
    (tmp_path / "f/deep/b").rename(tmp_path / "f/deep/c")
    prints.append(fingerprint(tmp_path / "f"))
    assert len(set(prints)) == 3


@pytest.mark.parametrize("part", ["data", "adapter", "index.html"])
def test_a_folder_with_things_of_the_users_own_is_no_run_folder_and_stays_as_it_is(tmp_path, part):
    """The working folder as RUN_DIR: 03 would put its `data` in the place of what is there."""
    mine = tmp_path / "work" / part
    mine.mkdir(parents=True)
    (mine / "thesis.txt").write_text("mine")
    for force in (False, True):
        with pytest.raises(InputError, match=f"work holds {part}, and no run made it"):
            open_run("smoke", tmp_path / "work", force=force)
    assert [*(tmp_path / "work").rglob("*")] == [mine, mine / "thesis.txt"]
