"""index.html and the model card: the figures of metrics.json, and text from outside as text."""

import html
import re

import pytest
from conftest import MACHINE
from evaluated_rows import BASE, TUNED
from html_page import Page

from helpers.evaluation.metrics import summarise
from helpers.files import write_json, write_jsonl, write_text
from helpers.machine import hardware
from helpers.report.model_card import model_card
from helpers.report.results import headline, write_index
from helpers.run_dir.folder import open_run
from helpers.run_dir.layout import STAGES
from helpers.scoring.verdicts import on_task, on_unseen


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run folder in which nothing has run yet."""
    monkeypatch.setattr(hardware, "describe_machine", lambda: MACHINE)
    return open_run("smoke", tmp_path / "a run")


def fill(run, base=BASE, tuned=TUNED):
    """Every stage's results as the stages would leave them, by hand."""
    metrics = summarise(base, tuned, {"medqa": ["medqa-1"], "other": []})
    edges = [0, 256, 512]
    tokens = {"histogram": {"edges": edges, "train": [12, 3], "validation": [1, 1], "test": [0, 1]}}
    splits = {"train": 1501, "validation": 37, "test": 41}
    provenance = {"source": "rows", "revision": "0a1b2c", "rows": 1579, "fingerprint": "f"}
    write_json(run / "data/report.json", {"provenance": provenance, "splits": splits, "tokens": tokens})
    write_jsonl(run / "training/log.jsonl", [{"step": 0, "validation_nll": 3.5}, {"step": 1, "loss": 3.25}])
    training = {"steps": 4, "tokens_per_second": 115.4, "peak_memory_gib": 1.26}
    write_json(run / "training/metrics.json", {**training, "validation_nll": {"before": 3.5, "after": 3.25}})
    write_jsonl(run / "evaluation/predictions.base.jsonl", base)
    write_jsonl(run / "evaluation/predictions.tuned.jsonl", tuned)
    write_json(run / "evaluation/metrics.json", metrics)
    write_json(run / "export/report.json", {"files": [{"name": "model-q8_0.gguf", "mib": 138.4}]})
    write_text(run / "export/model-q8_0.gguf", "")
    write_json(run / "retrieval/metrics.json", {"index": {"documents": 1200, "passages": 3400}, "reading": READING})
    write_json(run / "stages.json", {name: {"inputs": "x", "seconds": 7.0 + i} for i, name in enumerate(STAGES)})
    for name in STAGES:
        write_text(run / f"notebooks/{name}.html", "")
    return metrics


REPLIED = {
    "n": 8, "closed": 0.25, "accuracy": 0.5, "mended": 3, "misled": 1, "delta": 0.25, "delta_ci95": [-0.1, 0.6],
    "mcnemar_p_holm": 0.6, "detectable": 0.7, "verdict": "As an older release stored it.",
}  # fmt: skip
READING = {"qu<iz>": {"tuned": {"closed": {}, "oracle": {"replied": REPLIED, "made_to_answer": None}}}}


FEW = "(too few rows for an interval)"
HEADLINE = [
    ("Completion NLL, 2 unseen rows (nats a token, lower is better)", "2.500", "2.300", f"-0.200 {FEW}"),
    ("of it, reasoning and </think>", "2.000", "1.800", f"-0.200 {FEW}"),
    ("of it, answer and end token", "3.500", "3.300", f"-0.200 {FEW}"),
    ("Replies to 2 unseen rows that close </think>", "0%", "50%", f"+50.0 points {FEW}"),
    ("Replies to 2 unseen rows that end by themselves", "50%", "100%", f"+50.0 points {FEW}"),
    ("Accuracy, medqa (n=4, chance 27%)", "25.0%", "50.0%", "+25.0 points (-100.0 to +100.0)"),
    ("without 1 flagged as like training rows (n=3)", "33.3%", "33.3%", "+0.0 points (-100.0 to +100.0)"),
    ("Accuracy, other (n=3, chance 25%)", "0.0%", "100.0%", "+100.0 points (-100.0 to +100.0)"),
]
FIGURES = [list(row[1:]) for row in HEADLINE]


def test_the_headline_holds_the_figures_of_the_metrics(run):
    assert headline(run) == []  # there are none yet
    fill(run)
    assert headline(run) == HEADLINE
    fill(run, BASE[:2] * 3 + BASE[2:], TUNED[:2] * 3 + TUNED[2:])
    assert headline(run)[0][1:] == ("2.500", "2.300", "-0.200 (-0.545 to +0.145)")


