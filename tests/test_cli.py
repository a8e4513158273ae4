"""The command line and its runner: one line for a wrong input, finished stages skipped, nothing finished harmed."""

import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from conftest import MACHINE, contents, error_line, fails
from papermill.exceptions import PapermillExecutionError

from helpers import PROJECT_ROOT, InputError, StageError, StoppedError
from helpers.__main__ import _overrides, main
from helpers.config import CORPUS, FILE, marked
from helpers.files import read_json, write_json, write_jsonl, write_text
from helpers.machine import hardware
from helpers.run_dir import owner
from helpers.run_dir.folder import open_run, set_aside
from helpers.run_dir.layout import STAGES
from helpers.run_dir.modules import code_of
from helpers.run_dir.owner import OWNER
from helpers.series import runner, stages
from helpers.series.runner import choose_stages, execute, run_series
from helpers.series.stages import stage_inputs
from helpers.tracking.progress import PROGRESS_FILE

NAMES = list(STAGES)
ROWS = [{"Question": f"Question {i}?", "Complex_CoT": f"Thought {i}.", "Response": f"Answer {i}."} for i in range(30)]


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No settings of the caller's, and a machine without a GPU."""
    for name in ("AI_DOCTOR_PROFILE", "AI_DOCTOR_RUN_DIR", "WANDB_API_KEY", "HF_TOKEN", PROGRESS_FILE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(hardware, "describe_machine", lambda: MACHINE)


# The runner, with notebooks that only pretend ---------------------------------------------------------------------


class Pretended:
    """Stands in for `execute`: leaves what each stage must leave behind, and notes which stages ran."""

    def __init__(self):
        self.ran, self.versions, self.breaks, self.indexed = [], {}, None, []

    def __call__(self, run, stage):
        self.ran.append(stage)
        if stage == self.breaks:
            raise StageError(f"{stage} failed: ValueError: no", "in a cell")
        for name in STAGES[stage].leaves:
            write_json(run / name, {"version": self.versions.get(name, 0)})

    def since(self):
        ran, self.ran = self.ran, []
        return ran


@pytest.fixture
def pretended(monkeypatch):
    """With an index that only counts the stages, and a table of one row."""
    stub = Pretended()
    monkeypatch.setattr(runner, "execute", stub)
    monkeypatch.setattr(runner, "write_index", lambda run: stub.indexed.append(len(read_json(run / "stages.json"))))
    monkeypatch.setattr(
        "helpers.report.results.headline", lambda run: [("NLL", "3.125", "2.875", "-0.250 (-0.3 to 0)")]
    )
    monkeypatch.setattr("helpers.report.results.open_book", lambda run: [("quiz", "25.0%", "50.0%", "+25.0 points")])
    return stub


@pytest.fixture
def source(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    return tmp_path / "rows.jsonl"


@pytest.fixture
def run(tmp_path, source):
    return open_run("smoke", tmp_path / "run", {"data.source": str(source)})


@pytest.fixture
def finished(run, pretended):
    run_series(run, NAMES)
    assert pretended.since() == NAMES
    return run


def test_unsloth_without_a_gpu_is_refused_before_any_stage_starts(tmp_path, pretended):
    run = open_run("smoke", tmp_path / "gpu", {"training.backend": "unsloth"})
    with pytest.raises(InputError, match="Unsloth needs a GPU"):
        run_series(run, NAMES)
    assert pretended.since() == []
    run_series(run, NAMES[:3])
    assert pretended.since() == NAMES[:3]


def test_the_stages_run_in_order_and_then_not_again(run, pretended):
    said = []
    times = run_series(run, NAMES, tell=lambda *words: said.append(words))
    assert pretended.since() == NAMES
    assert [name for name, _ in times] == NAMES
    assert pretended.indexed == [1, 2, 3, 4, 5, 6, 7, 7]
    assert all(isinstance(seconds, float) for _, seconds in times)
    assert [(stage, state) for stage, state, _ in said if state != "running"] == [(name, "finished") for name in NAMES]
    said.clear()
    before = contents(run.path)
    assert run_series(run, NAMES, tell=lambda *words: said.append(words)) == [(name, None) for name in NAMES]
    assert pretended.since() == []
    assert [(stage, state) for stage, state, _ in said] == [(name, "skipped") for name in NAMES]
    assert contents(run.path) == before


def test_a_changed_source_runs_03_again_and_the_next_only_if_its_outputs_changed(finished, pretended, source):
    write_jsonl(source, ROWS[1:])
    run_series(finished, NAMES)
    assert pretended.since() == ["03_dataset_prep"]
    write_jsonl(source, ROWS)
    pretended.versions["data/train.jsonl"] = 1
    run_series(finished, NAMES)
    assert pretended.since() == ["03_dataset_prep", "04_lora_training"]
    write_jsonl(source, ROWS[2:])
    pretended.versions |= {"data/validation.jsonl": 1}
    run_series(finished, NAMES)
    assert pretended.since() == ["03_dataset_prep", "04_lora_training", "05_evaluation"]
    run_series(finished, NAMES)
    assert pretended.since() == []


def test_a_file_in_the_folder_that_changed_runs_its_readers_again(finished, pretended):
    for name, again in (
        ("data/train.jsonl", ["04_lora_training"]),
        ("data/validation.jsonl", ["04_lora_training", "05_evaluation"]),
        ("data/test.jsonl", ["05_evaluation"]),  # which may be told to read it
        ("adapter/adapter_model.safetensors", ["05_evaluation", "06_export", "07_retrieval"]),
        ("adapter/adapter_config.json", ["05_evaluation", "06_export", "07_retrieval"]),
        ("evaluation/metrics.json", ["06_export"]),
    ):
        write_json(finished / name, {"changed": True})
        run_series(finished, NAMES)
        assert pretended.since() == again, name


def test_a_missing_output_is_made_again(finished, pretended):
    for stage, known in STAGES.items():
        for name in known.leaves:
            (finished / name).unlink()
            run_series(finished, [stage])
            assert pretended.since() == [stage], name
            assert (finished / name).is_file()


def test_a_file_of_questions_counts_for_the_stages_that_ask_them(tmp_path):
    questions = tmp_path / "questions.jsonl"
    row = {"id": "1", "question": "Q", "options": {"A": "a", "B": "b"}, "answer_idx": "A"}
    write_jsonl(questions, [row])
    run = open_run("smoke", tmp_path / "run", {"evaluation.questions": str(questions)})
    before = {name: stage_inputs(run, name) for name in NAMES}
    write_jsonl(questions, [row, {**row, "id": "2"}])
    changed = [name[:2] for name in NAMES if stage_inputs(run, name) != before[name]]
    assert changed == ["03", "05", "07"]


def test_a_notebooks_code_counts_and_its_prose_and_outputs_do_not(tmp_path, run, monkeypatch):
    shutil.copytree(PROJECT_ROOT / "notebooks", tmp_path / "notebooks")
    monkeypatch.setattr(stages, "PROJECT_ROOT", tmp_path)
    before = stage_inputs(run, "02_baseline_inference")
    path = tmp_path / "notebooks/02_baseline_inference.ipynb"
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source += " More prose."
        else:
            cell.outputs, cell.execution_count = [], 99
    nbformat.write(notebook, path)
    assert stage_inputs(run, "02_baseline_inference") == before
    [cell for cell in notebook.cells if cell.cell_type == "code"][2].source += "\n1 + 1"
    nbformat.write(notebook, path)
    assert stage_inputs(run, "02_baseline_inference") != before


TRAINED = ("checkpoints", "training", "adapter", "evaluation", "export", "retrieval")


@pytest.mark.parametrize("why", ["force", "code"])
def test_a_training_that_starts_again_sets_the_earlier_one_aside_and_says_so(finished, pretended, monkeypatch, why):
    (finished / "checkpoints").mkdir()
    data, before = contents(finished / "data"), contents(finished / "adapter")
    if why == "code":
        monkeypatch.setattr(stages, "code_of", lambda *args: code_of(*args) | {"lora_training/batches.py": "changed"})
    told = []
    run_series(finished, ["04_lora_training"], force=why == "force", tell=lambda *words: told.append(words))
    assert pretended.since() == ["04_lora_training"]
    [aside] = (finished / "earlier").iterdir()
    assert contents(aside / "adapter") == before
    assert {path.name for path in aside.iterdir()} == {"run.yaml", *TRAINED}
    assert ("04_lora_training", "moved", f"set aside in earlier/{aside.name}: {', '.join(TRAINED)}") in told
    assert (("04_lora_training", "running", "changed: helpers/lora_training/batches.py") in told) == (why == "code")
    assert contents(finished / "data") == data
    run_series(finished, ["04_lora_training"])
    assert pretended.since() == []


@pytest.mark.parametrize(
    ("module", "kept"),
    [
        ("lora_training/checkpoints.py", True),
        ("prompts/chat_template.py", True),
        ("lora_training/train.py", False),
        ("models/loading.py", False),
    ],
)
def test_another_message_costs_a_training_only_where_its_weights_are_decided(
    finished, pretended, monkeypatch, tmp_path, module, kept
):
    (finished / "checkpoints").mkdir()
    package = shutil.copytree(PROJECT_ROOT / "helpers", tmp_path / "helpers")
    text = (package / module).read_text(encoding="utf-8")
    assert "Error(f" in text or 'Error("' in text
    write_text(package / module, text.replace('Error(f"', 'Error(f"sorry: ').replace('Error("', 'Error("sorry: '))
    monkeypatch.setattr(stages, "code_of", partial(code_of, package=package))
    told, before = [], contents(finished / "adapter")
    run_series(finished, ["04_lora_training"], tell=lambda *words: told.append(words))
    assert pretended.since() == ["04_lora_training"]  # whose notebook keeps what is finished in the folder
    assert ("04_lora_training", "running", f"changed: helpers/{module}") in told
    assert (finished / "checkpoints").is_dir() == kept == (not (finished / "earlier").exists())
    assert contents(finished / "adapter" if kept else next((finished / "earlier").iterdir()) / "adapter") == before


def test_a_new_training_that_was_stopped_goes_on_the_next_time(finished, pretended):
    pretended.breaks = "04_lora_training"
    with pytest.raises(StageError):
        run_series(finished, ["04_lora_training"], force=True)
    write_text(finished / "checkpoints/checkpoint-2/complete", "{}")
    pretended.breaks = None
    run_series(finished, ["04_lora_training"])
    assert len(list((finished / "earlier").iterdir())) == 1
    assert (finished / "checkpoints/checkpoint-2/complete").is_file()


def test_settings_and_files_that_changed_are_told_and_set_nothing_aside(finished, pretended):
    """Whether that makes it another training is for 04 to see."""
    told = []
    run = open_run("auto", finished.path, {"training.max_steps": 9, "evaluation.max_validation": 3})
    run_series(run, NAMES, tell=lambda *words: told.append(words))
    assert pretended.since() == ["04_lora_training", "05_evaluation"]
    assert ("04_lora_training", "running", "changed: training.max_steps, evaluation.max_validation") in told
    assert not (finished / "earlier").exists()


def test_what_a_stage_itself_sets_aside_is_told_also_where_it_fails(finished, monkeypatch):
    told = []

    def move_and_fail(run, stage):
        set_aside(run.path, ["adapter"])
        raise StageError(f"{stage} failed: ValueError: no", "in a cell")

    monkeypatch.setattr(runner, "execute", move_and_fail)
    write_text(finished / "data/train.jsonl", "{}\n")
    with pytest.raises(StageError):
        run_series(finished, ["04_lora_training"], tell=lambda *words: told.append(words))
    [aside] = (finished / "earlier").iterdir()
    assert ("04_lora_training", "moved", f"set aside in earlier/{aside.name}: adapter") in told


def test_after_a_failed_stage_the_series_goes_on_there(run, pretended):
    pretended.breaks = "04_lora_training"
    with pytest.raises(StageError):
        run_series(run, NAMES)
    assert pretended.since() == NAMES[:4]
    assert list(read_json(run / "stages.json")) == NAMES[:3]
    assert pretended.indexed == [1, 2, 3]
    pretended.breaks = None
    run_series(run, NAMES)
    assert pretended.since() == NAMES[3:]


def test_a_stage_that_fails_on_changed_inputs_is_tried_again(finished, pretended, source):
    write_jsonl(source, ROWS[1:])
    pretended.breaks = "03_dataset_prep"
    for _ in range(2):
        with pytest.raises(StageError):
            run_series(finished, NAMES)
        assert pretended.since() == ["03_dataset_prep"]


def test_the_inputs_are_those_from_before_the_stage_ran(run, monkeypatch, pretended, source):
    """A file that changes while its stage runs must make the stage run again."""

    def meddle(run, stage):
        pretended(run, stage)
        if stage == "03_dataset_prep":
            write_jsonl(source, ROWS[: 30 - len(pretended.ran)])

    monkeypatch.setattr(runner, "execute", meddle)
    run_series(run, NAMES)
    pretended.since()
    run_series(run, NAMES[:3])
    assert pretended.since() == ["03_dataset_prep"]


@pytest.mark.parametrize(
    ("start", "only", "numbers"),
    [
        (None, None, "01 02 03 04 05 06 07"),
        ("03", None, "03 04 05 06 07"),
        ("06_export", None, "06 07"),
        (None, "5", "05"),
    ],
)
def test_from_and_only_choose_stages(start, only, numbers):
    assert " ".join(name[:2] for name in choose_stages(start, only)) == numbers


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["rum"], "No such command 'rum'"),
        (["run", "--profil", "smoke"], "No such option: --profil"),
        (["run", "--only"], "'--only' requires an argument"),
        (["serve", "--port", "-4"], "'--port'"),
        (["serve", "--parallel", "0"], "'--parallel'"),
        (["serve", "--context", "255"], "'--context'"),
        (["serve", "--engine", "vlm"], "'vlm' is not one of 'auto', 'llama.cpp', 'vllm'"),
    ],
)
def test_a_mistyped_command_line_is_one_line(cli, words, told):
    assert told in error_line(cli(*words))


