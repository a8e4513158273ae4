"""Measures beside accuracy, by hand and by simulation."""

import numpy as np
import pytest
from evaluated_rows import believed, lettered
from scipy.stats import norm

from helpers.evaluation.calibration import calibration
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
