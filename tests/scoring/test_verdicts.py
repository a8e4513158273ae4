"""Verdicts: what a sentence claims, by simulation and at the edges."""

import re
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.scoring.statistics import compare_paired, mean_interval
from helpers.scoring.verdicts import verdict

CLAIMS = re.compile(r"better|worse|improv|gain|beat|outperform|higher|lower", re.IGNORECASE)


@pytest.mark.parametrize("n", [5, 30])
@pytest.mark.parametrize("draw", ["standard_normal", "laplace"])
def test_a_difference_of_means_is_claimed_as_often_as_stated_where_there_is_none(draw, n):
    random = np.random.default_rng(n)
    samples = getattr(random, draw)(size=(500, n))
    sentences = [verdict(fmean(each), mean_interval(each), n, "NLL", loss=True) for each in samples]
    assert fmean(bool(CLAIMS.search(sentence)) for sentence in sentences) <= 0.07


@pytest.mark.parametrize("n", [1, 4])
def test_of_few_rows_nothing_is_claimed(n):
    sentence = verdict(2, None, n, "NLL", loss=True)
    assert sentence == f"Too few rows were measured (n = {n}) to say anything about NLL: tuned minus base is +2.000."
    found = compare_paired([False] * n, [True] * n, 0)
    assert (found["delta"], found["delta_ci95"]) == (1.0, [-1.0, 1.0])
    sentence = verdict(1.0, found["delta_ci95"], n, detectable=found["detectable"], p_value=found["mcnemar_p"])
    assert sentence == (
        f"Too few rows were measured (n = {n}) to say anything about accuracy: tuned minus base is +100.0 points."
    )


@pytest.mark.parametrize(
    ("delta", "interval", "loss", "word"),
    [
        (0.05, (0.01, 0.09), False, "better"),
        (-0.05, (-0.09, -0.01), False, "worse"),
        (-0.3, (-0.4, -0.2), True, "better"),
        (0.3, (0.2, 0.4), True, "worse"),
    ],
)
def test_the_verdict_claims_what_the_interval_shows(delta, interval, loss, word):
    sentence = verdict(delta, interval, 9, "score", loss=loss)
    assert CLAIMS.findall(sentence) == [word]
    assert "missed" not in sentence
    assert CLAIMS.search(verdict(delta, interval, 9, p_value=0.049, loss=loss))
    assert not CLAIMS.search(verdict(delta, interval, 9, p_value=0.05, loss=loss))


def test_the_verdict_gives_the_figures():
    assert "+5.0 points (95% interval +1.0 to +9.0)" in verdict(0.05, (0.01, 0.09), 9)
    assert verdict(0.01, (-0.03, 0.05), 9, detectable=0.071) == (
        "No difference is shown in accuracy: tuned minus base is +1.0 points (95% interval -3.0 to +5.0). With 9 "
        "questions, only a difference of about 7 points or more had four chances in five of being shown."
    )
    assert verdict(0.05, (-0.1, 0.02), 9, "NLL", loss=True).endswith(" -0.100 to +0.020).")


def test_the_verdict_says_so_where_interval_and_test_disagree():
    said = verdict(-0.125, (-0.239, -0.001), 48, detectable=0.235, p_value=0.0703)
    assert said.startswith("No difference is shown in accuracy: tuned minus base is -12.5 points")
    assert said.endswith(
        "The interval leaves zero out, but the exact test gives p = 0.07 after Holm, so this is at the edge of what 48 "
        "questions show."
    )


@given(st.floats(-1, 0), st.floats(0, 1), st.floats(0, 1), st.sampled_from([None, 0.05]), st.booleans())
def test_the_verdict_never_claims_when_the_interval_holds_zero(low, high, where, detectable, loss):
    sentence = verdict(low + where * (high - low), (low, high), 9, "score", detectable, loss=loss)
    assert not CLAIMS.search(sentence)
    assert sentence.startswith("No difference is shown in score: ")
    assert ("chances in five" in sentence) == (detectable is not None)