@pytest.mark.parametrize("word", ["08", "0", "export"])
def test_an_unknown_stage_is_named_with_the_valid_ones(word):
    for choice in ({"start": word}, {"only": word}):
        with pytest.raises(InputError, match=f"unknown stage '{word}'; valid: 01, 02, 03, 04, 05, 06, 07"):
            choose_stages(**choice)


def test_what_a_notebook_says_of_its_progress_is_passed_on(run, monkeypatch, pretended):
    said = []

    def work(run, stage):
        write_text(Path(os.environ[PROGRESS_FILE]), "7/9 rows")
        deadline = time.monotonic() + 5
        while ("01_setup", "running", "7/9 rows") not in said and time.monotonic() < deadline:
            time.sleep(0.05)
        pretended(run, stage)

    monkeypatch.setattr(runner, "execute", work)
    run_series(run, NAMES[:1], tell=lambda *words: said.append(words))
    assert ("01_setup", "running", "7/9 rows") in said
    assert PROGRESS_FILE not in os.environ
    assert not [name for name in contents(run.path) if "progress" in name]


def test_the_folder_is_copied_while_a_stage_runs_and_at_its_end(tmp_path, monkeypatch, pretended):
    """04 copies its checkpoints itself, as it writes them."""
    run = open_run("smoke", tmp_path / "run", {"session.backup": str(tmp_path / "drive")})
    copy, seen = tmp_path / "drive/training/log.jsonl", []

    def work(run, stage):
        write_text(run / "training/log.jsonl", stage)
        time.sleep(0.5)
        seen.append(copy.read_text())
        pretended(run, stage)

    monkeypatch.setattr(runner, "BACKUP_SECONDS", 0.05)
    monkeypatch.setattr(runner, "execute", work)
    run_series(run, ["02_baseline_inference", "04_lora_training"])
    assert seen == ["02_baseline_inference"] * 2
    for name in ("stages.json", "training/log.jsonl"):
        assert (tmp_path / "drive" / name).read_bytes() == (run / name).read_bytes()


