"""A run's results as text and figures, and index.html, which shows them: all from the files in the run folder."""

import base64
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from helpers.files import read_json, read_jsonl, write_text
from helpers.report import plots
from helpers.run_dir.folder import Run
from helpers.run_dir.layout import STAGES
from helpers.scoring.statistics import nats_apart, points_apart
from helpers.scoring.verdicts import on_task, on_unseen, reading_verdict, when_made_to_answer
from helpers.sources.hub import public_name

# Pages show untrusted text (rows, questions, replies, file names): they run nothing and fetch nothing.
CONTENT_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; font-src data:; base-uri 'none'; form-action 'none'"
)
# The parts of the completion NLL, in the words of tables and pictures alike.
PARTS = {
    "thinking": "reasoning and </think>",
    "answer": "answer and end token",
    "text": "all but </think> and the token after it",
    "delimiter": "what these two add to the whole",
}
# 07's ways of reading, in a table's words.
BOOKS = {"open": "open book", "thought": "thought, then open book", "oracle": "the right document"}
RESULTS = {
    "data": "data/report.json",
    "training": "training/metrics.json",
    "evaluation": "evaluation/metrics.json",
    "export": "export/report.json",
    "retrieval": "retrieval/metrics.json",
    "stages": "stages.json",
}


def results(run: Run) -> dict[str, Any]:
    """The contents of a run's result files by name; None for a file that no stage has made yet."""
    return {name: read_json(run / path) if (run / path).is_file() else None for name, path in RESULTS.items()}


def write_index(run: Run) -> Path:
    write_text(run / "index.html", index_page(run))
    return run / "index.html"


def index_page(run: Run) -> str:
    """index.html: what ran, headline figures, pictures and links, in one self-contained page."""
    drawn = [(caption, base64.b64encode(figure.png()).decode("ascii")) for caption, figure in figures(run)]
    page = templates(autoescape=True).get_template("index.html.j2")
    return page.render(
        run=run,
        pages=[name for name in STAGES if (run / f"notebooks/{name}.html").is_file()],
        figures=drawn,
        content_policy=CONTENT_POLICY,
        **facts(run),
    )


def headline(run: Run) -> list[tuple[str, str, str, str]]:
    """Before/after figures as text: measure, base, tuned, difference with its 95% interval.

    Run folders of earlier versions may lack some measures.
    """
    metrics = results(run)["evaluation"]
    if not metrics:
        return []
    unseen, paired = metrics["validation"], metrics["validation"]["paired"]
    nll = {"base": unseen["base"]["nll"], "tuned": unseen["tuned"]["nll"]}
    nll |= {"delta": paired["nll_delta"], "delta_ci95": paired["nll_delta_ci95"]}
    rows = [_nll_row(f"Completion NLL, {unseen['n']} unseen rows (nats a token, lower is better)", nll)]
    rows += [_nll_row(f"of it, {PARTS[part]}", found) for part, found in unseen.get("parts", {}).items()]
    for key, what in (("closed", "close </think>"), ("finished", "end by themselves")):
        if found := unseen.get("form", {}).get(key):
            what = f"Replies to {unseen['n']} unseen rows that {what}"
            rows.append((what, f"{found['base']:.0%}", f"{found['tuned']:.0%}", points_apart(found)))
    for name, task in metrics["tasks"].items():
        rows.append(_accuracy_row(f"Accuracy, {name} (n={task['n']}, chance {task['chance']:.0%})", task))
        if forced := task.get("made_to_answer"):
            rows.append(_accuracy_row(f"made to answer after its thought (n={forced['n']})", forced))
        flagged = task.get("flagged")
        if flagged and flagged["n"] and flagged["without"]:
            rest = flagged["without"]
            rows.append(_accuracy_row(f"without {flagged['n']} flagged as like training rows (n={rest['n']})", rest))
    return rows


