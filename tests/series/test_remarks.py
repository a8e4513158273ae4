"""The sentences under 00's results."""

from helpers.series.remarks import form_remarks
from helpers.statistics import paired_shares


def metrics(base, tuned):
    return {"validation": {"form": {"closed": paired_shares(base, tuned)}}}


def test_without_results_one_sentence_says_so():
    assert form_remarks(None) == ["This run has no evaluation yet: run 05, then this notebook's last cells."]
    assert form_remarks({"validation": {}}) == []


def test_a_change_is_called_one_only_where_its_interval_leaves_out_zero():
    (clear,) = form_remarks(metrics([False] * 26, [True] * 26))
    assert "in 0% of 26 replies, the tuned one in 100%: a change, +100.0 points" in clear
    (unclear,) = form_remarks(metrics([False] * 9 + [True], [False] * 8 + [True] * 2))
    assert "this run cannot tell them apart" in unclear


def test_too_few_rows_are_not_compared():
    (few,) = form_remarks(metrics([False] * 2, [True] * 2))
    assert few.endswith("too few to compare.")
