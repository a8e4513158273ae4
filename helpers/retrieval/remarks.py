"""What 07's tables and figures show of this run, in a sentence or two each, made from the figures."""

from collections.abc import Mapping
from typing import Any

from helpers.report.markdown import quoted
from helpers.scoring.answers import Prediction
from helpers.scoring.statistics import LEAST, is_shown
from helpers.scoring.verdicts import least_shown, reading_verdict

Figures = Mapping[str, Any]


def on_finding(finding: Figures) -> str:
    """How often the right document is found by the question, and whether another query finds it more often."""
    if not finding:
        return "No question of this task names a document that is in this library, so there is nothing to count here."
    alone = finding["question"]
    first, ten = (alone["hits"][k]["share"] for k in ("1", "10"))
    remark = [f"Asked with the question alone, the search has the right document first for {first:.0%} of {alone['n']} "
              f"questions and among the first ten for {ten:.0%}."]  # fmt: skip
    if alone["n"] < LEAST:
        return remark[0]
    for name, found in finding.items():
        if found["paired"] and is_shown(found["paired"]):
            word = "higher" if found["paired"]["delta"] > 0 else "lower"
            remark.append(f"By *{quoted(name)}* the mean reciprocal rank is {word}, {found['mrr']:.2f} instead of "
                          f"{alone['mrr']:.2f}.")  # fmt: skip
    if len(remark) == 1 and len(finding) > 1:
        remark.append("No other query is shown to find more or less.")
    return " ".join(remark)


def on_reading(sides: Figures) -> str:
    """The verdicts on the tuned model and, made to answer, on the base model: a list for each kind of passages.

    What so many questions could have shown is said once, below the lists.
    """
    parts: list[str] = []
    detectable: dict[int, list[float]] = {}
    for condition, tuned in sides["tuned"].items():
        if condition == "closed":
            continue
        base = sides.get("base", {}).get(condition, {}).get("made_to_answer")
        readings = [("tuned", tuned["replied"], False), ("tuned", tuned["made_to_answer"], True), ("base", base, True)]
        said = [f"**{condition}.**"]
        if tuned["found"] is not None:
            said[0] += f" The right document was among the tuned model's passages for {tuned['found']:.0%}."
        said.append("")
        for side, figures, forced in readings:
            if figures:
                said.append(f"- {quoted(reading_verdict(figures, side, condition, forced, least=False))}")
                if not is_shown(figures):
                    detectable.setdefault(figures["n"], []).append(figures["detectable"])
        parts.append("\n".join(said))
    return "\n\n".join([*parts, *(least_shown(n, points) for n, points in detectable.items())])


def reading_table(sides: Figures) -> list[dict[str, str]]:
    rows = []
    for side, conditions in sides.items():
        for name, found in conditions.items():
            replied, forced = found["replied"], found["made_to_answer"]
            rows.append(
                {
                    "model": side,
                    "condition": name,
                    "n": str(found["n"]),
                    "right document shown": "-" if found["found"] is None else f"{found['found']:.0%}",
                    "cut off": f"{found['truncated']:.0%}",
                    "accuracy": f"{replied['accuracy']:.1%}",
                    "mended / misled": "-" if name == "closed" else f"{replied['mended']} / {replied['misled']}",
                    "made to answer": f"{forced['accuracy']:.1%}" if forced else "-",
                }
            )
    return rows


def changed_pair(rows: list[Prediction], mended: bool) -> tuple[Prediction, Prediction] | None:
    """The first question, closed and open book, that reading mended (or misled); None if there is none."""
    closed = {(row["task"], row["id"]): row for row in rows if row["condition"] == "closed"}
    pairs = ((closed[row["task"], row["id"]], row) for row in rows if row["condition"] == "open")
    return next(((one, two) for one, two in pairs if two["correct"] - one["correct"] == (1 if mended else -1)), None)
