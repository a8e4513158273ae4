"""Measures beside accuracy, by hand and by simulation."""

import numpy as np
import pytest
from evaluated_rows import answered, believed, lettered
from scipy.stats import norm

from helpers.evaluation.calibration import accuracy_by_budget, accuracy_by_length, calibration
from helpers.statistics import repetition_rate, share_interval


@pytest.mark.parametrize(
    ("text", "n", "rate"),
    [
        ("one two three", 4, 0),
        ("a a a a", 1, 0.75),
        ("a b c a b c a b c", 4, 0.5),  # abca bcab cabc abca bcab cabc
        ("the  patient\nhas the patient has", 3, 0.25),  # white space of any kind; "The" would be another word
        ("The patient has the patient has", 3, 0),
    ],
)
def test_repetition_by_hand(text, n, rate):
    assert repetition_rate(text, n) == pytest.approx(rate)


# --------------------------------------------------------------------------------------------------------- by length


def test_accuracy_by_length_by_hand():
    rows = [answered(t, correct=t < 30 or t == 39) for t in range(40)]
    found = accuracy_by_length(rows[::-1])
    assert [found[key] for key in ("n", "truncated")] == [40, 0]
    assert [each["tokens"] for each in found["bins"]] == [[0, 9], [10, 19], [20, 29], [30, 39]]
    assert [each["median_tokens"] for each in found["bins"]] == [4.5, 14.5, 24.5, 34.5]
    assert [each["n"] for each in found["bins"]] == [10] * 4
    assert [each["accuracy"] for each in found["bins"]] == [1, 1, 1, 0.1]
    assert found["bins"][3]["ci95"] == list(share_interval(1, 10))


def test_a_cut_reply_is_counted_and_does_not_make_long_thoughts_wrong():
    rows = [answered(t, correct=t % 2 == 0) for t in range(40)]
    cut = [answered(500, correct=False, finished=False)] * 15
    assert accuracy_by_length(rows + cut) == accuracy_by_length(rows) | {"truncated": 15}
    assert accuracy_by_length(cut) == {"n": 0, "truncated": 15, "bins": []}


def test_equal_lengths_share_a_bin_and_few_rows_have_few_bins():
    tied = [answered(7, True)] * 30 + [answered(50 + t, False) for t in range(10)]
    bins = accuracy_by_length(tied)["bins"]
    assert [(each["tokens"], each["n"]) for each in bins] == [([7, 7], 30), ([50, 59], 10)]
    for n, count in ((1, 1), (19, 1), (20, 2), (400, 4)):
        bins = accuracy_by_length([answered(t, t % 3 == 0) for t in range(n)])["bins"]
        assert (len(bins), sum(each["n"] for each in bins)) == (count, n)


# --------------------------------------------------------------------------------------------------------- by budget


def forced(right, letters, tokens=99, correct=False):
    return {"answer_idx": right, "forced": letters, "tokens": tokens, "correct": correct}


def test_accuracy_by_budget_by_hand():
    rows = [
        forced("A", {"0": "B", "50": "A", "200": "A"}, tokens=40, correct=True),
        forced("B", {"0": "B", "50": "C", "200": "B"}, tokens=120, correct=True),
        forced("C", {"0": "B", "50": "C", "200": "C"}),
        forced("D", {"0": "B", "50": "C", "200": "A"}, tokens=30),
        {"answer_idx": "A", "forced": None, "tokens": 1, "correct": True},
        {"answer_idx": "A", "tokens": 1, "correct": True},  # of an older release
    ]
    points = accuracy_by_budget(rows)
    assert [point["tokens"] for point in points] == [0, 50, 200]
    assert [point["accuracy"] for point in points] == [0.25, 0.5, 0.75]
    assert [point["replied"] for point in points] == [0, 0.25, 0.5]
    assert [point["n"] for point in points] == [4, 4, 4]
    assert points[0]["favourite"] == {"letter": "B", "times": 4, "named": 4}
    assert points[2]["ci95"] == list(share_interval(3, 4))
    assert [points[2]["paired"][key] for key in ("n", "base_only", "tuned_only", "both")] == [4, 0, 2, 1]
    assert accuracy_by_budget(rows[4:]) == accuracy_by_budget([]) == []


