"""A finished folder used again: other questions, other scoring, and each notebook's "Change one thing"."""

import ast
import re
import shutil
from types import SimpleNamespace

import nbformat
import pytest
import yaml

from helpers import PROJECT_ROOT, InputError
from helpers.config import Config
from helpers.dataset_prep.prepare import prepare
from helpers.evaluation import evaluate as evaluation
from helpers.evaluation.evaluate import evaluate, rescore
from helpers.files import read_json, read_jsonl, write_json, write_jsonl
from helpers.models.loading import load_tokenizer
from helpers.report.model_card import model_card
from helpers.report.results import write_index
from helpers.retrieval.remarks import on_reading
from helpers.run_dir.folder import open_run
from helpers.run_dir.layout import STAGES
from helpers.scoring import answers, verdicts
from helpers.series.stages import stage_inputs

MINE = [{"id": "mine-1", "question": "Which drug stops torsades?", "answer_idx": "B",
         "options": {"A": "Digoxin", "B": "Magnesium sulfate"}}]  # fmt: skip


@pytest.fixture
def folder(tiny_run, tmp_path):
    """A copy of the tiny run that may be changed."""
    return shutil.copytree(tiny_run.run.path, tmp_path / "run")


def stale(before, after):
    return [name[:2] for name in STAGES if stage_inputs(before, name) != stage_inputs(after, name)]


# The notebooks' exercises ----------------------------------------------------------------------------------------


def exercise(stage):
    """The text of a notebook's "Change one thing", and the overrides that it tells to set, with dotted keys."""
    cells = nbformat.read(PROJECT_ROOT / f"notebooks/{stage}.ipynb", as_version=4).cells
    _, _, text = "\n".join(cell.source for cell in cells).partition("## Change one thing")
    text = text.split("Next: [")[0]
    return text, [ast.literal_eval(found) for found in re.findall(r"\{\"\w+\.\w+\": [^}]*\}", text)]


def test_every_notebook_has_an_exercise_and_this_file_carries_out_all_of_them():
    overrides = {stage[:2]: exercise(stage)[1] for stage in STAGES}
    assert overrides == {
        "01": [{"training.max_stepz": 20}],
        "02": [{"model.prompt_style": "plain"}],
        "03": [],
        "04": [{"training.epochs": 2}, {"training.max_steps": 120}],
        "05": [{"evaluation.questions": ["my_questions.jsonl"]}, {"evaluation.rows": "test"}],
        "06": [],  # as in 03, cells of its own, which run with the notebook
        "07": [{"retrieval.k": 2}],
    }


def test_01_a_misspelt_setting_names_the_right_one(folder):
    with pytest.raises(InputError, match=r"unknown key 'training\.max_stepz'; did you mean 'training\.max_steps'\?"):
        open_run("auto", folder, {"training.max_stepz": 20})


def test_02_takes_another_folder_as_it_says(folder, tmp_path):
    text, [overrides] = exercise("02_baseline_inference")
    assert "another `RUN_DIR`" in text
    with pytest.raises(InputError, match="choose another run folder"):
        open_run("auto", folder, overrides)
    other = open_run("smoke", tmp_path / "other", overrides)
    report = prepare(other, load_tokenizer(other.config.model))
    assert report["splits"]["train"] > 0


def test_07_reads_more_passages_in_the_same_folder(folder):
    _, [overrides] = exercise("07_retrieval")
    before = open_run("auto", folder, {"retrieval.k": 1})
    assert stale(before, open_run("auto", folder, overrides)) == ["07"]


def test_04_trains_longer_in_the_same_folder(folder):
    """That the training then goes on from its last checkpoint is seen in test_training."""
    text, [longer, steps] = exercise("04_lora_training")
    assert "another `RUN_DIR`" not in text
    laptop = Config.resolve("laptop").training  # whose folders have no number of steps that could grow
    assert (laptop.max_steps, laptop.epochs) == (-1, 1)
    for overrides in (longer, steps):
        before = open_run("auto", folder)
        assert stale(before, open_run("auto", folder, overrides)) == ["04"]
    training = open_run("auto", folder).config.training
    assert (training.epochs, training.max_steps) == (2, 120)


