"""The copy of a run folder that outlives its machine."""

import os
import shutil

import pytest
from conftest import contents

from helpers import InputError
from helpers.files import write_text
from helpers.run_dir.backup import back_up, restore
from helpers.run_dir.folder import alone, open_run


@pytest.fixture
def run(tmp_path):
    return open_run("smoke", tmp_path / "here/run", {"session.backup": str(tmp_path / "drive")})


def checkpoint(run, step, whole=True):
    folder = run / f"checkpoints/checkpoint-{step}"
    write_text(folder / "adapter_model.safetensors", f"weights of {step}")
    if whole:
        write_text(folder / "complete", "{}")


def test_the_copy_has_what_would_be_lost_and_not_what_is_made_again_or_is_half(run, tmp_path):
    checkpoint(run, 2)
    checkpoint(run, 4, whole=False)
    for name in ("data/train.jsonl", "export/report.json", "evaluation/.replies.base.jsonl", "earlier/x/run.yaml"):
        write_text(run / name, name)
    for name in ("export/model-q8_0.gguf", "export/merged/model.safetensors", ".progress", "data/.half.tmp"):
        write_text(run / name, "large or half")
    back_up(run.path, run.config.session.backup)
    assert sorted(contents(tmp_path / "drive")) == [
        "backup.json", "checkpoints/checkpoint-2/adapter_model.safetensors", "checkpoints/checkpoint-2/complete",
        "data/train.jsonl", "evaluation/.replies.base.jsonl", "export/report.json", "run.yaml",
    ]  # fmt: skip


def test_what_the_run_set_aside_leaves_the_copy_too(run, tmp_path):
    checkpoint(run, 2)
    write_text(run / "adapter/adapter_config.json", "{}")
    back_up(run.path, str(tmp_path / "drive"))
    checkpoint(run, 6)
    shutil.rmtree(run / "checkpoints/checkpoint-2")
    shutil.rmtree(run / "adapter")
    back_up(run.path, str(tmp_path / "drive"))
    assert [path.name for path in (tmp_path / "drive/checkpoints").iterdir()] == ["checkpoint-6"]
    assert not (tmp_path / "drive/adapter").exists()


def test_a_file_of_the_same_length_is_copied_if_it_has_changed(run, tmp_path):
    write_text(run / "stages.json", "one")
    back_up(run.path, str(tmp_path / "drive"))
    write_text(run / "stages.json", "two")
    os.utime(run / "stages.json", (1, 1))  # by a clock that was turned back
    back_up(run.path, str(tmp_path / "drive"))
    assert (tmp_path / "drive/stages.json").read_text() == "two"


def test_another_machine_has_all_of_it_and_goes_on_counting(run, tmp_path):
    checkpoint(run, 2)
    back_up(run.path, str(tmp_path / "drive"))
    other = open_run("auto", tmp_path / "there/run", {"session.backup": str(tmp_path / "drive")})
    assert contents(other.path) == {name: text for name, text in contents(run.path).items() if name != "run.yaml"} | {
        "run.yaml": (other / "run.yaml").read_bytes()
    }
    checkpoint(other, 4)
    back_up(other.path, str(tmp_path / "drive"))
    # The first machine comes back, with the older state.
    assert restore(run.path, str(tmp_path / "drive"))
    assert (run / "checkpoints/checkpoint-4/complete").is_file()
    assert not restore(run.path, str(tmp_path / "drive"))


def test_notebooks_opened_one_by_one_on_machines_of_their_own_go_on_from_each_other(tmp_path):
    overrides = {"session.backup": str(tmp_path / "drive")}
    first, early = (open_run("smoke", tmp_path / name, overrides) for name in ("first", "early"))
    assert early.record["created"] == first.record["created"]  # one run, though nothing was made yet

    @alone
    def stage(run, name):
        write_text(run / name, name)
        if "replies" in name:
            raise KeyboardInterrupt

    stage(first, "data/train.jsonl")
    second = open_run("auto", tmp_path / "second", overrides)
    assert (second / "data/train.jsonl").read_text() == "data/train.jsonl"
    with pytest.raises(KeyboardInterrupt):
        stage(second, "evaluation/.replies.base.jsonl")
    assert (open_run("auto", tmp_path / "first", overrides) / "evaluation/.replies.base.jsonl").is_file()


def test_an_older_copy_takes_nothing_back(run, tmp_path):
    back_up(run.path, str(tmp_path / "drive"))
    write_text(run / "data/train.jsonl", "newer")
    assert not restore(run.path, str(tmp_path / "drive"))
    assert (run / "data/train.jsonl").read_text() == "newer"


def test_the_copy_of_another_run_is_refused(run, tmp_path):
    write_text(tmp_path / "drive/run.yaml", "created: 2001-01-01T00:00:00+00:00\n")
    with pytest.raises(InputError, match="holds another run than"):
        restore(run.path, str(tmp_path / "drive"))


def test_a_folder_that_cannot_be_written_to_is_refused_at_once(tmp_path):
    write_text(tmp_path / "file", "")
    with pytest.raises(InputError, match=r"^session\.backup = .*file/x: "):
        open_run("smoke", tmp_path / "run", {"session.backup": str(tmp_path / "file/x")})
    assert not (tmp_path / "run").exists()


def test_drive_is_only_where_colab_is(tmp_path):
    with pytest.raises(InputError, match="only Colab has"):
        open_run("smoke", tmp_path / "run", {"session.backup": "/content/drive/MyDrive/x"})


def test_a_copy_that_fails_stops_nothing(run, tmp_path, capsys):
    write_text(tmp_path / "file", "")
    before = contents(run.path)
    back_up(run.path, str(tmp_path / "file/x"))
    assert capsys.readouterr().out.count("the work goes on") == 1
    assert contents(run.path) == before


@pytest.mark.parametrize("part", ["data", "checkpoints", "notebooks", "index.html"])
def test_a_folder_with_things_of_the_users_own_is_no_backup_and_stays_as_it_is(tmp_path, part):
    """Google Drive itself, say: a copy puts the run's `data` in the place of what is there."""
    mine = tmp_path / "drive" / part
    mine.mkdir(parents=True)
    (mine / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=f"session.backup = .*drive holds {part}, and no run made it"):
        open_run("smoke", tmp_path / "run", {"session.backup": str(tmp_path / "drive")})
    assert [*(tmp_path / "drive").rglob("*")] == [mine, mine / "thesis.txt"]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("where", "copy"), [("x", "x"), ("x", "x/data"), ("x", "x/copy"), ("data", "."), ("x", "l/y")])
def test_a_copy_in_the_run_folder_or_in_its_place_is_refused_and_never_made(tmp_path, where, copy):
    """It would delete what a copy does not have: the merged model and the GGUF files, or the run."""
    (tmp_path / "l").symlink_to(tmp_path / "x")
    with pytest.raises(InputError, match="lie in each other: choose another folder"):
        open_run("smoke", tmp_path / where, {"session.backup": str(tmp_path / copy)})
    run = open_run("smoke", tmp_path / where)
    write_text(run / "export/model-q8_0.gguf", "large")
    before = contents(tmp_path)
    back_up(run.path, str(tmp_path / copy))  # as run.yaml says it where the copy is gone on with
    assert contents(tmp_path) == before
