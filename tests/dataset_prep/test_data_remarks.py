"""What notebook 03 says about a run's data."""

from helpers.dataset_prep.remarks import leak_remark, lengths_remark, planted_remark, rules_remark


def report(**reasons):
    """Ten rows that come to three rules, each of which drops for one reason as many as are named."""
    steps, left = [{"rule": "read", "rows_in": 20, "rows_out": 10, "reasons": {"not in a random sample of 10": 10}}], 10
    for rule, reason in (("validate", "empty answer"), ("split", None), ("fit", "longer than 100 tokens")):
        count = reasons.get(rule, 0)
        steps.append(
            {"rule": rule, "rows_in": left, "rows_out": left - count, "reasons": {reason: count} if count else {}}
        )
        left -= count
    splits = {"train": left - 2, "validation": 1, "test": 1}
    return {"steps": steps, "splits": splits, "tokens": {"total": {"max": 80.0}}}


def overlap(questions, flagged, cosine=0.2):
    return {"sample": {"questions": questions, "flagged": [*range(flagged)], "cosine": {"max": cosine}}}


def test_planted_rows_that_went_through_are_named():
    assert planted_remark(["a", "b", "c"], {"b": "why"}) == "Here: 1 of 3 planted rows were caught; a, c went through."
    assert planted_remark(["b"], {"b": "why"}).endswith("none went through.")


def test_rows_that_were_not_drawn_are_not_left_out():
    assert rules_remark(report()).startswith("Here: all 10 rows passed")
    assert "8 rows train, 1 validate and 1 wait" in rules_remark(report())
    said = rules_remark(report(validate=1, fit=2))
    assert "3 of 10 rows were left out, most often (2) for: longer than 100 tokens." in said


def test_lengths_say_whether_the_limit_cost_rows():
    assert "80 tokens, 80% of 100 allowed. No row was too long" in lengths_remark(report(), 100)
    assert "2 rows were too long" in lengths_remark(report(fit=2), 100)


def test_leaks_with_none_few_and_no_questions():
    assert (
        leak_remark(overlap(48, 0)) == "Here: none of 48 questions is flagged. The nearest pair has a cosine of 0.20."
    )
    assert "2 of 48 questions are flagged, with a cosine of up to 0.90" in leak_remark(overlap(48, 2, 0.9))
    assert leak_remark(overlap(4, 0)).endswith("Fewer than five questions say little about leaks.")
    assert leak_remark({}) == "Here: there is no evaluation question to compare with."