def test_05_asks_my_questions_in_the_same_folder(folder, tmp_path):
    write_jsonl(tmp_path / "my_questions.jsonl", MINE)
    _, [overrides, _] = exercise("05_evaluation")
    before, adapter = open_run("auto", folder), (folder / "adapter/adapter_model.safetensors").read_bytes()
    after = open_run(
        "auto", folder, {key: [str(tmp_path / name) for name in value] for key, value in overrides.items()}
    )
    assert stale(before, after) == ["03", "05", "07"]
    metrics = evaluate(after)
    assert {name: task["n"] for name, task in metrics["tasks"].items()} == {"my_questions": 1}
    assert (folder / "adapter/adapter_model.safetensors").read_bytes() == adapter


def test_05_measures_on_the_test_rows_in_the_same_folder(folder):
    _, [_, overrides] = exercise("05_evaluation")
    before = open_run("auto", folder, {"evaluation.rows": "validation"})
    after = open_run("auto", folder, overrides)
    assert stale(before, after) == ["05"]
    count = len(read_jsonl(folder / "data/test.jsonl")[: after.config.evaluation.max_validation])
    assert evaluate(after)["validation"]["n"] == count > 0


# Conclusions -----------------------------------------------------------------------------------------------------


def conclusions(run):
    """By page, all that 05, 07, index.html and the card of this folder conclude."""
    metrics, reading = (read_json(run / f"{name}/metrics.json") for name in ("evaluation", "retrieval"))
    tasks = list(metrics["tasks"].values())
    said = [verdicts.on_unseen(metrics["validation"]), *map(verdicts.on_task, tasks)]
    said += map(verdicts.when_made_to_answer, tasks)
    return {
        "05": "\n".join(said),
        "07": "\n".join(on_reading(sides) for sides in reading["reading"].values()),
        "index": write_index(run).read_text(encoding="utf-8"),
        "card": model_card(run, "adapter"),
    }


def test_other_words_change_no_file_and_are_shown_in_an_old_folder(folder, no_model, monkeypatch):
    run, path = open_run("auto", folder), folder / "evaluation/metrics.json"
    metrics, words = path.read_bytes(), conclusions(run)
    for name in ("evaluation", "retrieval"):
        write_json(folder / f"{name}/metrics.json", worded(read_json(folder / f"{name}/metrics.json")))
    assert conclusions(run) == words  # not those of an older release, in which the files had them
    monkeypatch.setattr(verdicts, "verdict", lambda *_, **__: "Newly said.")
    monkeypatch.setattr(verdicts, "points_apart", lambda _: "newly counted")
    for page, text in conclusions(run).items():
        assert "Too few rows were measured" not in text, page
        assert "changes by newly counted" in text if page == "07" else text.count("Newly said.") >= 3, page
    rescore(run)
    assert path.read_bytes() == metrics
    assert b"verdict" not in metrics


def worded(metrics):
    """These figures with a sentence beside each comparison, as an older release wrote them."""
    if not isinstance(metrics, dict):
        return metrics
    sentence = {"verdict": "By older words."} if metrics.keys() & {"paired", "mended"} else {}
    return {**{key: worded(each) for key, each in metrics.items()}, **sentence}


def test_conclusions_say_less_where_an_older_release_wrote_fewer_figures(folder):
    run, words = open_run("auto", folder), conclusions(open_run("auto", folder))
    write_json(folder / "evaluation/metrics.json", fewer(read_json(folder / "evaluation/metrics.json")))
    for page, text in conclusions(run).items():
        assert 0 < len(text) < len(words[page]) or page == "07", page


def fewer(metrics):
    gone = ("mcnemar_p_holm", "detectable", "truncated", "answered", "favourite", "parts")
    if not isinstance(metrics, dict):
        return metrics
    return {key: fewer(each) for key, each in metrics.items() if key not in gone}


# Scored again ----------------------------------------------------------------------------------------------------


@pytest.fixture
def no_model(monkeypatch):
    for module, name in ((evaluation, "load_tokenizer"), (evaluation, "load_with_adapter"), (answers, "generate")):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("a model was asked for"))


def test_scoring_again_by_the_same_rules_changes_nothing(folder, no_model):
    names = ("metrics.json", "predictions.base.jsonl", "predictions.tuned.jsonl")
    files = [folder / "evaluation" / name for name in names]
    before = [file.read_bytes() for file in files]
    assert rescore(open_run("auto", folder)) == read_json(folder / "evaluation/metrics.json")
    assert [file.read_bytes() for file in files] == before


