"""More than accuracy: repetition, accuracy by length of the thought and by budget, calibration of the answer's letter.

Rows are predictions as `helpers.evaluation.predict` makes them, a choice question's maybe with `letters`, its options'
probabilities. Shares, accuracies and probabilities are fractions; results are plain numbers, None where undefined.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

import numpy as np

from helpers.statistics import share_interval

ROWS_A_BIN = 10  # at least: the 95% interval of even ten spans up to two thirds of all accuracies


RESAMPLES = 5000

Row = Mapping[str, Any]


def repetition_rate(text: str, n: int = 4) -> float:
    """The share of a text's n-grams of words that stood there before; 0 for a text of fewer than n words.

    seq-rep-n of Welleck et al. (Neural Text Generation with Unlikelihood Training, ICLR 2020), with words for tokens,
    so that two tokenizers' models compare.
    """
    words = text.split()
    grams = list(zip(*(words[i:] for i in range(n)), strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def accuracy_by_length(rows: Sequence[Row], bins: int = 4) -> dict[str, Any]:
    """Accuracy of choice questions by the tokens of their thoughts, in bins of like many rows, shortest first.

    A reply that was cut off is left out, and counted as `truncated`: of its length only a lower bound is known (it is
    censored) and it counts as wrong by rule, so that it would make long thoughts wrong by construction. What is left
    says nothing of thoughts near the limit, and is no effect: a harder question gets a longer thought and a wrong
    answer. Replies that never closed their thought but ended are in.
    """
    whole = [row for row in rows if row["finished"]]
    tokens = np.array([row["thinking_tokens"] for row in whole], dtype=float)
    correct = np.array([row["correct"] for row in whole], dtype=float)
    found: dict[str, Any] = {"n": len(whole), "truncated": len(rows) - len(whole), "bins": []}
    if not whole:
        return found
    number = _bin_numbers(tokens, bins)
    for each in np.unique(number):
        inside = number == each
        found["bins"].append(
            {
                "tokens": [int(tokens[inside].min()), int(tokens[inside].max())],
                "median_tokens": float(median(tokens[inside])),
                **_share(correct[inside]),
            }
        )
    return found


def accuracy_by_budget(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Accuracy of one side's choice questions by the tokens that it may think, shortest budget first.

    From the replies that are there, in two readings. `replied`: the share whose reply ends within so many tokens and
    is right. `accuracy` and `ci95`: made to answer after so many tokens of its thought, or after all of a shorter one
    (budget forcing: Muennighoff et al., s1: Simple test-time scaling, 2025). Rows without forced letters are left out.
    """
    known = [row for row in rows if row.get("forced")]
    points = []
    for budget in sorted({int(tokens) for row in known for tokens in row["forced"]}):
        inside = [row for row in known if str(budget) in row["forced"]]
        forced = np.array([row["forced"][str(budget)] == row["answer_idx"] for row in inside])
        replied = fmean(row["correct"] and row["tokens"] <= budget for row in inside)
        points.append({"tokens": budget, "replied": replied, **_share(forced)})
    return points


def likeliest(letters: Mapping[str, float]) -> str:
    """The letter with the largest probability, the first of several."""
    return max(letters, key=letters.get)


def calibration(rows: Sequence[Row], seed: int, bins: int = 10) -> dict[str, Any] | None:
    """How far the letters' probabilities can be believed; None where no row has any. Rows without are `left_out`.

    `ece` is the expected calibration error (Guo et al., On Calibration of Modern Neural Networks, ICML 2017): the mean
    over rows of how far a bin's accuracy is from its mean confidence, which is the largest letter's probability. Bins
    hold like many rows, not like widths of confidence: of a few hundred rows those would have bins of one or two,
    whose accuracy is 0 or 1. `brier` is Brier's score (1950) over all letters, 0 to 2.

    ECE sums absolute values, so noise adds to it and n rows of a model that is perfectly calibrated have one above 0:
    `ece_if_calibrated` is that model's mean, and 95% of its draws lie below `ece_if_calibrated_p95`, by simulation
    with these confidences. It has no interval: a bootstrap adds the noise once more. `overconfidence`, the mean
    confidence minus the accuracy, has one, from `share_interval`, which is never too narrow for rows that are right
    with different probabilities (Hoeffding, Annals of Mathematical Statistics 27, 1956: their number spreads less).
    """
    known = [row for row in rows if row.get("letters")]
    if not known:
        return None
    confidence = np.array([max(row["letters"].values()) for row in known])
    hit = np.array([likeliest(row["letters"]) == row["answer_idx"] for row in known], dtype=float)
    low, high = share_interval(int(hit.sum()), len(known))
    draws = np.random.default_rng(seed).random((RESAMPLES, len(known))) < confidence
    if_calibrated = _ece(np.broadcast_to(confidence, draws.shape), draws, bins)
    number = _bin_numbers(confidence, bins)
    return {
        "n": len(known),
        "left_out": len(rows) - len(known),
        "accuracy": float(hit.mean()),
        "confidence": float(confidence.mean()),
        "overconfidence": float(confidence.mean() - hit.mean()),
        "overconfidence_ci95": [float(confidence.mean()) - high, float(confidence.mean()) - low],
        "ece": float(_ece(confidence, hit, bins)),
        "ece_if_calibrated": float(if_calibrated.mean()),
        "ece_if_calibrated_p95": float(np.percentile(if_calibrated, 95)),
        "brier": fmean(_brier(row["letters"], row["answer_idx"]) for row in known),
        "bins": [
            {"confidence": float(confidence[number == each].mean()), **_share(hit[number == each])}
            for each in np.unique(number)
        ],
    }


def _bin_numbers(values: np.ndarray, bins: int) -> np.ndarray:
    """Of values (..., n) the number of each one's bin, between quantiles along the last axis, same shape.

    Equal values share a bin, so that some may be empty; there are fewer bins where these would hold under ten rows.
    """
    count = max(1, min(bins, values.shape[-1] // ROWS_A_BIN))
    edges = np.quantile(values, np.arange(1, count) / count, axis=-1)
    return sum((values > edge[..., None] for edge in edges), np.zeros(values.shape, dtype=int))


def _share(right: np.ndarray) -> dict[str, Any]:
    n, k = right.size, int(right.sum())
    return {"n": n, "accuracy": k / n, "ci95": list(share_interval(k, n))}


def _ece(confidence: np.ndarray, hit: np.ndarray, bins: int) -> np.ndarray:
    """Of confidences and hits, both (..., n), the expected calibration error, (...)."""
    number, gap = _bin_numbers(confidence, bins), confidence - hit
    return sum(abs(np.where(number == each, gap, 0).sum(-1)) for each in range(bins)) / confidence.shape[-1]


def _brier(letters: Mapping[str, float], right: str) -> float:
    return sum((p - (letter == right)) ** 2 for letter, p in letters.items())
