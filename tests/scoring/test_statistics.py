"""Intervals and tests: against other code, and by simulation at the n at which they are used."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import binom, binomtest, norm, ttest_1samp

from helpers.evaluation.metrics import calibration
from helpers.scoring.statistics import (
    adjust_holm,
    always_the_same,
    chance,
    compare_paired,
    detectable_difference,
    favourite,
    mean_interval,
    paired_difference,
    paired_shares,
    share_difference_interval,
    share_interval,
)

SIZES = [5, 10, 30, 200, 1000]  # rows or questions, as the profiles have them; of four nothing is claimed


@pytest.mark.parametrize("n", [4, *SIZES])
def test_a_share_is_held_as_often_as_stated_whatever_it_is(n):
    truths = np.linspace(0.001, 0.999, 499)[:, None]
    low, high = np.array([share_interval(k, n) for k in range(n + 1)]).T
    held = (low <= truths) & (truths <= high)
    coverage = (held * binom.pmf(np.arange(n + 1), n, truths)).sum(axis=1)  # exact, no random numbers
    assert coverage.min() >= 0.95 - 1e-9
    assert n < 200 or coverage.mean() < 0.965  # and hardly wider than it has to be


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("discordant", [0.02, 0.3, 0.6])
@pytest.mark.parametrize("towards_tuned", [0.5, 1.0])
def test_a_difference_of_shares_is_held_as_often_as_stated(n, discordant, towards_tuned):
    """Multinomial counts of discordant rows. Without any, a bootstrap would have no width and never hold the truth."""
    chances = [discordant * (1 - towards_tuned), discordant * towards_tuned]
    drawn = np.random.default_rng(n).multinomial(n, [*chances, 1 - sum(chances)], 4000)[:, :2]
    counts, times = np.unique(drawn, axis=0, return_counts=True)
    low, high = np.array([share_difference_interval(*map(int, pair), n) for pair in counts]).T
    truth = chances[1] - chances[0]
    held = np.average((low <= truth) & (truth <= high), weights=times)
    assert held >= 0.935


@pytest.mark.parametrize("n", [5, 30, 200])
def test_overconfidence_is_held_as_often_as_stated(n):
    """Rows that are right with different probabilities, 0.2 less than the confidence."""
    rng, held = np.random.default_rng(n), []
    for _ in range(150):
        confidence = rng.uniform(0.5, 1, n)
        right = np.where(rng.random(n) < confidence - 0.2, "A", "B")
        rows = [{"letters": {"A": c, "B": 1 - c}, "answer_idx": r} for c, r in zip(confidence, right, strict=True)]
        low, high = calibration(rows)["overconfidence_ci95"]
        held.append(low <= 0.2 <= high)
    assert np.mean(held) >= 0.935


def test_shares_and_means_are_compared_in_pairs():
    shares = paired_shares([True, True, False, False, False], [True, False, True, True, False])
    assert [shares[key] for key in ("n", "base", "tuned", "delta")] == [5, 0.4, 0.6, 0.2]
    assert shares["delta_ci95"] == list(share_difference_interval(1, 2, 5))
    assert shares["delta_ci95"][0] < 0 < shares["delta_ci95"][1]
    assert paired_shares([True] * 4, [False] * 4)["delta_ci95"] is None
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        paired_shares([True], [])


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_shares_refuse_impossible_counts(successes, n):
    with pytest.raises(ValueError, match="successes"):
        share_interval(successes, n)


def test_few_values_have_no_interval_and_equal_ones_no_width():
    for values in ([0.25], [0.1, 0.2, 0.3, 0.4]):
        assert mean_interval(values) is paired_difference([0] * len(values), values)["delta_ci95"] is None
    assert mean_interval([1] * 5) == [1, 1]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_losses_of_a_training_that_diverged_are_refused(value):
    with pytest.raises(ValueError, match="not all finite"):
        mean_interval([1.0, value])


def test_the_interval_of_a_mean_is_students():
    """Against the test that it inverts, at the ends of the interval."""
    values = np.random.default_rng(0).normal(2, 1, 12)
    for end in mean_interval(values):
        assert ttest_1samp(values, end).pvalue == pytest.approx(0.05)


def paired(both, base_only, tuned_only, neither):
    base = [True] * (both + base_only) + [False] * (tuned_only + neither)
    return base, [True] * both + [False] * base_only + [True] * tuned_only + [False] * neither


@pytest.mark.parametrize("counts", [(10, 5, 15, 20), (0, 0, 6, 0), (3, 8, 8, 1)])
def test_compare_agrees_with_scipy(counts):
    both, base_only, tuned_only, neither = counts
    result = compare_paired(*paired(*counts))
    n, discordant = sum(counts), base_only + tuned_only
    assert result["mcnemar_p"] == pytest.approx(min(1, 2 * binom.cdf(min(base_only, tuned_only), discordant, 0.5)))
    assert {key: result[key] for key in ("n", "both", "neither", "base_only", "tuned_only")} == {
        "n": n, "both": both, "neither": neither, "base_only": base_only, "tuned_only": tuned_only
    }  # fmt: skip
    assert result["base_accuracy"] == pytest.approx((both + base_only) / n)
    assert result["tuned_accuracy"] == pytest.approx((both + tuned_only) / n)
    assert result["delta"] == pytest.approx((tuned_only - base_only) / n)
    for side, right in (("base", both + base_only), ("tuned", both + tuned_only)):
        ends = binomtest(right, n).proportion_ci(method="exact")
        assert result[f"{side}_ci95"] == pytest.approx(list(ends))
    assert result["delta_ci95"][0] <= result["delta"] <= result["delta_ci95"][1]


def test_compare_without_discordant_pairs():
    result = compare_paired([True, False, True] * 2, [True, False, True] * 2)
    assert (result["mcnemar_p"], result["delta"], result["delta_ci95"]) == (
        1.0,
        0.0,
        pytest.approx([-0.346, 0.346], abs=5e-4),
    )
    few = compare_paired([True, False, True], [True, False, True])
    assert (few["mcnemar_p"], few["delta"], few["delta_ci95"], few["detectable"]) == (1.0, 0.0, [-1.0, 1.0], 1.0)


@pytest.mark.parametrize(("base", "tuned"), [([], []), ([True], []), ([True], [True, False]), ([[True]], [[True]])])
def test_compare_refuses_unequal_or_empty_sequences(base, tuned):
    with pytest.raises(ValueError, match="equally long sequences of at least one"):
        compare_paired(base, tuned, 0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60), st.integers(0, 2**32))
def test_compare_is_symmetric_and_plain(pairs, seed):
    base, tuned = zip(*pairs, strict=True)
    there, back = compare_paired(base, tuned, seed), compare_paired(tuned, base, seed)
    assert there["delta"] == -back["delta"]
    assert there["mcnemar_p"] == back["mcnemar_p"]
    assert there["detectable"] == back["detectable"]
    assert there["delta_ci95"] == pytest.approx([-end for end in reversed(back["delta_ci95"])], abs=1e-12)
    assert (there["base_only"], there["base_ci95"]) == (back["tuned_only"], back["tuned_ci95"])
    assert json.loads(json.dumps(there, allow_nan=False)) == there
    assert 0 <= there["mcnemar_p"] <= 1
    assert 0 < there["detectable"] <= 1


@pytest.mark.parametrize(("n", "discordance"), [(200, 0.2), (600, 0.3), (1273, 0.25), (4183, 0.1)])
def test_the_detectable_difference_solves_connors_equation(n, discordance):
    def missing(difference):
        root = math.sqrt(discordance - difference**2)
        return (norm.ppf(0.975) * math.sqrt(discordance) + norm.ppf(0.8) * root) ** 2 / difference**2 - n

    assert detectable_difference(n, discordance) == pytest.approx(brentq(missing, 1e-4, discordance), rel=1e-6)


def test_the_detectable_difference_has_a_floor_that_shrinks_with_n():
    assert detectable_difference(1000, 0.0) == detectable_difference(1000, 0.001) == pytest.approx(7.8 / 1000, rel=0.02)
    assert detectable_difference(1000, 0.2) > detectable_difference(1000, 0.1) > detectable_difference(4000, 0.1)
    assert [detectable_difference(n, 0.5) for n in (1, 2, 3)] == [1.0, 1.0, 1.0]


def test_holm_by_hand():
    """Sorted 0.01, 0.02, 0.03, 0.6 times 4, 3, 2, 1: the third, 0.06, is no smaller than the second."""
    adjusted = adjust_holm({"medqa": 0.03, "pubmedqa": 0.01, "medmcqa": 0.6, "sample": 0.02})
    assert list(adjusted) == ["medqa", "pubmedqa", "medmcqa", "sample"]
    assert adjusted == pytest.approx({"medqa": 0.06, "pubmedqa": 0.04, "medmcqa": 0.6, "sample": 0.06})
    # 0.04 * 2 = 0.08 holds up the larger one, and 0.7 * 2 is cut.
    assert adjust_holm({"a": 0.05, "b": 0.04}) == pytest.approx({"a": 0.08, "b": 0.08})
    assert adjust_holm({"a": 0.9, "b": 0.7}) == {"a": 1.0, "b": 1.0}
    assert adjust_holm({"only": 0.049}) == {"only": 0.049}
    assert adjust_holm({}) == {}
    assert type(adjusted["medqa"]) is float


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_lies_between_the_raw_value_and_bonferronis(values):
    adjusted = adjust_holm(dict(enumerate(values)))
    assert all(p <= adjusted[i] <= min(1, len(values) * p) + 1e-12 for i, p in enumerate(values))
    assert [adjusted[i] for i in np.argsort(values, kind="stable")] == sorted(adjusted.values())


def test_a_favourite_is_the_letter_named_most():
    assert favourite([None, "B", "A", "B", None]) == {"letter": "B", "times": 2, "named": 3}
    assert favourite([None]) == {"letter": None, "times": 0, "named": 0}
    assert always_the_same(favourite("A" * 9 + "B"))
    assert not always_the_same(favourite("A" * 8 + "BB"))
    assert not always_the_same(favourite("A" * 4))  # too few


def test_baselines():
    assert chance([4, 4]) == 0.25
    assert chance([2, 4]) == pytest.approx(0.375)


def test_a_paired_difference_is_tuned_minus_base():
    found = paired_difference([1, 2, 3, 6, 3], [1, 1, 2, 2, 4])
    assert found.pop("delta_ci95") == pytest.approx(list(mean_interval([0, -1, -1, -4, 1])))
    assert found == {"n": 5, "base": 3.0, "tuned": 2.0, "delta": -1.0}
    shifted = paired_difference([0.1, 5.0, 9.0, 2.0, 3.0], [0.2, 5.1, 9.1, 2.1, 3.1])
    assert shifted["delta_ci95"] == pytest.approx([0.1, 0.1])  # pairs: the rows' own spread does not count
    assert paired_difference([False, True], [True, True])["delta"] == 0.5


@pytest.mark.parametrize(("base", "tuned"), [([1, 2], [1]), ([1], [1, 2])])
def test_a_paired_difference_needs_the_same_rows_on_both_sides(base, tuned):
    with pytest.raises(ValueError, match="one value of each side"):
        paired_difference(base, tuned)
