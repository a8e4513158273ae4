"""evaluation/metrics.json and the side-by-side view: figures worked out by hand."""

import json

import numpy as np
import pytest
from evaluated_rows import BASE, TUNED, choice, unseen

from helpers.evaluation.metrics import side_by_side, summarise
from helpers.scoring.verdicts import on_task, on_unseen, when_made_to_answer


def test_metrics_have_the_schema_of_the_design():
    metrics = summarise(BASE, TUNED)
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics  # plain numbers, lists and texts
    assert set(metrics) == {"validation", "tasks"}
    assert set(metrics["validation"]) >= {"n", "base", "tuned"}
    for side in ("base", "tuned"):
        assert set(metrics["validation"][side]) == {"nll", "closed", "finished", "thinking_tokens"}
    assert list(metrics["tasks"]) == ["medqa", "other"]
    for task in metrics["tasks"].values():
        assert set(task) >= {"n", "majority_baseline", "majority_letter", "chance", "base", "tuned", "paired"}
        for side in ("base", "tuned"):
            assert set(task[side]) == {
                "accuracy", "ci95", "abstained", "truncated", "answered", "favourite", "favourite_forced",
            }  # fmt: skip
        paired = {"delta", "delta_ci95", "base_only", "tuned_only", "mcnemar_p", "mcnemar_p_holm", "detectable"}
        assert set(task["paired"]) == paired


def test_validation_figures_are_those_worked_out_by_hand():
    validation = summarise(BASE, TUNED)["validation"]
    assert validation["n"] == 2
    assert validation["base"] == {"nll": 2.5, "closed": 0.0, "finished": 0.5, "thinking_tokens": 20.0}
    assert validation["tuned"] == pytest.approx({"nll": 2.3, "closed": 0.5, "finished": 1.0, "thinking_tokens": 35.0})
    assert validation["paired"]["nll_delta"] == pytest.approx(-0.2)
    assert validation["paired"]["nll_delta_ci95"] is None
    assert on_unseen(validation) == (
        "Too few rows were measured (n = 2) to say anything about completion NLL: tuned minus base is -0.200."
    )


def test_task_figures_are_those_worked_out_by_hand():
    task = summarise(BASE, TUNED)["tasks"]["medqa"]
    assert task["n"] == 4
    assert (task["majority_letter"], task["majority_baseline"]) == ("A", 0.5)  # A, B, A, C
    assert task["chance"] == pytest.approx((3 / 4 + 1 / 3) / 4)
    shares = ("accuracy", "abstained", "truncated")
    assert [task["base"][share] for share in shares] == [0.25, 0.25, 0.25]
    assert [task["tuned"][share] for share in shares] == [0.5, 0.0, 0.25]
    assert (task["base"]["answered"]["n"], task["base"]["answered"]["accuracy"]) == (2, 0.5)
    assert (task["tuned"]["answered"]["n"], task["tuned"]["answered"]["accuracy"]) == (3, pytest.approx(2 / 3))
    assert task["tuned"]["answered"]["ci95"] == pytest.approx([0.0943, 0.9916], abs=1e-4)  # exact, 2 of 3
    assert task["base"]["ci95"] == pytest.approx([0.0063, 0.8059], abs=1e-4)  # exact, 1 of 4
    assert task["tuned"]["ci95"] == pytest.approx([0.0676, 0.9324], abs=1e-4)  # 2 of 4
    paired = task["paired"]
    assert (paired["base_only"], paired["tuned_only"], paired["delta"]) == (1, 2, 0.25)
    assert paired["mcnemar_p"] == pytest.approx(1.0)
    assert paired["detectable"] == pytest.approx(0.998, abs=1e-3)
    assert paired["delta_ci95"] == [-1, 1]
    assert on_task(task).startswith("Too few rows were measured (n = 4) to say anything about accuracy: ")
    twice = summarise(BASE[:2] + BASE[2:6] * 2, TUNED[:2] + TUNED[2:6] * 2)["tasks"]["medqa"]
    low, high = twice["paired"]["delta_ci95"]
    assert (low, high) == pytest.approx((-0.3403, 0.7403), abs=1e-4)  # Bonett and Price, 2 and 4 of 8
    assert on_task(twice).startswith("No difference is shown in accuracy: tuned minus base is +25.0 points")


def test_the_loss_of_each_part_and_repetition_are_paired_too():
    twice = "a b c d a b c d"  # of five runs of four words one stood there before
    tuned = [{**TUNED[0], "reply": twice}, TUNED[1]]
    validation = summarise([*BASE[:2], BASE[2]], [*tuned, TUNED[2]])["validation"]
    assert validation["parts"]["thinking"]["base"] == pytest.approx(2.0)
    assert validation["parts"]["answer"]["tuned"] == pytest.approx(3.3)
    assert validation["parts"]["answer"]["delta_ci95"] is None  # of two rows
    assert validation["repetition"]["delta"] == pytest.approx(0.1)
    more = summarise(BASE[:2] * 3 + [BASE[2]], TUNED[:2] * 3 + [TUNED[2]])["validation"]
    t, error = 2.570582, np.std([-0.5, 0.1] * 3, ddof=1) / 6**0.5  # Student's, 5 degrees of freedom
    assert more["parts"]["answer"]["delta_ci95"] == pytest.approx([-0.2 - t * error, -0.2 + t * error], abs=1e-6)
    assert more["paired"]["nll_delta_ci95"] == pytest.approx(more["parts"]["answer"]["delta_ci95"])


