"""evaluation/metrics.json from the two sides' predictions: what differs, and how sure that is."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from helpers.intervals import adjust_holm, chance, compare_paired, majority_baseline, verdict, wilson_interval
from helpers.measures import accuracy_by_length, calibration, paired_difference, repetition_rate
from helpers.prompts import as_markdown
from helpers.questions import OPEN_TASK

SIDES = ("base", "tuned")
Prediction = dict[str, Any]


def summarise(
    base: list[Prediction],
    tuned: list[Prediction],
    seed: int,
    flagged: Mapping[str, Sequence[str]] | None = None,
    between: Mapping[float, list[Prediction]] | None = None,
) -> dict[str, Any]:
    """evaluation/metrics.json from the two sides' predictions, which are in the same order.

    `flagged`: by task the ids of questions that training rows resemble, as 03 found; of a task that is not in it
    nothing is known. `between`: by the share of the adapter's strength predictions for rows that are in `base` too.
    """
    sides = (base, tuned)
    return {
        "validation": _unseen(*(_of(rows, OPEN_TASK) for rows in sides)),
        "tasks": compare_tasks(*([row for row in rows if row["task"] != OPEN_TASK] for rows in sides), seed, flagged),
        "strength": strength_points(base, tuned, between) if between else [],
    }


def compare_tasks(
    base: list[Prediction], tuned: list[Prediction], seed: int, flagged: Mapping[str, Sequence[str]] | None = None
) -> dict[str, Any]:
    """Each task's figures and the sentence that they allow, for which p values are adjusted to the number of tasks."""
    tasks = {}
    for name in dict.fromkeys(row["task"] for row in base):
        sides = _of(base, name), _of(tuned, name)
        tasks[name] = _accuracies(*sides, seed)
        tasks[name]["flagged"] = _without(*sides, seed, flagged[name]) if name in (flagged or {}) else None
        tasks[name]["length"] = {side: accuracy_by_length(rows, seed) for side, rows in zip(SIDES, sides, strict=True)}
        # Letters can be had where a thought was closed: the two sides' errors compare on questions that have both.
        # Where one side never closes one, the other's stand alone.
        both = [pair for pair in zip(*sides, strict=True) if all(row.get("letters") for row in pair)]
        lettered = list(zip(*both, strict=True)) or sides
        tasks[name]["calibration"] = {side: calibration(rows, seed) for side, rows in zip(SIDES, lettered, strict=True)}
    for name, p in adjust_holm({name: task["paired"]["mcnemar_p"] for name, task in tasks.items()}).items():
        paired = tasks[name]["paired"]
        paired["mcnemar_p_holm"] = p
        tasks[name]["verdict"] = verdict(
            paired["delta"], paired["delta_ci95"], detectable=paired["detectable"], p_value=p, n=tasks[name]["n"]
        ) + _below_chance(tasks[name])
    return tasks


def strength_points(
    base: list[Prediction], tuned: list[Prediction], between: Mapping[float, list[Prediction]]
) -> list[dict[str, Any]]:
    """NLL and accuracy by the share of the adapter's strength, on the rows and questions that all shares have.

    An interval is that of the paired difference from the base model, laid around the curve: rows differ far more from
    each other than one row does from itself at another strength. So the base model's own has no width.
    """
    asked = {(row["task"], row["id"]) for rows in between.values() for row in rows}
    shares = {0.0: base, **between, 1.0: tuned}
    points = []
    for share in sorted(shares):
        point: dict[str, Any] = {"scale": share}
        for name, key in (("nll", "nll"), ("accuracy", "correct")):
            zero, values = (
                [float(row[key]) for row in rows if key in row and (row["task"], row["id"]) in asked]
                for rows in (base, shares[share])
            )
            found = paired_difference(zero, values) if values else None
            point[name] = found and found["tuned"]
            change = found and found["delta_ci95"]
            point[f"{name}_ci95"] = change and [found["base"] + end for end in change]
            point[f"{name}_n"] = len(values)
        points.append(point)
    return points


def flagged_table(tasks: Mapping[str, Any]) -> list[dict[str, str]]:
    """Each task's accuracy difference on all questions and without those that training rows resemble, as text."""
    rows = []
    for name, task in tasks.items():
        flagged = task["flagged"]
        rest = flagged and flagged["without"]
        rows.append(
            {
                "task": name,
                "questions": str(task["n"]),
                "flagged": str(flagged["n"]) if flagged else "not compared",
                "tuned minus base": points_apart(task["paired"]),
                "without flagged": points_apart(rest["paired"]) if rest else "-",
            }
        )
    return rows


def points_apart(paired: Mapping[str, Any]) -> str:
    """A difference of accuracies with its 95% interval."""
    delta, (low, high) = paired["delta"], paired["delta_ci95"]
    return f"{delta * 100:+.1f} points ({low * 100:+.1f} to {high * 100:+.1f})"