def test_the_index_of_an_empty_run_says_what_is_to_come(run):
    text = write_index(run).read_text(encoding="utf-8")
    page = Page(text)
    assert "Did it help?" not in text
    assert "img" not in page.names
    assert page.addresses == ["run.yaml"]
    assert [row[0].strip() for row in page.rows[1:]] == [f"{name[:2]} {stage.title}" for name, stage in STAGES.items()]


def test_the_index_holds_the_figures_of_the_metrics_and_every_stage(run):
    metrics = fill(run)
    text = write_index(run).read_text(encoding="utf-8")
    page = Page(text)
    shown = [row[1:] for row in page.rows if len(row) == 4]
    read = [["closed book", "with passages", "difference (95% interval)"]]
    read.append(["25.0%", "50.0%", "+25.0 points (-10.0 to +60.0)"])
    assert shown == [["base", "tuned", "difference (95% interval)"], *FIGURES, *read]
    assert "qu&lt;iz&gt;: Reading is not shown to help or to hurt: with passages of the document that answers" in text
    for verdict in (on_unseen(metrics["validation"]), *map(on_task, metrics["tasks"].values())):
        assert html.escape(verdict, quote=False) in text.replace("&#39;", "'")
    stages = [" ".join(cell.split()) for row in page.rows if len(row) == 3 for cell in row[1:]][2:]
    assert stages[::2] == [
        "", "", "1501 training, 37 validation, 41 test rows",
        "4 steps, 115 tokens/s, peak 1.3 GiB, validation loss 3.500 to 3.250",
        "2 unseen rows, 7 multiple-choice questions", "model-q8_0.gguf (138 MiB)", "1,200 documents in 3,400 passages",
    ]  # fmt: skip
    assert stages[1::2] == ["7", "8", "9", "10", "11", "12", "13"]
    assert [tag for tag, _ in page.tags].count("img") == 5
    # It needs nothing from elsewhere, and its links lead somewhere.
    pictures = [address for address in page.addresses if address.startswith("data:image/png;base64,")]
    links = [address for address in page.addresses if address not in pictures]
    assert len(links) >= 12
    assert [link for link in links if not (run / link).is_file()] == []
    without = re.sub(r'"data:image/png;base64,[A-Za-z0-9+/=]*"', "", text)
    assert not re.search(r"//[\w-]+\.|@import|url\(", without)
    assert not {"script", "iframe", "link", "object", "embed"} & page.names


@pytest.mark.parametrize("stages", [("data",), ("data", "training", "evaluation")])
def test_the_index_can_be_written_after_each_stage(run, stages):
    fill(run)
    for name in {"data", "training", "evaluation", "export"} - set(stages):
        for path in (run / name).iterdir():
            path.unlink()
    text = write_index(run).read_text(encoding="utf-8")
    assert ("1501 training" in text, "115 tokens/s" in text) == ("data" in stages, "training" in stages)
    assert ("Did it help?" in text) == ("evaluation" in stages)
    assert "138 MiB" not in text
    assert [link for link in Page(text).addresses if ":" not in link and not (run / link).is_file()] == []


def card_rows(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_a_model_card_holds_the_figures_of_the_metrics(run):
    metrics = fill(run)
    write_text(run / "adapter/README.md", model_card(run, "adapter"))
    text = (run / "adapter/README.md").read_text(encoding="utf-8")
    results = card_rows(text.partition("## Results")[2])
    assert [row[1:] for row in results[2:]] == FIGURES
    assert on_unseen(metrics["validation"]) in text
    assert f"medqa: {on_task(metrics['tasks']['medqa'])}" in text
    assert "1501 for training, 37 for validation, 41 held back" in text
    assert "revision `0a1b2c`" in text
    settings = {row[0].strip("`"): row[1] for row in card_rows(text.partition("## Results")[0])}
    wanted = {
        k: str(v) for k, v in run.config.flat().items() if k.split(".")[0] in ("seed", "model", "lora", "training")
    }
    assert settings.items() >= wanted.items()
    assert "Not for clinical use" in text
    assert "synthetic" in text
    assert "Not evaluated yet" not in text


def test_a_model_card_without_results_says_so(run):
    write_text(run / "adapter/README.md", model_card(run, "adapter"))
    text = (run / "adapter/README.md").read_text(encoding="utf-8")
    assert "Not evaluated yet." in text
    assert "Not for clinical use" in text
    for word in ("None", "Undefined", "{{", "{%"):
        assert word not in text.partition("## Results")[2]
    assert card_rows(text.partition("## Results")[2]) == []
