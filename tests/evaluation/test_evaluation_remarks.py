"""05's remarks: what they say of figures worked out by hand, and that too few rows crash nothing."""

import copy

import pytest
from evaluated_rows import BASE, LETTERS, TUNED, choice, unseen

from helpers.evaluation import remarks
from helpers.evaluation.metrics import side_by_side, summarise
from helpers.scoring.verdicts import on_task

ON_TASK = [remarks.on_accuracy, remarks.on_forced, remarks.on_calibration]


def questions(base, tuned, n=20):
    """Metrics of n questions whose answer is A; `base` and `tuned` are what each names, question by question."""
    sides = [
        [unseen(i, 2.0 + i / 9, True, True, 9) for i in range(6)]
        + [choice("t", i, "A", (named * n)[i]) for i in range(n)]
        for named in (base, tuned)
    ]
    return summarise(*sides, {"t": []}), sides


def test_few_rows_get_one_sentence_from_every_remark():
    metrics = summarise(BASE, TUNED)
    said = [remark(task) for task in metrics["tasks"].values() for remark in ON_TASK]
    said += [remarks.on_parts(metrics["validation"]), remarks.on_shape(metrics["validation"])]
    said += [remarks.on_leaks({}), remarks.on_holm({})]
    assert all(text and text.count(". ") == 0 for text in said)
    assert remarks.on_holm(metrics["tasks"]) == "Too few questions were asked for a test."


def test_more_than_the_base_model_is_not_more_than_guessing():
    metrics, (base, tuned) = questions([None], ["A", "B", "C", "D"], n=40)
    task = metrics["tasks"]["t"]
    assert remarks.on_accuracy(task) == (
        "Of 40 questions the base model gets 0 right and the tuned model 10; blind guessing would get about 10 (25%). "
        "Always naming A, the most frequent right answer, would score 100%."
    )
    assert "The tuned model's accuracy is better than the base model's" in on_task(task)
    assert "not shown to differ from guessing" in on_task(task)
    assert remarks.on_differing(base, tuned) == (
        "Of 40 questions 10 got better and 0 worse. Of the others 0 are right with both models and 30 with neither."
    )
    assert remarks.on_differing(base, base) == (
        "Of 40 questions none is right for one model alone. Nothing in them tells the models apart."
    )
    base = [{**row, "closed": row["task"] != "t"} for row in base]
    assert remarks.on_differing(base, tuned).endswith(
        " In 10 of the 10 the base model never closed its thought, so its answer does not count."
    )
    assert remarks.on_holm(metrics["tasks"]) == (
        "This run has 1 test of accuracy, of the replies and of the models made to answer; 1 of their p values lies "
        "below 0.05 as computed (0.0020) and 1 after Holm's procedure (0.0020)."
    )


def test_each_p_value_is_told_before_and_after_holms_procedure():
    both = [{"n": 40, "paired": {"mcnemar_p": p, "mcnemar_p_holm": min(1, 2 * p)}} for p in (0.004, 0.03)]
    assert remarks.on_holm({"t": {**both[0], "made_to_answer": both[1]}}) == (
        "This run has 2 tests of accuracy, of the replies and of the models made to answer; 2 of their p values lie "
        "below 0.05 as computed (0.0040, 0.030) and 1 after Holm's procedure (0.0080, 0.060)."
    )


def test_a_letter_beside_another_options_words_is_counted():
    options = {"A": "Aspirin", "B": "Heparin"}
    replies = {"Heparin.\n\nThe answer is (A).": "A", "Aspirin.\n\nThe answer is (A).": "A", "The answer is (B).": "B"}
    rows = [
        {"reply": f"...</think>{text}", "options": options, "choice": letter, "correct": letter == "A"}
        for text, letter in replies.items()
    ]
    assert remarks.on_words(rows) == (
        "In 1 of the tuned model's 3 replies that name an option the letter is one option's and the words are "
        "another's; by the letter, which alone is scored, 1 of them is right."
    )
    assert remarks.on_words(rows[1:]) == ""


@pytest.mark.parametrize("replied", [1, 0])  # 1: the tuned model is better, -1: worse
@pytest.mark.parametrize("forced", [1, 0, -1])
def test_the_reading_made_to_answer_is_compared_with_the_replies(replied, forced):
    named = {1: ([None], ["A"]), 0: ([None], [None]), -1: (["A"], [None])}
    task = questions(*named[replied])[0]["tasks"]["t"]
    task["made_to_answer"] = copy.deepcopy(questions(*named[forced])[0]["tasks"]["t"])
    ends = {
        (1, 1): "it does not come from naming an option alone.",
        (1, 0): "may come from naming an option alone.",
        (1, -1): "the other way, so the gain in the replies comes from naming options.",
        (0, 1): "Here a difference shows that the replies did not show.",
        (0, 0): "So no difference is shown in either reading.",
        (0, -1): "Here a difference shows that the replies did not show.",
    }
    assert remarks.on_forced(task).endswith(ends[replied, forced])
    task["base"]["favourite_forced"] = {"letter": "C", "times": 19, "named": 20}
    assert remarks.on_forced(task).endswith(" Made to answer, the base model names C in 19 of 20.")