def side_by_side(base: list[Prediction], tuned: list[Prediction]) -> list[Prediction]:
    """Pairs of replies to the same question, those that got worse first, then those that got better.

    What is judged is the reply: of a choice question whether it is right, of an open one whether it comes to an
    answer at all. A row's NLL says what text a model expects, not what it writes.
    """
    pairs = []
    for one, two in zip(base, tuned, strict=True):
        judged = "closed" if one["task"] == OPEN_TASK else "correct"
        change = two[judged] - one[judged]
        pairs.append(
            {
                "task": one["task"],
                "id": one["id"],
                "outcome": "worse" if change < 0 else "better" if change > 0 else "same",
                "question": one["question"],
                "base": one["reply"],
                "tuned": two["reply"],
            }
        )
    return sorted(pairs, key=lambda pair: ["worse", "better", "same"].index(pair["outcome"]))


def example(pairs: list[Prediction], outcome: str) -> str:
    """The first pair with this outcome ("worse", "better" or "same") as markdown, both replies taken apart."""
    pair = next((pair for pair in pairs if pair["outcome"] == outcome), None)
    if pair is None:
        return f"*No reply got {outcome}.*"
    sides = (f"### {side.capitalize()} model\n\n{as_markdown(pair['question'], pair[side])}" for side in SIDES)
    return "\n\n".join(sides)


def _of(rows: list[Prediction], task: str) -> list[Prediction]:
    return [row for row in rows if row["task"] == task]


def _unseen(base: list[Prediction], tuned: list[Prediction]) -> dict[str, Any]:
    nll = paired_difference([row["nll"] for row in base], [row["nll"] for row in tuned])
    parts = {
        part: paired_difference(*([row[f"nll_{part}"] for row in rows] for rows in (base, tuned)))
        for part in ("thinking", "answer")
    }
    repeated = [[repetition_rate(row["reply"]) for row in rows] for rows in (base, tuned)]
    return {
        "n": len(base),
        **{
            side: {
                "nll": nll[side],
                **{key: fmean(row[key] for row in rows) for key in ("closed", "finished", "thinking_tokens")},
            }
            for side, rows in zip(SIDES, (base, tuned), strict=True)
        },
        "paired": {"nll_delta": nll["delta"], "nll_delta_ci95": nll["delta_ci95"]},
        "parts": parts,
        "repetition": paired_difference(*repeated),
        "verdict": verdict(
            nll["delta"], nll["delta_ci95"], lower_is_better=True, noun="completion NLL", points=False, n=nll["n"]
        ),
    }


def _accuracies(base: list[Prediction], tuned: list[Prediction], seed: int) -> dict[str, Any]:
    pairs = compare_paired([row["correct"] for row in base], [row["correct"] for row in tuned], seed)
    paired = ("delta", "delta_ci95", "base_only", "tuned_only", "mcnemar_p", "detectable")
    return {
        "n": pairs["n"],
        "majority_baseline": majority_baseline([row["answer_idx"] for row in base]),
        "chance": chance([len(row["options"]) for row in base]),
        **{
            side: {
                "accuracy": pairs[f"{side}_accuracy"],
                "ci95": pairs[f"{side}_ci95"],
                "abstained": fmean(row["choice"] is None and row["finished"] for row in rows),
                "truncated": fmean(not row["finished"] for row in rows),
                "answered": _answered([row["correct"] for row in rows if row["choice"] is not None]),
            }
            for side, rows in zip(SIDES, (base, tuned), strict=True)
        },
        "paired": {key: pairs[key] for key in paired},
    }


def _answered(correct: list[bool]) -> dict[str, Any]:
    """Of the replies that name an option: how many, and the share of them that is right."""
    if not correct:
        return {"n": 0, "accuracy": None, "ci95": None}
    return {"n": len(correct), "accuracy": fmean(correct), "ci95": list(wilson_interval(sum(correct), len(correct)))}


def _below_chance(task: Mapping[str, Any]) -> str:
    """A sentence on the models that a guess would beat: what they gain by naming options at all is no knowledge."""
    below = [side for side in SIDES if task[side]["ci95"][1] < task["chance"]]
    if not below:
        return ""
    told = []
    for side in below:
        answered = task[side]["answered"]
        right = f" and is right in {answered['accuracy']:.0%} of those" if answered["n"] else ""
        told.append(f"the {side} model names an option in {answered['n']} of {task['n']} replies{right}")
    guess = f"a guess would be right more often ({task['chance']:.0%})"
    return f" But {guess} than {' or '.join(f'the {side} model' for side in below)}: {'; '.join(told)}."


def _without(base: list[Prediction], tuned: list[Prediction], seed: int, flagged: Sequence[str]) -> dict[str, Any]:
    """How many questions are flagged, and the figures without them; None where none is left."""
    clean = [pair for pair in zip(base, tuned, strict=True) if pair[0]["id"] not in set(flagged)]
    rest = _accuracies(*map(list, zip(*clean, strict=True)), seed) if clean else None
    return {"n": len(base) - len(clean), "without": rest}
