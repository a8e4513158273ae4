"""Measures beside accuracy, by hand and by simulation."""

import numpy as np
import pytest
from evaluated_rows import believed

from helpers.evaluation.metrics import calibration
from helpers.scoring.statistics import repetition_rate, share_interval


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


# ------------------------------------------------------------------------------------------------------- calibration


def test_calibration_by_hand():
    """Twenty rows at 0.6 of which 9 are right, twenty at 0.9 of which 18 are: gaps 0.15 and 0."""
    rows = believed([0.6] * 20 + [0.9] * 20, [True] * 9 + [False] * 11 + [True] * 18 + [False] * 2)
    found = calibration([*rows, {"letters": None, "answer_idx": "A"}, {"answer_idx": "A"}])
    assert (found["n"], found["left_out"]) == (40, 2)
    assert found["ece"] == pytest.approx(0.075)
    assert found["accuracy"] == pytest.approx(27 / 40)
    assert found["confidence"] == pytest.approx(0.75)
    assert [each["confidence"] for each in found["bins"]] == pytest.approx([0.6, 0.9])
    assert [(each["n"], each["accuracy"]) for each in found["bins"]] == [(20, 0.45), (20, 0.9)]
    assert found["bins"][1]["ci95"] == list(share_interval(18, 20))
    assert found["overconfidence"] == pytest.approx(0.75 - 27 / 40)
    low, high = share_interval(27, 40)
    assert found["overconfidence_ci95"] == pytest.approx([0.75 - high, 0.75 - low])


def test_gaps_on_both_sides_of_the_diagonal_do_not_cancel():
    right = [True] * 15 + [False] * 5  # 15 points under- and overconfident
    found = calibration(believed([0.6] * 20 + [0.9] * 20, right * 2))
    assert (found["ece"], found["overconfidence"]) == pytest.approx((0.15, 0), abs=1e-9)


def test_without_letters_there_is_no_calibration():
    assert calibration([]) is None
    assert calibration([{"answer_idx": "A"}, {"answer_idx": "B", "letters": None}]) is None


def test_bins_hold_like_many_rows_and_equal_confidences_share_one():
    confidence = np.linspace(0.5, 1, 200)
    assert [each["n"] for each in calibration(believed(confidence, confidence > 0.7))["bins"]] == [20] * 10
    sure = [1.0] * 150 + list(np.linspace(0.5, 0.9, 50))
    bins = calibration(believed(sure, [True] * 200))["bins"]
    assert [each["n"] for each in bins] == [20, 20, 160]
    order = np.random.default_rng(0).permutation(200)
    hits = np.arange(200) % 3 > 0
    one = calibration(believed(sure, hits))["ece"]
    assert calibration(believed(np.array(sure)[order], hits[order]))["ece"] == pytest.approx(one)