@pytest.mark.parametrize(
    ("base", "tuned", "who"),
    [
        (["A", "B", "C", "D"], ["B", "A", "C", "D"], "neither model is"),
        (["A"], ["A", "B", "C", "D"], "the tuned model is not"),
    ],
)
def test_made_to_answer_like_a_guess_is_said(base, tuned, who):
    task = questions([None], ["A"])[0]["tasks"]["t"]
    task["made_to_answer"] = questions(base, tuned)[0]["tasks"]["t"]
    assert remarks.on_forced(task).endswith(f" Made to answer, {who} shown to differ from guessing.")


def test_shape_says_what_changed_and_what_loops():
    def shape(base, tuned):
        sides = [[unseen(i, 2.0, *flags, 9, reply=text) for i in range(12)] for flags, text in (base, tuned)]
        return remarks.on_shape(summarise(*sides)["validation"])

    good, loop = ((True, True), "one two three four five"), ((True, False), "a b c d " * 20)
    assert "stops less often" in shape(good, loop)
    assert "Replies go round in circles" in shape(good, loop)
    assert "form says nothing yet" in shape(((False, True), "one"), good)
    assert shape(good, good).endswith("No difference is shown in form.")


def test_the_loss_is_that_of_04():
    validation = questions(["A"], ["A"])[0]["validation"]
    losses = {"before": validation["base"]["nll"], "after": validation["tuned"]["nll"]}
    assert remarks.on_loss(validation, {"validation_nll": losses}).endswith("it is one measure, taken twice.")
    assert "rows, compute type or batches differ" in remarks.on_loss(
        validation, {"validation_nll": losses | {"after": 9}}
    )
    assert "no training" in remarks.on_loss(validation, None)


def test_the_parts_that_changed_are_named():
    validation = questions(["A"], ["A"])[0]["validation"]
    assert remarks.on_parts(validation) == "Neither in the reasoning nor in the answer is a change shown."
    validation["parts"]["answer"] |= {"delta": -0.5, "delta_ci95": [-0.6, -0.4]}
    assert remarks.on_parts(validation) == "A change is shown in the answer (-0.50)."


def test_leaks_say_whether_a_finding_rests_on_flagged_questions():
    sides = questions([None], ["A", "A", "A", "B"])[1]

    def leaks(flagged):
        return remarks.on_leaks(summarise(*sides, flagged)["tasks"])

    table = [remarks.flagged_table(summarise(*sides, found)["tasks"]) for found in ({"t": ["t-0"]}, None)]
    whole = {"task": "t", "questions": "20", "tuned minus base": "+75.0 points (+45.0 to +91.4)"}
    assert table == [
        [{**whole, "flagged": "1", "without flagged": "+73.7 points (+42.6 to +90.8)"}],
        [{**whole, "flagged": "not compared", "without flagged": "-"}],
    ]
    assert leaks({"t": []}).startswith("None of 20 questions is flagged")
    assert leaks({"t": ["t-0"]}) == "1 of 20 questions resembles a training row. Without them each finding is the same."
    assert "the finding is another one in t" in leaks({"t": [f"t-{i}" for i in range(14)]})
    assert leaks(None).startswith("03 compared no question")
    tasks = summarise(*sides, {"t": ["t-0"]})["tasks"]
    tasks["t"]["paired"]["mcnemar_p_holm"] = 0.9  # beside many other tests, for which the rest is not adjusted
    assert remarks.on_leaks(tasks).endswith("each finding is the same.")


def test_miscalibration_is_claimed_only_where_it_is_shown():
    for interval, word in (([0.1, 0.2], "overconfident"), ([-0.2, -0.1], "underconfident"), ([-0.1, 0.1], "not shown")):
        found = {"n": 9, "overconfidence_ci95": interval, "confidence": 0.5, "accuracy": 0.4, "ece": 0.125}
        said = remarks.on_calibration({"calibration": {"base": None, "tuned": found}})
        assert word in said
        assert said.endswith("The expected calibration error is 0.12 (tuned).")


def test_the_table_of_questions_quotes_what_it_shows():
    sides = [[choice("t", i, "A", named, options={**LETTERS, "A": "<b>x</b> | y"}) for i in range(9)] for named in "BA"]
    table = remarks.differing(*sides, limit=3)
    assert len(table.splitlines()) == 5
    assert "<b>" not in table
    assert {line.count(" | ") for line in table.splitlines()} == {4}
    assert remarks.differing(BASE[:2], TUNED[:2]) == "*No question is right for one model alone.*"


def test_an_example_shows_both_replies_and_says_when_there_is_none():
    pairs = side_by_side(
        [unseen(0, 1.0, True, True, 1, reply="base thought</think>base answer")],
        [unseen(0, 2.0, False, True, 1, reply="tuned thought</think>tuned answer")],
    )
    shown = remarks.example(pairs, "worse")
    places = [
        shown.index(text) for text in ("Base model", "base thought", "base answer", "Tuned model", "tuned answer")
    ]
    assert places == sorted(places)
    assert "better" in remarks.example(pairs, "better")
    assert "base answer" not in remarks.example(pairs, "better")