@pytest.mark.parametrize(("stop", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_says_in_a_line_that_it_stopped_and_how_to_go_on(cli, pretended, monkeypatch, tmp_path, stop, status):
    before = signal.getsignal(signal.SIGTERM)
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)  # as it is in tests that a shell runs behind

    def stopped(run, stage):
        if stage == "03_dataset_prep":
            os.kill(os.getpid(), stop)
            time.sleep(5)
        pretended(run, stage)

    monkeypatch.setattr(runner, "execute", stopped)
    monkeypatch.setattr("logging.disable", lambda: None)
    result = cli("run", "--profile", "smoke", "--run-dir", tmp_path / "run")
    assert result.status == status
    [line] = result.err.splitlines()
    assert line.startswith(f"stopped: the same command goes on with {tmp_path / 'run'}; finished stages are skipped")
    assert signal.getsignal(signal.SIGTERM) is before
    monkeypatch.setattr(runner, "execute", pretended)
    signal.signal(signal.SIGINT, ignored)
    pretended.since()
    assert cli("run", "--run-dir", tmp_path / "run").status == 0
    assert pretended.since() == NAMES[2:]


def test_a_full_disk_between_stages_is_one_line(cli, pretended, monkeypatch, tmp_path):
    monkeypatch.setattr(runner, "write_index", fails(OSError(28, "No space left on device", "index.html")))
    line = error_line(cli("run", "--profile", "smoke", "--run-dir", tmp_path / "run"))
    assert line == "error: No space left on device: index.html; what was finished stays"


# The command line, with notebooks that only pretend ---------------------------------------------------------------


def test_run_says_what_it_did_and_where_the_page_is(cli, pretended, tmp_path):
    result = cli("run", "--profile", "smoke", "--run-dir", tmp_path / "run")
    assert (result.status, result.err) == (0, "")
    assert pretended.since() == NAMES
    assert [line.split()[:2] for line in result.out.splitlines() if " finished " in line] == [
        [name, "finished"] for name in NAMES
    ]
    assert "7 stages run" in result.out
    assert re.search(r" +base +tuned +difference .*\nNLL +3\.125 +2\.875 +-0\.250 \(-0\.3 to 0\)", result.out)
    assert re.search(r" +closed +reading +difference .*\nquiz +25\.0% +50\.0% +\+25\.0 points", result.out)
    assert result.out.splitlines()[-1] == f"Open {tmp_path / 'run/index.html'}"
    again = cli("run", "--run-dir", tmp_path / "run")
    assert again.status == 0
    assert pretended.since() == []
    assert "0 stages run" in again.out
    assert "7 skipped" in again.out
    assert "-0.250" in again.out


def test_run_takes_from_only_set_and_force(cli, pretended, tmp_path):
    folder = tmp_path / "run"
    assert cli("run", "--profile", "smoke", "--run-dir", folder, "--only", "2").status == 0
    assert pretended.since() == ["02_baseline_inference"]
    assert cli("run", "--run-dir", folder, "--from", "05").status == 0
    assert pretended.since() == ["05_evaluation", "06_export", "07_retrieval"]
    forced = cli("run", "--run-dir", folder, "--profile", "smoke", "--force", "--set", "lora.r=8", "--only", "04")
    assert forced.status == 0
    assert pretended.since() == ["04_lora_training"]
    assert open_run("auto", folder).config.lora.r == 8


def test_a_file_on_the_command_line_is_meant_from_the_folder_one_is_in(cli, pretended, tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    result = cli("run", "--profile", "smoke", "--run-dir", "a/run", "--set", "data.source=rows.jsonl", "--only", "01")
    assert result.status == 0
    assert open_run("auto", tmp_path / "a/run").config.data.source == str(source)


@pytest.mark.parametrize("key", [*marked(FILE), *marked(CORPUS)])
def test_a_setting_that_may_name_files_means_those_of_the_working_folder(tmp_path, monkeypatch, key):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "one.jsonl").touch()
    folder = str(tmp_path / "there") if key in marked(CORPUS) else "there"
    given = [f"{key}=[one.jsonl, handbook, sample, gone.jsonl, there]"]
    assert _overrides(given) == {key: [str(tmp_path / "one.jsonl"), "handbook", "sample", "gone.jsonl", folder]}


@pytest.mark.parametrize("bad", ["~nobodyhere/x", "x" * 300, "circle", "gone"])
@pytest.mark.parametrize("words", [
    "run --run-dir", "score --run-dir", "ask Why? --run-dir", "serve --run-dir", "push a/b --run-dir", "index --out i",
    "index x --out", "ask Why? --endpoint http://127.0.0.1:1/v1 --index", "run --run-dir r --set session.backup=",
    "run --run-dir r --set data.source=", "run --run-dir r --set evaluation.questions=",
    "run --run-dir r --set retrieval.sources=", "serve --base --vllm", "serve --base --run-dir",
])  # fmt: skip
def test_a_path_that_no_file_can_have_is_one_line_wherever_it_is_typed(cli, tmp_path, monkeypatch, words, bad):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AI_DOCTOR_RUN_DIR", "r")
    (tmp_path / "circle").symlink_to("circle")
    if bad == "gone":  # the working folder itself
        (tmp_path / "gone").mkdir()
        monkeypatch.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
    *words, last = words.split()
    assert "\n" not in error_line(cli(*words, *([last + bad] if last.endswith("=") else [last, bad])))


@pytest.mark.parametrize("run_dir", ["", ".", "/", PROJECT_ROOT])
def test_a_folder_that_holds_the_project_is_no_run_folder(cli, monkeypatch, run_dir):
    """The notebooks of a run lie where those of the project do, and would take their place."""
    monkeypatch.chdir(PROJECT_ROOT)
    result = cli("run", "--profile", "smoke", "--only", "01", "--run-dir", run_dir)
    assert result.status == 2
    assert ("holds this project" if run_dir else "names no folder") in error_line(result)
    assert not (PROJECT_ROOT / "run.yaml").exists()


def test_a_setting_that_holds_itself_is_one_line(cli, tmp_path):
    assert "data.corpus" in error_line(cli("run", "--run-dir", tmp_path / "r", "--set", "data.corpus=&a [*a]"))


def test_a_failed_stage_is_status_1_with_the_cell_and_traceback_below(cli, pretended, tmp_path):
    pretended.breaks = "02_baseline_inference"
    result = cli("run", "--profile", "smoke", "--run-dir", tmp_path / "run")
    assert result.status == 1
    assert result.err.splitlines()[0] == "error: 02_baseline_inference failed: ValueError: no"
    assert "in a cell" in result.err
    assert "Traceback" not in result.err


def test_a_wrong_file_is_one_line_before_any_work(cli, finished, pretended, tmp_path):
    """The faults themselves are tested in dataset_prep; a finished folder stays as it was, also with --force."""
    (tmp_path / "wrong.jsonl").write_text('{"Question": "Q"}\n\n{"Question": "Q",}\n')
    before = contents(finished.path)
    words = ["run", "--profile", "smoke", "--set", f"data.source={tmp_path / 'wrong.jsonl'}", "--run-dir"]
    for folder in (tmp_path / "new", finished.path):
        result = cli(*words, folder, "--force")
        assert "wrong.jsonl line 3: not JSON" in error_line(result)
        assert result.out == ""
    assert "data.source is" in error_line(cli(*words, finished.path))
    assert pretended.ran == []
    assert not (tmp_path / "new").exists()
    assert contents(finished.path) == before


WRONG_WORDS = {
    "bad value": (["--set", "lora.r=big"], "lora.r = 'big'"),
    "no assignment": (["--set", "lora.r"], "--set takes KEY=VALUE, got 'lora.r'"),
    "no such file": (["--profile", "smoke", "--set", "data.source=no.jsonl", "--force"], "data.source = 'no.jsonl'"),
    "from and only": (["--from", "2", "--only", "3"], "exclude each other"),
    "another configuration": (["--set", "lora.r=9"], "lora.r is 4 there, 9 asked"),
}


def test_wrong_words_are_one_line_and_leave_a_finished_folder_as_it_was(cli, finished, pretended):
    before = contents(finished.path)
    for words, says in WRONG_WORDS.values():
        result = cli("run", "--run-dir", finished.path, *words)
        assert says in error_line(result)
        assert result.out == ""
        assert pretended.ran == []
        assert contents(finished.path) == before


def test_check_says_what_the_machine_can_do_and_no_secret(cli, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_a_secret_value")
    result = cli("check")
    assert (result.status, result.err) == (0, "")
    assert re.search(r"profile +laptop \(no CUDA GPU", result.out)
    assert re.search(r"HF_TOKEN +environment", result.out)
    assert re.search(r"WANDB_API_KEY +not set", result.out)
    assert "Test machine" in result.out
    assert "hf_a_secret_value" not in result.out
    assert re.search(r"model +tiny", cli("check", "--profile", "smoke").out)
    assert "did you mean 'smoke'" in error_line(cli("check", "--profile", "smok"))
    assert "training.learning_rate" in error_line(cli("check", "--set", "training.lr=1"))


def test_an_error_in_the_program_is_not_dressed_up_as_a_wrong_input(monkeypatch, tmp_path):
    monkeypatch.setattr(runner, "execute", fails(ZeroDivisionError("a fault of ours")))
    monkeypatch.setattr(sys, "argv", ["helpers", "run", "--profile", "smoke", "--run-dir", str(tmp_path / "run")])
    with pytest.raises(ZeroDivisionError):
        main()


# Real kernels, small notebooks ------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A project whose 01 is the cells given; `small("1 / 0")` writes it."""
    monkeypatch.setattr(runner, "PROJECT_ROOT", tmp_path)

    def write(*cells):
        parameters = nbformat.v4.new_code_cell(
            "PROFILE = RUN_DIR = OVERRIDES = None", metadata={"tags": ["parameters"]}
        )
        notebook = nbformat.v4.new_notebook(cells=[parameters, *map(nbformat.v4.new_code_cell, cells)])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        (tmp_path / "notebooks").mkdir(exist_ok=True)
        nbformat.write(notebook, tmp_path / "notebooks/01_setup.ipynb")
        return tmp_path / "run"

    return write


def test_a_notebook_that_works_is_kept_with_its_page_and_got_the_parameters(cli, small):
    folder = small("print('seen', PROFILE, RUN_DIR, OVERRIDES)")
    result = cli("run", "--profile", "smoke", "--run-dir", folder, "--only", "01")
    assert (result.status, result.err) == (0, "")
    assert sorted(contents(folder)) == [
        "index.html", "notebooks/01_setup.html", "notebooks/01_setup.ipynb", "run.yaml", "stages.json",
    ]  # fmt: skip
    page = (folder / "notebooks/01_setup.html").read_text()
    assert f"seen auto {folder} {{}}" in page
    loaded = re.findall(r"<(?:script|link|img|iframe)\b[^>]*(?:src|href)=[\"'](?!data:)[^\"']+", page)
    assert loaded == []
    assert sorted(path.name for path in folder.parent.iterdir()) == [
        "notebooks",
        "run",
    ]  # and none of the kernel's sockets


def test_a_notebook_that_fails_is_status_1_with_its_cell_and_is_kept_as_far_as_it_came(cli, small):
    folder = small("print('came this far')", "x = 1\nraise RuntimeError('first\\nsecond')", "print('never')")
    result = cli("run", "--profile", "smoke", "--run-dir", folder, "--only", "01")
    assert result.status == 1
    assert result.err.splitlines()[:2] == ["error: 01_setup failed: RuntimeError: first", ""]
    assert "x = 1\nraise RuntimeError" in result.err
    assert "second" in result.err
    assert "Traceback" in result.err  # the notebook's own, and not the runner's
    assert "papermill" not in result.err
    page = (folder / "notebooks/01_setup.html").read_text()
    assert "came this far" in page
    assert "RuntimeError" in page
    assert not (folder / "stages.json").exists()
    assert not [name for name in contents(folder) if "tmp" in name or "progress" in name]


def test_a_kernel_that_dies_is_a_failed_stage(cli, small):
    folder = small("import os, sys\nos.write(sys.__stderr__.fileno(), b'double free')\nos.abort()")
    result = cli("run", "--profile", "smoke", "--run-dir", folder, "--only", "01")
    assert result.status == 1
    assert result.err.startswith("error: 01_setup failed: its kernel died")
    assert "double free" in result.err


@pytest.mark.parametrize(("name", "status"), [("InputError", 2), ("StoppedError", 75)])
def test_what_a_notebook_finds_wrong_and_an_early_end_are_one_line(cli, finished, monkeypatch, name, status):
    error = PapermillExecutionError(3, 3, "x = 1", name, "rows.jsonl line 3: not JSON\nmore", ["Traceback"])
    monkeypatch.setattr(runner, "execute", execute)
    monkeypatch.setattr("papermill.execute_notebook", fails(error))
    before = contents(finished.path)
    result = cli("run", "--run-dir", finished.path, "--force", "--only", "03")
    assert (result.status, result.err) == (status, "error: rows.jsonl line 3: not JSON\n")
    assert contents(finished.path) == before


def test_the_module_from_another_folder_ends_with_status_2(tmp_path):
    words = [sys.executable, "-m", "helpers", "ask", "Why?", "--base", "--endpoint", "http://127.0.0.1:9/v1"]
    environment = os.environ | {"PYTHONPATH": str(PROJECT_ROOT)}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400)
    result = SimpleNamespace(status=done.returncode, err=done.stderr)
    assert error_line(result).startswith("error: a server has one model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("script", "module"),
    [("train.py", "helpers.lora_training.train"), ("evaluate.py", "helpers.evaluation.evaluate")],
)
def test_a_script_for_several_gpus_ends_in_one_line(tmp_path, monkeypatch, capfd, script, module):
    """At a stop, where work is saved and ends before its time, and for a wrong input; one of the processes says it."""
    run = open_run("smoke", tmp_path / "run")

    def ended(does, *words):
        monkeypatch.setitem(sys.modules, module, SimpleNamespace(train=does, evaluate=does))
        monkeypatch.setattr(sys, "argv", [script, *map(str, words or ("--run-dir", run.path))])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(PROJECT_ROOT / script), run_name="__main__")
        return end.value.code, capfd.readouterr().err

    def stopped(run):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    monkeypatch.setattr("logging.disable", lambda: None)
    status, said = ended(stopped)
    assert (status, said.count("\n")) == (143, 1)
    assert said.startswith(f"stopped: the same command goes on with {run.path}")
    assert ended(fails(StoppedError("saved after step 3"))) == (75, "saved after step 3\n")
    line = f"error: {tmp_path / 'typo'} is not a run folder: it has no run.yaml\n"
    assert ended(stopped, "--run-dir", tmp_path / "typo") == (2, line)
    assert not (tmp_path / "typo").exists()
    status, said = ended(stopped, "--rundir", run.path)
    assert (status, said.count("\n")) == (2, 1)
    monkeypatch.setenv("RANK", "1")
    assert ended(stopped) == (143, "")


def test_a_second_series_in_one_folder_is_refused(run, cli, pretended, monkeypatch):
    """That of another machine; test_owner has real processes."""
    write_json(run / OWNER, {"token": "other", "machine": "another", "host": "elsewhere", "pid": 7})
    monkeypatch.setattr(owner, "_watch", fails(InputError("it is in use")))
    assert error_line(cli("run", "--run-dir", run.path)) == "error: it is in use"
    assert pretended.ran == []
