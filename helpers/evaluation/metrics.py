"""evaluation/metrics.json from the two sides' predictions: what differs, and how sure that is.

Shares, accuracies and probabilities are fractions; results are plain numbers, None where undefined.
"""

from collections.abc import Collection, Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from helpers.questions.multiple_choice import OPEN_TASK
from helpers.scoring.answers import SIDES, Prediction, likeliest, made_to_answer
from helpers.scoring.statistics import (
    adjust_holm,
    chance,
    compare_paired,
    favourite,
    paired_difference,
    paired_shares,
    repetition_rate,
    share_interval,
)

PARTS = ("thinking", "answer", "text", "delimiter")
PAIRED = ("delta", "delta_ci95", "base_only", "tuned_only", "mcnemar_p", "detectable")
ROWS_A_BIN = 10  # at least: even ten rows have a 95% interval of up to two thirds of all accuracies


def summarise(
    base: list[Prediction], tuned: list[Prediction], flagged: Mapping[str, Sequence[str]] | None = None
) -> dict[str, Any]:
    """evaluation/metrics.json from the two sides' predictions, which are in the same order.

    `flagged`: ids of the questions that resemble training rows, by task; a task that 03 did not compare is missing.
    """
    sides = (base, tuned)
    return {
        "validation": _unseen(*(_of(rows, OPEN_TASK) for rows in sides)),
        "tasks": compare_tasks(*([row for row in rows if row["task"] != OPEN_TASK] for rows in sides), flagged),
    }


def compare_tasks(
    base: list[Prediction], tuned: list[Prediction], flagged: Mapping[str, Sequence[str]] | None = None
) -> dict[str, Any]:
    """Each task's figures, as replied and with forced answers.

    p values are adjusted for the number of all these tests together.
    """
    tasks: dict[str, Any] = {}
    tests: dict[tuple[str, str], dict[str, Any]] = {}  # (task, reading): the figures
    for name in dict.fromkeys(row["task"] for row in base):
        sides = _of(base, name), _of(tuned, name)
        tasks[name] = _accuracies(*sides)
        tasks[name]["flagged"] = _without(*sides, flagged[name]) if name in (flagged or {}) else None
        forced = made_to_answer(*sides)
        tasks[name]["made_to_answer"] = _compared(*forced) if forced else None
        tasks[name]["calibration"] = {side: calibration(rows) for side, rows in zip(SIDES, sides, strict=True)}
        readings = {"replied": tasks[name], "made_to_answer": tasks[name]["made_to_answer"]}
        tests |= {(name, reading): found for reading, found in readings.items() if found}
    adjusted = adjust_holm({key: found["paired"]["mcnemar_p"] for key, found in tests.items()})
    for key, found in tests.items():
        found["paired"]["mcnemar_p_holm"] = adjusted[key]
    return tasks