# ------------------------------------------------------------------------------------------------------- calibration


def test_calibration_by_hand():
    """Twenty rows at 0.6 of which 9 are right, twenty at 0.9 of which 18 are: gaps 0.15 and 0."""
    rows = believed([0.6] * 20 + [0.9] * 20, [True] * 9 + [False] * 11 + [True] * 18 + [False] * 2)
    found = calibration([*rows, {"letters": None, "answer_idx": "A"}, {"answer_idx": "A"}], seed=0)
    assert (found["n"], found["left_out"]) == (40, 2)
    assert found["ece"] == pytest.approx(0.075)
    assert found["accuracy"] == pytest.approx(27 / 40)
    assert found["confidence"] == pytest.approx(0.75)
    assert [each["confidence"] for each in found["bins"]] == pytest.approx([0.6, 0.9])
    assert [(each["n"], each["accuracy"]) for each in found["bins"]] == [(20, 0.45), (20, 0.9)]
    assert found["bins"][1]["ci95"] == list(share_interval(18, 20))
    # With two letters a row's Brier score is twice the square of one letter's distance.
    assert found["brier"] == pytest.approx(2 * (9 * 0.16 + 11 * 0.36 + 18 * 0.01 + 2 * 0.81) / 40)
    assert found["overconfidence"] == pytest.approx(0.75 - 27 / 40)
    low, high = share_interval(27, 40)
    assert found["overconfidence_ci95"] == pytest.approx([0.75 - high, 0.75 - low])


def test_the_brier_score_is_over_all_letters():
    rows = [lettered(0.5, 0.3, 0.2, right="B"), lettered(0.1, 0.1, 0.1, 0.7, right="D")]
    assert calibration(rows, seed=0)["brier"] == pytest.approx(((0.25 + 0.49 + 0.04) + (0.03 + 0.09)) / 2)
    assert calibration([lettered(1, 0, right="B")], seed=0)["brier"] == 2


def test_without_letters_there_is_no_calibration():
    assert calibration([], seed=0) is None
    assert calibration([{"answer_idx": "A"}, {"answer_idx": "B", "letters": None}], seed=0) is None


def test_bins_hold_like_many_rows_and_equal_confidences_share_one():
    confidence = np.linspace(0.5, 1, 200)
    assert [each["n"] for each in calibration(believed(confidence, confidence > 0.7), seed=0)["bins"]] == [20] * 10
    sure = [1.0] * 150 + list(np.linspace(0.5, 0.9, 50))
    bins = calibration(believed(sure, [True] * 200), seed=0)["bins"]
    assert [each["n"] for each in bins] == [20, 20, 160]
    order = np.random.default_rng(0).permutation(200)
    hits = np.arange(200) % 3 > 0
    one = calibration(believed(sure, hits), seed=0)["ece"]
    assert calibration(believed(np.array(sure)[order], hits[order]), seed=0)["ece"] == pytest.approx(one)


def test_what_a_calibrated_model_shows_is_what_noise_makes_of_it():
    """One bin: the error is the distance of a binomial share from its probability, the mean of a folded normal."""
    found = calibration(believed([0.8] * 400, [True] * 320 + [False] * 80), seed=0)
    deviation = (0.8 * 0.2 / 400) ** 0.5
    assert found["ece"] == pytest.approx(0, abs=1e-9)
    assert found["ece_if_calibrated"] == pytest.approx(deviation * (2 / np.pi) ** 0.5, rel=0.05)
    assert found["ece_if_calibrated_p95"] == pytest.approx(deviation * norm.isf(0.025), rel=0.05)
