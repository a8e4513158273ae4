"""Calibration of the letters that the models are made to answer.

Rows are predictions as `evaluation.evaluate.predict` makes them, a choice question's maybe with `letters`, its options'
probabilities. Shares, accuracies and probabilities are fractions; results are plain numbers, None where undefined.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from helpers.scoring.answers import Prediction, likeliest
from helpers.scoring.statistics import share_interval

ROWS_A_BIN = 10  # at least: even ten rows have a 95% interval of up to two thirds of all accuracies


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
