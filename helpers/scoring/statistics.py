"""The statistics of a paired comparison: intervals and an exact test.

Accuracies and differences are fractions (0.05 = 5 points); all intervals are of 95%.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import NormalDist, fmean
from typing import Any

import numpy as np
from scipy import stats

LOOPS = 0.5  # the repetition rate above which a text is said to go round in circles
NEARLY_ALL = 0.9  # the share of answers from which a model is said to name one letter whatever is asked
LEAST = 5  # rows or questions; with fewer nothing is claimed
TAIL = (1 - 0.95) / 2  # what an interval leaves out at each end
Z = NormalDist().inv_cdf(1 - 0.05 / 2)  # so many standard deviations to each side hold 95%


def share_interval(successes: int, n: int) -> tuple[float, float]:
    """The exact interval of a proportion (Clopper and Pearson, Biometrika 26, 1934), in [0, 1]; n must be at least 1.

    It covers the true share at least as often as stated, whatever n and the share. Wilson's does so only on average:
    with n = 10 to 30 and a share near 0 or 1, as of replies that are never cut off, in 86 of 100 cases.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"need 0 <= successes <= n and n >= 1, got successes={successes}, n={n}")
    low = stats.beta.ppf(TAIL, successes, n - successes + 1) if successes else 0
    high = stats.beta.isf(TAIL, successes + 1, n - successes) if successes < n else 1
    return float(low), float(high)


def share_difference_interval(base_only: int, tuned_only: int, n: int) -> tuple[float, float]:
    """The interval of a difference of two shares of the same n rows, tuned minus base; -1 to 1 under LEAST rows.

    From the discordant rows, those that count for one side alone: Bonett and Price, Journal of Educational and
    Behavioral Statistics 37, 2012, 479-488, Wald's interval with one discordant row added to each side. A bootstrap of
    few rows is far too narrow, and has no width where no row is discordant.
    """
    if n < LEAST:
        return -1.0, 1.0
    up, down = (tuned_only + 1) / (n + 2), (base_only + 1) / (n + 2)
    half = Z * math.sqrt((up + down - (up - down) ** 2) / (n + 2))
    return max(-1.0, up - down - half), min(1.0, up - down + half)


def mean_interval(values: Sequence[float]) -> list[float] | None:
    """Student's t interval [low, high] of the mean of values, in their unit; None under LEAST values.

    A percentile bootstrap of few values is too narrow: of ten it misses the true mean twice as often as it states.
    Raises ValueError where one is not finite, as the loss of a training that has diverged.
    """
    data = np.asarray(values, dtype=float)
    if not np.isfinite(data).all():
        raise ValueError("the mean of values that are not all finite has no interval")
    if data.size < LEAST:
        return None
    half = stats.t.ppf((1 + 0.95) / 2, data.size - 1) * stats.sem(data)
    return [float(data.mean() - half), float(data.mean() + half)]


def detectable_difference(n: int, discordance: float) -> float:
    """The smallest accuracy difference that McNemar's test shows on n paired questions: p < 0.05 in four runs of five.

    Connor (Biometrics 43, 1987, 207-211): n = (z_a sqrt(p) + z_b sqrt(p - d^2))^2 / d^2 for a difference d and a share
    p of discordant pairs; solved for d, that is d = c sqrt(p), c as below. A difference cannot exceed the discordance,
    so p is at least c^2, where every discordant pair favours one side; with hardly any discordance the result is c^2,
    about 7.8 / n. It is at most 1, for an n that is too small. A normal approximation; the exact test needs more.
    """
    z_a, z_b = Z, NormalDist().inv_cdf(0.8)
    if n <= z_a**2 - z_b**2:
        return 1.0
    c = (z_a * n**0.5 + z_b * (n + z_b**2 - z_a**2) ** 0.5) / (n + z_b**2)
    return min(1.0, c * max(discordance**0.5, c))


def compare_paired(base_correct: Sequence[bool], tuned_correct: Sequence[bool], seed: int = 0) -> dict[str, Any]:
    """Base against tuned model on the same n >= 1 questions in the same order, as plain numbers without NaN.

    `both` to `tuned_only` count right answers; `mcnemar_p` is exact, the binomial test of the discordant pairs against
    one half; `delta` is tuned minus base, with `share_difference_interval`; accuracies have `share_interval`. Nothing
    is random: `seed`, which an earlier release's bootstrap used, has no effect.
    """
    base, tuned = np.asarray(base_correct, dtype=bool), np.asarray(tuned_correct, dtype=bool)
    if base.ndim != 1 or base.shape != tuned.shape or base.size == 0:
        raise ValueError(f"need two equally long sequences of at least one answer, got {base.shape} and {tuned.shape}")
    n, base_only, tuned_only = base.size, int((base & ~tuned).sum()), int((tuned & ~base).sum())
    discordant = base_only + tuned_only
    return {
        "n": n,
        "base_accuracy": float(base.mean()),
        "base_ci95": list(share_interval(int(base.sum()), n)),
        "tuned_accuracy": float(tuned.mean()),
        "tuned_ci95": list(share_interval(int(tuned.sum()), n)),
        "both": int((base & tuned).sum()),
        "neither": int((~base & ~tuned).sum()),
        "base_only": base_only,
        "tuned_only": tuned_only,
        "mcnemar_p": float(stats.binomtest(tuned_only, discordant).pvalue) if discordant else 1.0,
        "delta": (tuned_only - base_only) / n,
        "delta_ci95": list(share_difference_interval(base_only, tuned_only, n)),
        "detectable": detectable_difference(n, discordant / n),
    }