def test_p_values_are_adjusted_to_the_number_of_tasks_and_the_sentence_follows():
    """Six of six to the tuned model: p = 2/64 alone, 3/32 beside two more tasks."""
    base = [choice("t", i, "A", "B") for i in range(6)]
    tuned = [choice("t", i, "A", "A") for i in range(6)]
    alone = summarise(BASE[:2] + base, TUNED[:2] + tuned)["tasks"]["t"]
    assert alone["paired"]["mcnemar_p_holm"] == alone["paired"]["mcnemar_p"] == pytest.approx(1 / 32)
    assert "is better" in on_task(alone)
    beside = summarise(BASE + base, TUNED + tuned)["tasks"]["t"]
    assert beside["paired"]["mcnemar_p"] == pytest.approx(1 / 32)
    assert beside["paired"]["mcnemar_p_holm"] == pytest.approx(3 / 32)
    assert on_task(beside).startswith("No difference")


def test_the_sentence_says_so_where_a_guess_would_be_right_more_often():
    """40 questions, of which the tuned model answers ten, six of them rightly: better than none, and no knowledge."""
    base = [choice("t", i, "A", None) for i in range(40)]
    tuned = [choice("t", i, "A", None if i >= 10 else "A" if i < 6 else "B") for i in range(40)]
    task = summarise(BASE[:2] + base, TUNED[:2] + tuned)["tasks"]["t"]
    assert "is better than the base model's: +15.0 points" in on_task(task)
    assert task["tuned"]["ci95"][1] > task["chance"]  # 6 of 40: that it is below chance is not shown
    assert on_task(task).endswith(
        "No reply was cut off at the token limit. The base model scores below guessing (25%): it names an "
        "option after a closed thought in 0 of 40 replies. The tuned model's accuracy is not shown to differ from "
        "guessing: its interval, 5.7% to 29.8%, holds 25%. Always naming A would score 100%."
    )
    many = summarise(BASE[:2] + base * 4, TUNED[:2] + tuned * 4)["tasks"]["t"]
    assert on_task(many).endswith(
        " Both models score below guessing (25%): the base model names an option after a closed thought in 0 of 160 "
        "replies; the tuned model names an option after a closed thought in 40 of 160 replies, 60% of them rightly."
    )
    wrong = [choice("t", i, "A", "A" if i < 2 else "B") for i in range(40)]
    said = on_task(summarise(BASE[:2] + base, TUNED[:2] + wrong)["tasks"]["t"])
    assert "in 40 of 40 replies, 5% of them rightly, less often than a guess would be." in said


def test_the_sentence_says_so_where_the_gain_is_to_name_one_letter():
    """Twelve of 48 right by naming A in every reply: more than none, and as many as a guess."""
    rights = ["A", "B", "C", "D"] * 12
    base, tuned = ([choice("t", i, right, named) for i, right in enumerate(rights)] for named in (None, "A"))
    said = on_task(summarise(BASE[:2] + base, TUNED[:2] + tuned)["tasks"]["t"])
    assert "is better than the base model's" in said
    assert said.endswith(
        "The tuned model's accuracy is not shown to differ from guessing: its interval, 13.6% to 39.6%, holds 25%. "
        "Always naming A would score 25%. The tuned model names A in 48 of its 48 answers: what it has gained is that "
        "it answers at all."
    )
    same = on_task(summarise(BASE[:2] + tuned, TUNED[:2] + tuned)["tasks"]["t"])
    assert same.endswith("The tuned model names A in 48 of its 48 answers, whatever is asked.")


def test_a_side_that_never_closes_a_thought_does_not_hide_the_others_calibration():
    letters = {"letters": {"A": 0.7, "B": 0.3}}
    tuned = [row | letters if row["task"] == "other" else row for row in TUNED]
    calibration = summarise(BASE, tuned)["tasks"]["other"]["calibration"]
    assert calibration["base"] is None
    assert calibration["tuned"]["n"] == 3


def test_figures_without_the_flagged_questions_stand_beside_the_raw_ones():
    flagged = {"medqa": ["medqa-1", "medqa-3", "elsewhere"], "other": [f"other-{i}" for i in range(3)]}
    tasks = summarise(BASE, TUNED, flagged)["tasks"]
    assert tasks["medqa"]["flagged"]["n"] == 2
    without = tasks["medqa"]["flagged"]["without"]
    assert (without["n"], without["base"]["accuracy"], without["tuned"]["accuracy"]) == (2, 0.5, 0.5)
    assert (without["paired"]["base_only"], without["paired"]["tuned_only"]) == (1, 1)
    assert tasks["medqa"]["base"] == summarise(BASE, TUNED)["tasks"]["medqa"]["base"]
    assert tasks["other"]["flagged"] == {"n": 3, "without": None}
    tasks = summarise(BASE, TUNED, {"medqa": []})["tasks"]
    assert tasks["medqa"]["flagged"]["n"] == 0
    assert tasks["medqa"]["flagged"]["without"]["n"] == 4
    assert tasks["other"]["flagged"] is None  # not compared, which is not the same as none flagged