def test_scoring_again_reads_the_replies_by_todays_rules(folder, no_model, monkeypatch):
    monkeypatch.setattr(answers, "extract_choice", lambda reply, options: "A")
    monkeypatch.setattr(evaluation, "split_reasoning", lambda reply: SimpleNamespace(closed=True))
    path = folder / "evaluation/predictions.base.jsonl"
    rows = [{**row, "finished": True} for row in read_jsonl(path)]
    write_jsonl(path, rows)
    metrics = rescore(open_run("auto", folder))
    again = read_jsonl(path)
    read = [(row["choice"], row["correct"], row["answer_idx"]) for row in again if "options" in row]
    assert read
    assert all((choice, correct) == ("A", right == "A") for choice, correct, right in read)
    assert all(row["closed"] for row in again)
    kept = ("nll", "tokens", "thinking_tokens", "letters", "reply")
    assert [[row.get(key) for key in kept] for row in again] == [[row.get(key) for key in kept] for row in rows]
    assert metrics == read_json(folder / "evaluation/metrics.json")
    assert metrics["validation"]["base"]["closed"] == 1


def test_a_folder_of_an_older_release_is_shown_and_scored_again(folder, no_model):
    """It has settings, files and figures that there are none of any more."""
    record = yaml.safe_load((folder / "run.yaml").read_text())
    record["config"] |= {"evaluation.strengths": [0.5], "evaluation.strength_questions": 2}
    (folder / "run.yaml").write_text(yaml.safe_dump(record))
    path = folder / "evaluation/metrics.json"
    metrics, point = read_json(path), {"scale": 0.5, "nll": 2.0, "nll_ci95": None, "nll_n": 2}
    task, ended = metrics["tasks"]["sample"], {"n": 1, "truncated": 1, "bins": []}
    measured = {"length": {"base": ended, "tuned": ended}, "budget": {"base": [], "tuned": []}}
    write_json(path, {**metrics, "strength": [point], "tasks": {"sample": {**task, **measured}}})
    for side in ("base", "tuned"):
        predictions = folder / f"evaluation/predictions.{side}.jsonl"
        write_jsonl(predictions, [{**row, "forced": {"0": "A", "8": "B"}} for row in read_jsonl(predictions)])
    write_jsonl(folder / "evaluation/predictions.strength.jsonl", [{"strength": 0.5, "task": "validation", "nll": 2.0}])
    opened = open_run("auto", folder)
    write_index(opened)
    assert rescore(opened) == read_json(path) == metrics


def test_score_on_the_command_line_prints_the_headline_and_refreshes_the_page(folder, no_model, cli):
    write_json(folder / "evaluation/metrics.json", {})
    result = cli("score", "--run-dir", folder)
    assert (result.status, result.err) == (0, "")
    assert "Completion NLL" in result.out
    assert "difference (95% interval)" in result.out
    assert "Completion NLL, 2 unseen rows" in (folder / "index.html").read_text(encoding="utf-8")
    assert read_json(folder / "evaluation/metrics.json")["validation"]["n"] == 2


def test_score_without_replies_names_the_stage_that_makes_them(tmp_path, cli):
    open_run("smoke", tmp_path / "run")
    result = cli("score", "--run-dir", tmp_path / "run")
    assert result.status == 2
    assert "has no evaluation/predictions.base.jsonl yet: run 05_evaluation first" in result.err


def test_evaluating_again_asks_nothing_again(folder, monkeypatch):
    monkeypatch.setattr("helpers.generation.replies.decode", lambda *_: pytest.fail("a question was asked again"))
    before = (folder / "evaluation/predictions.tuned.jsonl").read_bytes()
    evaluate(open_run("auto", folder))
    assert (folder / "evaluation/predictions.tuned.jsonl").read_bytes() == before


def test_replies_of_other_code_are_others(tiny_run, monkeypatch):
    before = answers.reply_identity(tiny_run.run, "base")
    assert answers.reply_identity(tiny_run.run, "base") == before
    monkeypatch.setattr(answers, "fingerprints", lambda names: [f"other {name}" for name in names])
    assert answers.reply_identity(tiny_run.run, "base") != before