def adjust_holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p values of several tests, by name: the family-wise error of all those below 0.05 is at most 5%.

    Holm's step-down (Scandinavian Journal of Statistics 6, 1979, 65-70): the i-th smallest of m times m - i + 1, never
    below the one before it and at most 1. Valid whatever the tests' dependence.
    """
    adjusted, least = dict(p_values), 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.get)):
        least = adjusted[name] = max(least, min(1.0, (len(p_values) - rank) * p_values[name]))
    return adjusted


def favourite(letters: Iterable[str | None]) -> dict[str, Any]:
    """The letter that is named most, None if none is; `times` of it, and all that were `named`."""
    counts = Counter(letter for letter in letters if letter)
    [(letter, times)] = counts.most_common(1) or [(None, 0)]
    return {"letter": letter, "times": times, "named": counts.total()}


def always_the_same(found: Mapping[str, Any]) -> bool:
    """Whether a `favourite` makes up nearly all answers, of LEAST or more."""
    return found["named"] >= LEAST and found["times"] >= NEARLY_ALL * found["named"]


def chance(options_per_question: Iterable[int]) -> float:
    """The expected accuracy of a uniform guess, from each question's number of options."""
    return fmean(1 / count for count in options_per_question)


def paired_difference(base_values: Sequence[float], tuned_values: Sequence[float]) -> dict[str, Any]:
    """Means of a measure over the same rows in the same order, and tuned minus base with its `mean_interval`.

    Rows are the units: a row's two values are paired, and its tokens are not independent of each other.
    """
    base, tuned = np.asarray(base_values, dtype=float), np.asarray(tuned_values, dtype=float)
    if base.shape != tuned.shape:
        raise ValueError(f"need one value of each side a row, got {base.shape} and {tuned.shape}")
    interval = mean_interval(tuned - base)
    return {
        "n": base.size,
        "base": float(base.mean()),
        "tuned": float(tuned.mean()),
        "delta": float((tuned - base).mean()),
        "delta_ci95": interval,
    }


def paired_shares(base_values: Sequence[bool], tuned_values: Sequence[bool]) -> dict[str, Any]:
    """As `paired_difference`, for booleans; `delta` has `share_difference_interval`, or None under LEAST rows."""
    counts = Counter(zip(base_values, tuned_values, strict=True))
    n = counts.total()
    interval = share_difference_interval(counts[True, False], counts[False, True], n)
    return {
        "n": n,
        "base": fmean(base_values),
        "tuned": fmean(tuned_values),
        "delta": (counts[False, True] - counts[True, False]) / n,
        "delta_ci95": list(interval) if n >= LEAST else None,
    }


def points_apart(paired: Mapping[str, Any]) -> str:
    """A difference of shares in percentage points, with its interval."""
    interval = paired["delta_ci95"]
    return _with_interval(paired["delta"] * 100, interval and [end * 100 for end in interval], 1, " points")


def nats_apart(difference: float, interval: Sequence[float] | None, digits: int = 3) -> str:
    """A difference of mean losses in nats a token, with its interval."""
    return _with_interval(difference, interval, digits)


def _with_interval(value: float, interval: Sequence[float] | None, digits: int, unit: str = "") -> str:
    spread = " to ".join(f"{end:+.{digits}f}" for end in interval) if interval else "too few rows for an interval"
    return f"{value:+.{digits}f}{unit} ({spread})"


def is_shown(found: Mapping[str, Any]) -> bool:
    """Whether the 95% interval of a difference, `delta_ci95`, leaves zero out; never where there is no interval."""
    interval = found["delta_ci95"]
    return bool(interval) and not interval[0] <= 0 <= interval[1]


def shown_sign(paired: Mapping[str, Any]) -> int:
    """1 or -1 where interval and test, by Holm's p value where there is one, show a difference, else 0."""
    return (1 if paired["delta"] > 0 else -1) if p_of(paired) < 0.05 and is_shown(paired) else 0


def p_of(paired: Mapping[str, Any]) -> float:
    """McNemar's p value, by Holm where it was adjusted."""
    return paired["mcnemar_p_holm" if "mcnemar_p_holm" in paired else "mcnemar_p"]


def repetition_rate(text: str, n: int = 4) -> float:
    """The share of a text's n-grams of words that repeat an earlier one; 0 for a text of fewer than n words.

    seq-rep-n of Welleck et al. (Neural Text Generation with Unlikelihood Training, ICLR 2020), with words for tokens,
    so that models with different tokenizers compare.
    """
    words = text.split()
    grams = list(zip(*(words[i:] for i in range(n)), strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