def named_parts(parts: dict[str, Any]) -> dict[str, Any]:
    """The parts of the NLL under their names in PARTS, in short lines, for a picture."""
    return {textwrap.fill(PARTS[part], 24): found for part, found in parts.items()}


def open_book(run: Run) -> list[tuple[str, str, str, str]]:
    """What reading does, as text: measure, closed book, with passages, difference with its 95% interval."""
    rows = []
    for task, side, condition, figures in _readings(run):
        for reading, how in (("replied", ""), ("made_to_answer", ", made to answer")):
            if found := figures[reading]:
                what = f"{task}, {side}: {BOOKS[condition]}{how} (n={found['n']})"
                rows.append((what, f"{found['closed']:.1%}", f"{found['accuracy']:.1%}", points_apart(found)))
    return rows


def _readings(run: Run) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Task, side, condition and figures of 07, of each condition with passages."""
    metrics = results(run)["retrieval"]
    for task, sides in (metrics["reading"] if metrics else {}).items():
        for side, conditions in sides.items():
            for condition, figures in conditions.items():
                if condition != "closed":
                    yield task, side, condition, figures


def verdicts(run: Run) -> list[str]:
    """The evaluation's conclusions, a sentence each: on the unseen rows, then task by task."""
    evaluation = results(run)["evaluation"]
    if not evaluation:
        return []
    tasks = evaluation["tasks"].items()
    said = (f"{name}: {on_task(task)} {when_made_to_answer(task)}".rstrip() for name, task in tasks)
    return [on_unseen(evaluation["validation"]), *said]


def reading_verdicts(run: Run) -> list[str]:
    """07's conclusions on the tuned model's replies, a sentence for each task and kind of passages."""
    tuned = (found for found in _readings(run) if found[1] == "tuned")
    return [f"{task}: {reading_verdict(figures['replied'], side, name)}" for task, side, name, figures in tuned]


def figures(run: Run) -> list[tuple[str, plots.Picture]]:
    """Caption and picture of every figure whose files the run has."""
    found, drawn = results(run), []
    if found["data"]:
        drawn.append(("Tokens a row", plots.token_lengths(found["data"], run.config.model.max_length)))
    if (run / "training/log.jsonl").is_file():
        drawn.append(("Loss while training", plots.loss_curve(read_jsonl(run / "training/log.jsonl"))))
    if evaluation := found["evaluation"]:
        sides = [read_jsonl(run / f"evaluation/predictions.{side}.jsonl") for side in ("base", "tuned")]
        nlls = [[row["nll"] for row in rows if row["task"] == "validation"] for rows in sides]
        drawn.append(("Unseen rows, one dot each", plots.paired_nll(*nlls)))
        if parts := evaluation["validation"].get("parts"):
            drawn.append(("Unseen rows, thought and answer apart", plots.nll_by_part(named_parts(parts))))
        drawn.append(("Multiple-choice accuracy", plots.accuracy(evaluation["tasks"])))
    return drawn


def _nll_row(what: str, found: dict[str, Any]) -> tuple[str, str, str, str]:
    return what, f"{found['base']:.3f}", f"{found['tuned']:.3f}", nats_apart(found["delta"], found["delta_ci95"])


def _accuracy_row(what: str, task: dict[str, Any]) -> tuple[str, str, str, str]:
    base, tuned = (f"{task[side]['accuracy']:.1%}" for side in ("base", "tuned"))
    return what, base, tuned, points_apart(task["paired"])


def facts(run: Run) -> dict[str, Any]:
    return {
        **results(run),
        "config": run.config,
        "record": run.record,
        "base_model": public_name(run.config),
        "headline": headline(run),
        "verdicts": verdicts(run),
        "open_book": open_book(run),
        "reading_verdicts": reading_verdicts(run),
        "stage_titles": {name: stage.title for name, stage in STAGES.items()},
    }


def templates(autoescape: bool) -> Environment:
    return Environment(
        loader=PackageLoader("helpers.report"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