def lettered(row, letter):
    return row | {"letters": {"A": 0.1, "B": 0.1, letter: 0.6}}


def test_made_to_answer_is_a_second_reading_with_a_test_of_its_own():
    """Nine thoughts that never end in the base model: all wrong as replied, as right as the tuned one's when forced."""
    base = [lettered(choice("t", i, "A", None, finished=False), "A") for i in range(9)]
    tuned = [lettered(choice("t", i, "A", "A"), "A") for i in range(9)]
    task = summarise(BASE[:2] + base, TUNED[:2] + tuned)["tasks"]["t"]
    assert (task["base"]["accuracy"], task["tuned"]["accuracy"]) == (0, 1)
    assert task["paired"]["mcnemar_p"] == pytest.approx(2 / 2**9)
    assert task["paired"]["mcnemar_p_holm"] == pytest.approx(4 / 2**9)  # two tests were made
    assert "is better than the base model's: +100.0 points" in on_task(task)
    cut = "100% of the base model's replies to these questions and 0% of the tuned model's were cut off"
    assert cut in on_task(task)
    forced = task["made_to_answer"]
    assert (forced["n"], forced["base"]["accuracy"], forced["tuned"]["accuracy"]) == (9, 1, 1)
    assert when_made_to_answer(task).startswith("No difference is shown in accuracy when made to answer: ")
    assert summarise(BASE, TUNED)["tasks"]["medqa"]["made_to_answer"] is None


def test_what_the_delimiter_alone_explains_stands_in_the_sentence():
    base = [unseen(i, 2.0 + i / 10, True, True, 5) | {"nll_delimiter": 0.2, "nll_text": 1.9} for i in range(6)]
    tuned = [row | {"nll": row["nll"] - 0.3, "nll_delimiter": 0.05, "nll_text": 1.7} for row in base]
    task = [choice("t", 0, "A", "A")]
    validation = summarise(base + task, tuned + task)["validation"]
    assert on_unseen(validation).endswith(
        " Of this, -0.150 comes from the end of the thought alone (</think> and the token after it); the mean over the "
        "other tokens alone changes by -0.200, and the two do not add up."
    )
    assert "</think>" not in on_unseen(summarise(BASE, TUNED)["validation"])  # replies of an older release


def test_three_of_three_against_none_is_still_no_proof():
    task = summarise(BASE, TUNED)["tasks"]["other"]
    assert task["paired"]["mcnemar_p"] == pytest.approx(0.25)  # 2 / 2**3
    assert (task["paired"]["delta"], task["paired"]["delta_ci95"]) == (1.0, [-1.0, 1.0])
    assert task["base"]["ci95"] == pytest.approx([0.0, 0.7076], abs=1e-4)
    assert task["tuned"]["ci95"] == pytest.approx([0.2924, 1.0], abs=1e-4)
    assert on_task(task).startswith("Too few rows")
    five = [choice("t", i, "A", "A") for i in range(5)]
    wrong = [row | {"choice": "B", "correct": False} for row in five]
    task = summarise(BASE[:2] + wrong, TUNED[:2] + five)["tasks"]["t"]
    assert task["paired"]["delta_ci95"][0] > 0
    assert on_task(task).startswith("No difference")  # the exact test forbids what the interval would allow


def test_one_loss_all_rows_lower_is_called_better_and_all_higher_worse():
    rows = [unseen(i, 2.0 + i / 10, True, True, 5) for i in range(20)]
    lower = [{**row, "nll": row["nll"] - 0.3} for row in rows]
    task = [choice("t", 0, "A", "A")]
    better = on_unseen(summarise(rows + task, lower + task)["validation"])
    worse = on_unseen(summarise(lower + task, rows + task)["validation"])
    assert "is better than the base model's: -0.300 (95% interval -0.300 to -0.300)" in better
    assert "is worse than the base model's: +0.300" in worse
    assert "points" not in better + worse  # nats are no percentage


def test_replies_that_got_worse_come_first_and_keep_their_order():
    pairs = side_by_side(BASE, TUNED)
    assert [(pair["id"], pair["outcome"]) for pair in pairs] == [
        ("medqa-0", "worse"),
        ("validation-0", "better"),
        ("medqa-1", "better"),
        ("medqa-2", "better"),
        ("other-0", "better"),
        ("other-1", "better"),
        ("other-2", "better"),
        ("validation-1", "same"),
        ("medqa-3", "same"),
    ]
    assert set(pairs[0]) == {"task", "id", "outcome", "question", "base", "tuned"}