def side_by_side(base: list[Prediction], tuned: list[Prediction]) -> list[Prediction]:
    """Pairs of replies to the same question, those that got worse first, then those that got better.

    A reply to a multiple-choice question is judged by whether it is right, to an open one by whether it closes its
    thought. A row's NLL measures what text a model expects, not what it writes.
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


def _of(rows: list[Prediction], task: str) -> list[Prediction]:
    return [row for row in rows if row["task"] == task]


def _unseen(base: list[Prediction], tuned: list[Prediction]) -> dict[str, Any]:
    def values(key: str) -> list[list[Any]]:
        return [[row[key] for row in rows] for rows in (base, tuned)]

    nll, tokens = (paired_difference(*values(key)) for key in ("nll", "thinking_tokens"))
    known = [part for part in PARTS if f"nll_{part}" in base[0]]  # an older release wrote fewer
    parts = {part: paired_difference(*values(f"nll_{part}")) for part in known}
    form = {key: paired_shares(*values(key)) for key in ("closed", "finished")}
    repetition = ([repetition_rate(reply) for reply in replies] for replies in values("reply"))
    measures = {"nll": nll, **form, "thinking_tokens": tokens}
    return {
        "n": len(base),
        **{side: {key: measure[side] for key, measure in measures.items()} for side in SIDES},
        "paired": {f"nll_{key}": nll[key] for key in ("delta", "delta_ci95")},
        "parts": parts,
        "form": {**form, "thinking_tokens": tokens},
        "repetition": paired_difference(*repetition),
    }


def _compared(base: Sequence[bool], tuned: Sequence[bool]) -> dict[str, Any]:
    found = compare_paired(base, tuned)
    return {
        "n": found["n"],
        **{side: {"accuracy": found[f"{side}_accuracy"], "ci95": found[f"{side}_ci95"]} for side in SIDES},
        "paired": {key: found[key] for key in PAIRED},
    }


def _accuracies(base: list[Prediction], tuned: list[Prediction]) -> dict[str, Any]:
    figures = _compared(*([row["correct"] for row in rows] for rows in (base, tuned)))
    answers = favourite(row["answer_idx"] for row in base)
    for side, rows in zip(SIDES, (base, tuned), strict=True):
        figures[side] |= {
            "abstained": fmean(row["choice"] is None and row["finished"] for row in rows),
            "truncated": fmean(not row["finished"] for row in rows),
            "answered": accuracy_of([row["correct"] for row in rows if row["choice"] is not None]),
            "favourite": favourite(row["choice"] for row in rows),
            "favourite_forced": favourite(likeliest(row["letters"]) for row in rows if row.get("letters")),
        }
    return {
        "n": figures.pop("n"),
        "majority_baseline": answers["times"] / answers["named"],
        "majority_letter": answers["letter"],
        "chance": chance([len(row["options"]) for row in base]),
        **figures,
    }


def _without(base: list[Prediction], tuned: list[Prediction], flagged: Sequence[str]) -> dict[str, Any]:
    """The number of flagged questions, and the figures without them; None where none is left."""
    sides = [[row for row in rows if row["id"] not in flagged] for rows in (base, tuned)]
    return {"n": len(base) - len(sides[0]), "without": _accuracies(*sides) if sides[0] else None}


def calibration(rows: Sequence[Prediction], bins: int = 10) -> dict[str, Any] | None:
    """Calibration of the letters' probabilities; None where no row has any. Rows without are counted as `left_out`.

    `ece` is the expected calibration error (Guo et al., On Calibration of Modern Neural Networks, ICML 2017), here over
    quantile bins: the mean over rows of the distance between a bin's accuracy and its mean confidence, the largest
    letter's probability. Noise adds to it, so that a perfectly calibrated model has one above 0; it has no interval,
    since a bootstrap would add the noise once more. `overconfidence`, the mean confidence minus the accuracy, has one,
    from `share_interval`, which is never too narrow for rows that are right with different probabilities (Hoeffding,
    Annals of Mathematical Statistics 27, 1956).
    """
    known = [row for row in rows if row.get("letters")]
    if not known:
        return None
    confidence = np.array([max(row["letters"].values()) for row in known])
    hit = np.array([likeliest(row["letters"]) == row["answer_idx"] for row in known], dtype=float)
    low, high = share_interval(int(hit.sum()), len(known))
    groups = _bins(confidence, bins)
    return {
        "n": len(known),
        "left_out": len(rows) - len(known),
        "accuracy": float(hit.mean()),
        "confidence": float(confidence.mean()),
        "overconfidence": float(confidence.mean() - hit.mean()),
        "overconfidence_ci95": [float(confidence.mean()) - high, float(confidence.mean()) - low],
        "ece": float(sum(abs((confidence - hit)[here].sum()) for here in groups)) / len(known),
        "bins": [{"confidence": float(confidence[here].mean()), **accuracy_of(hit[here])} for here in groups],
    }


def _bins(values: np.ndarray, bins: int) -> list[np.ndarray]:
    """Masks of the quantile bins of values (n,), lowest first; fewer where one would hold under ROWS_A_BIN.

    Equal values share a bin. None is empty.
    """
    count = max(1, min(bins, values.size // ROWS_A_BIN))
    number = np.searchsorted(np.quantile(values, np.arange(1, count) / count), values)
    return [number == each for each in np.unique(number)]


def accuracy_of(right: Collection[bool]) -> dict[str, Any]:
    """`n`, and the share that is right with its interval, None of nothing."""
    n, k = len(right), int(sum(right))
    return {"n": n, "accuracy": k / n if n else None, "ci95": list(share_interval(k, n)) if n else None}
