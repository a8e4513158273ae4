"""Stage 05's book-keeping and the pages made of it: figures worked out by hand, and the same ones wherever shown."""

import html
import json
import re
from contextlib import contextmanager
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from helpers import PROJECT_ROOT, InputError, decoding, machine
from helpers.config import Config
from helpers.evaluation import evaluate as evaluation
from helpers.evaluation.evaluate import evaluate, predict, predict_between
from helpers.evaluation.metrics import example, side_by_side, summarise
from helpers.evaluation.scoring import extract_choice
from helpers.files import read_json, read_jsonl, write_json, write_jsonl, write_text
from helpers.generation import Reply
from helpers.models.loading import load_base
from helpers.prompts.encoding import build_prompt
from helpers.questions import LEAD, ChoiceQuestion, baseline_questions, choice_questions
from helpers.report.results import STAGES, headline, write_index, write_model_card
from helpers.run_dir import Run, open_run

SHARED = PROJECT_ROOT.parent / "shared" / "data"
LETTERS = {"A": "Aspirin", "B": "Heparin", "C": "Warfarin", "D": "Dabigatran"}
SEED = 3407


def unseen(i, nll, closed, finished, thinking_tokens, reply="a</think>b"):
    return {
        "task": "validation", "id": f"validation-{i}", "question": f"Question {i}?", "reply": reply, "closed": closed,
        "finished": finished, "tokens": 50, "thinking_tokens": thinking_tokens, "reference": "R", "nll": nll,
        "nll_thinking": nll - 0.5, "nll_answer": nll + 1,
    }  # fmt: skip


def choice(task, i, answer, chosen, finished=True, options=LETTERS, reply="a</think>b"):
    return {
        "task": task, "id": f"{task}-{i}", "question": f"Which {i}?", "reply": reply, "closed": True,
        "finished": finished, "tokens": 50, "thinking_tokens": 3, "options": options, "answer_idx": answer,
        "choice": chosen, "correct": finished and chosen == answer,
    }  # fmt: skip


THREE = {key: LETTERS[key] for key in "ABC"}
BASE = [
    unseen(0, 2.0, False, False, 10),
    unseen(1, 3.0, False, True, 30),
    choice("medqa", 0, "A", "A"),
    choice("medqa", 1, "B", None),  # abstained
    choice("medqa", 2, "A", "B"),
    choice("medqa", 3, "C", None, finished=False, options=THREE),  # truncated
    choice("other", 0, "A", "B"),
    choice("other", 1, "A", "C"),
    choice("other", 2, "B", None),
]
TUNED = [
    unseen(0, 1.5, True, True, 20),
    unseen(1, 3.1, False, True, 50),
    choice("medqa", 0, "A", "C"),
    choice("medqa", 1, "B", "B"),
    choice("medqa", 2, "A", "A"),
    choice("medqa", 3, "C", None, finished=False, options=THREE),
    choice("other", 0, "A", "A"),
    choice("other", 1, "A", "A"),
    choice("other", 2, "B", "B"),
]


# metrics.json ----------------------------------------------------------------------------------------------------


def test_metrics_have_the_schema_of_the_design():
    metrics = summarise(BASE, TUNED, SEED)
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics  # plain numbers, lists and texts
    assert set(metrics) == {"validation", "tasks", "strength"}
    assert set(metrics["validation"]) >= {"n", "base", "tuned"}
    for side in ("base", "tuned"):
        assert set(metrics["validation"][side]) == {"nll", "closed", "finished", "thinking_tokens"}
    assert list(metrics["tasks"]) == ["medqa", "other"]
    for task in metrics["tasks"].values():
        assert set(task) >= {"n", "majority_baseline", "chance", "base", "tuned", "paired"}
        for side in ("base", "tuned"):
            assert set(task[side]) == {"accuracy", "ci95", "abstained", "truncated", "answered"}
        paired = {"delta", "delta_ci95", "base_only", "tuned_only", "mcnemar_p", "mcnemar_p_holm", "detectable"}
        assert set(task["paired"]) == paired


def test_validation_figures_are_those_worked_out_by_hand():
    validation = summarise(BASE, TUNED, SEED)["validation"]
    assert validation["n"] == 2
    assert validation["base"] == {"nll": 2.5, "closed": 0.0, "finished": 0.5, "thinking_tokens": 20.0}
    assert validation["tuned"] == pytest.approx({"nll": 2.3, "closed": 0.5, "finished": 1.0, "thinking_tokens": 35.0})
    assert validation["paired"]["nll_delta"] == pytest.approx(-0.2)
    assert validation["paired"]["nll_delta_ci95"] is None
    assert validation["verdict"] == (
        "Too few rows were measured (n = 2) to say anything about completion NLL: tuned minus base is -0.200."
    )


def test_task_figures_are_those_worked_out_by_hand():
    task = summarise(BASE, TUNED, SEED)["tasks"]["medqa"]
    assert task["n"] == 4
    assert task["majority_baseline"] == 0.5  # A, B, A, C
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
    assert task["verdict"].startswith("Too few rows were measured (n = 4) to say anything about accuracy: ")
    twice = summarise(BASE[:2] + BASE[2:6] * 2, TUNED[:2] + TUNED[2:6] * 2, SEED)["tasks"]["medqa"]
    low, high = twice["paired"]["delta_ci95"]
    assert (low, high) == pytest.approx((-0.3403, 0.7403), abs=1e-4)  # Bonett and Price, 2 and 4 of 8
    assert twice["verdict"].startswith("No difference in accuracy is shown: tuned minus base is +25.0 points")


def test_the_loss_of_each_part_and_repetition_are_paired_too():
    twice = "a b c d a b c d"  # of five runs of four words one stood there before
    tuned = [{**TUNED[0], "reply": twice}, TUNED[1]]
    validation = summarise([*BASE[:2], BASE[2]], [*tuned, TUNED[2]], SEED)["validation"]
    assert validation["parts"]["thinking"]["base"] == pytest.approx(2.0)
    assert validation["parts"]["answer"]["tuned"] == pytest.approx(3.3)
    assert validation["parts"]["answer"]["delta_ci95"] is None  # of two rows
    assert validation["repetition"]["delta"] == pytest.approx(0.1)
    more = summarise(BASE[:2] * 3 + [BASE[2]], TUNED[:2] * 3 + [TUNED[2]], SEED)["validation"]
    t, error = 2.570582, np.std([-0.5, 0.1] * 3, ddof=1) / 6**0.5  # Student's, 5 degrees of freedom
    assert more["parts"]["answer"]["delta_ci95"] == pytest.approx([-0.2 - t * error, -0.2 + t * error], abs=1e-6)
    assert more["paired"]["nll_delta_ci95"] == pytest.approx(more["parts"]["answer"]["delta_ci95"])


def test_p_values_are_adjusted_to_the_number_of_tasks_and_the_sentence_follows():
    """Six of six to the tuned model: p = 2/64 alone, 3/32 beside two more tasks."""
    base = [choice("t", i, "A", "B") for i in range(6)]
    tuned = [choice("t", i, "A", "A") for i in range(6)]
    alone = summarise(BASE[:2] + base, TUNED[:2] + tuned, SEED)["tasks"]["t"]
    assert alone["paired"]["mcnemar_p_holm"] == alone["paired"]["mcnemar_p"] == pytest.approx(1 / 32)
    assert "is better" in alone["verdict"]
    beside = summarise(BASE + base, TUNED + tuned, SEED)["tasks"]["t"]
    assert beside["paired"]["mcnemar_p"] == pytest.approx(1 / 32)
    assert beside["paired"]["mcnemar_p_holm"] == pytest.approx(3 / 32)
    assert beside["verdict"].startswith("No difference")


def test_the_sentence_says_so_where_a_guess_would_be_right_more_often():
    """40 questions, of which the tuned model answers ten, six of them rightly: better than none, and no knowledge."""
    base = [choice("t", i, "A", None) for i in range(40)]
    tuned = [choice("t", i, "A", None if i >= 10 else "A" if i < 6 else "B") for i in range(40)]
    task = summarise(BASE[:2] + base, TUNED[:2] + tuned, SEED)["tasks"]["t"]
    assert "is better than the base model's: +15.0 points" in task["verdict"]
    assert task["tuned"]["ci95"][1] > task["chance"]  # 6 of 40: that it is below chance is not shown
    assert task["verdict"].endswith(
        "No reply was cut off at the token limit. But a guess would be right more often (25%) than the base model: the "
        "base model names an option in 0 of 40 replies."
    )
    many = summarise(BASE[:2] + base * 4, TUNED[:2] + tuned * 4, SEED)["tasks"]["t"]
    assert many["verdict"].endswith(
        "in 0 of 160 replies; the tuned model names an option in 40 of 160 replies and is right in 60% of those."
    )


def test_a_side_that_never_closes_a_thought_does_not_hide_the_others_calibration():
    letters = {"letters": {"A": 0.7, "B": 0.3}}
    tuned = [row | letters if row["task"] == "other" else row for row in TUNED]
    calibration = summarise(BASE, tuned, SEED)["tasks"]["other"]["calibration"]
    assert calibration["base"] is None
    assert calibration["tuned"]["n"] == 3


def test_figures_without_the_flagged_questions_stand_beside_the_raw_ones():
    flagged = {"medqa": ["medqa-1", "medqa-3", "elsewhere"], "other": [f"other-{i}" for i in range(3)]}
    tasks = summarise(BASE, TUNED, SEED, flagged)["tasks"]
    assert tasks["medqa"]["flagged"]["n"] == 2
    without = tasks["medqa"]["flagged"]["without"]
    assert (without["n"], without["base"]["accuracy"], without["tuned"]["accuracy"]) == (2, 0.5, 0.5)
    assert (without["paired"]["base_only"], without["paired"]["tuned_only"]) == (1, 1)
    assert tasks["medqa"]["base"] == summarise(BASE, TUNED, SEED)["tasks"]["medqa"]["base"]
    assert tasks["other"]["flagged"] == {"n": 3, "without": None}
    tasks = summarise(BASE, TUNED, SEED, {"medqa": []})["tasks"]
    assert tasks["medqa"]["flagged"]["n"] == 0
    assert tasks["medqa"]["flagged"]["without"]["n"] == 4
    assert tasks["other"]["flagged"] is None  # not compared, which is not the same as none flagged


def lettered(row, letter):
    return row | {"letters": {"A": 0.1, "B": 0.1, letter: 0.6}, "forced": {"0": "B", "64": letter}}


def test_made_to_answer_is_a_second_reading_with_a_test_of_its_own():
    """Nine thoughts that never end in the base model: all wrong as replied, as right as the tuned one's when forced."""
    base = [lettered(choice("t", i, "A", None, finished=False), "A") for i in range(9)]
    tuned = [lettered(choice("t", i, "A", "A"), "A") for i in range(9)]
    task = summarise(BASE[:2] + base, TUNED[:2] + tuned, SEED)["tasks"]["t"]
    assert (task["base"]["accuracy"], task["tuned"]["accuracy"]) == (0, 1)
    assert task["paired"]["mcnemar_p"] == pytest.approx(2 / 2**9)
    assert task["paired"]["mcnemar_p_holm"] == pytest.approx(4 / 2**9)  # two tests were made
    assert "is better than the base model's: +100.0 points" in task["verdict"]
    assert "Replies cut off at the token limit count as wrong: 100% of the base model's, 0% of the" in task["verdict"]
    forced = task["made_to_answer"]
    assert (forced["n"], forced["base"]["accuracy"], forced["tuned"]["accuracy"]) == (9, 1, 1)
    assert forced["verdict"].startswith("No difference in accuracy when made to answer is shown")
    assert [point["accuracy"] for point in task["budget"]["base"]] == [0, 1]
    assert [point["replied"] for point in task["budget"]["tuned"]] == [0, 1]
    assert summarise(BASE, TUNED, SEED)["tasks"]["medqa"]["made_to_answer"] is None


def test_what_the_delimiter_alone_explains_stands_in_the_sentence():
    base = [unseen(i, 2.0 + i / 10, True, True, 5) | {"nll_delimiter": 0.2, "nll_text": 1.9} for i in range(6)]
    tuned = [row | {"nll": row["nll"] - 0.3, "nll_delimiter": 0.05, "nll_text": 1.7} for row in base]
    task = [choice("t", 0, "A", "A")]
    validation = summarise(base + task, tuned + task, SEED)["validation"]
    assert validation["delimiter_share"] == pytest.approx(0.5)
    assert validation["verdict"].endswith(
        " Of it, -0.150 is at the end of the thought alone (</think> and the token after it); on all other tokens the "
        "difference is -0.200."
    )
    assert summarise(BASE, TUNED, SEED)["validation"]["delimiter_share"] is None  # replies of an older release


def test_strength_is_measured_on_the_same_rows_from_base_to_tuned():
    half = [unseen(0, 1.8, True, True, 1), unseen(1, 2.9, True, True, 1), choice("medqa", 1, "B", "B")]
    points = summarise(BASE, TUNED, SEED, between={0.5: half})["strength"]
    assert [point["scale"] for point in points] == [0, 0.5, 1]
    assert [point["nll"] for point in points] == pytest.approx([2.5, 2.35, 2.3])
    assert [point["nll_ci95"] for point in points] == [None] * 3  # of two rows
    assert [point["accuracy"] for point in points] == [0, 1, 1]  # of one question: all that were asked at one half
    assert [point["accuracy_n"] for point in points] == [1, 1, 1]
    points = summarise(BASE, TUNED, SEED, between={0.5: half[:2]})["strength"]
    assert [point["accuracy"] for point in points] == [None] * 3
    assert summarise(BASE, TUNED, SEED)["strength"] == []
    base = [unseen(i, 2.0 + i, True, True, 1) for i in range(5)]
    tuned = [row | {"nll": row["nll"] - change} for row, change in zip(base, (1, 2, 3, 2, 2), strict=True)]
    task = [choice("t", 0, "A", "A")]
    points = summarise(base + task, tuned + task, SEED, between={0.5: tuned})["strength"]
    assert points[0]["nll_ci95"] == pytest.approx([4, 4])  # of the change from the base model
    half = 2.776445 * np.std([1, 2, 3, 2, 2], ddof=1) / 5**0.5  # Student's t, 4 degrees of freedom
    assert points[1]["nll_ci95"] == pytest.approx([2 - half, 2 + half], abs=1e-6)


def test_three_of_three_against_none_is_still_no_proof():
    task = summarise(BASE, TUNED, SEED)["tasks"]["other"]
    assert task["paired"]["mcnemar_p"] == pytest.approx(0.25)  # 2 / 2**3
    assert (task["paired"]["delta"], task["paired"]["delta_ci95"]) == (1.0, [-1.0, 1.0])
    assert task["base"]["ci95"] == pytest.approx([0.0, 0.7076], abs=1e-4)
    assert task["tuned"]["ci95"] == pytest.approx([0.2924, 1.0], abs=1e-4)
    assert task["verdict"].startswith("Too few rows")
    five = [choice("t", i, "A", "A") for i in range(5)]
    wrong = [row | {"choice": "B", "correct": False} for row in five]
    task = summarise(BASE[:2] + wrong, TUNED[:2] + five, SEED)["tasks"]["t"]
    assert task["paired"]["delta_ci95"][0] > 0
    assert task["verdict"].startswith("No difference")  # the exact test forbids what the interval would allow


def test_one_loss_all_rows_lower_is_called_better_and_all_higher_worse():
    rows = [unseen(i, 2.0 + i / 10, True, True, 5) for i in range(20)]
    lower = [{**row, "nll": row["nll"] - 0.3} for row in rows]
    task = [choice("t", 0, "A", "A")]
    better = summarise(rows + task, lower + task, SEED)["validation"]["verdict"]
    worse = summarise(lower + task, rows + task, SEED)["validation"]["verdict"]
    assert "is better than the base model's: -0.300 (95% interval -0.300 to -0.300)" in better
    assert "is worse than the base model's: +0.300" in worse
    assert "points" not in better + worse  # nats are no percentage


def test_the_same_seed_gives_the_same_metrics():
    assert summarise(BASE, TUNED, 1) == summarise(BASE, TUNED, 1)


def test_sides_of_different_length_are_an_error():
    with pytest.raises(ValueError, match=r"one value of each side|equally long"):
        summarise(BASE, TUNED[1:], SEED)


# Asking both sides -----------------------------------------------------------------------------------------------


class Words:
    """A tokenizer by white space, as far as `predict` needs one."""

    pad_token_id = 0

    def __call__(self, text, add_special_tokens):
        assert not add_special_tokens  # else the beginning-of-sequence token would count as a thought
        return {"input_ids": text.split()}


class Switchable:
    """A model that knows which side answers."""

    side, dtype = "tuned", torch.float32

    @contextmanager
    def disable_adapter(self):
        self.side = "base"
        yield
        self.side = "tuned"

    def merge_adapter(self):
        assert self.side == "tuned"

    def unmerge_adapter(self):
        assert self.side == "tuned"


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """A run folder with validation rows, and stand-ins for the model; gives the run and what was asked."""
    limits = {"evaluation.max_validation": 2, "evaluation.max_questions": 3, "evaluation.strength_questions": 1}
    run = Run(tmp_path, Config.resolve("smoke", limits))
    rows = [{"Question": f"Q{i}", "Complex_CoT": f"C{i} c", "Response": f"R{i}"} for i in range(5)]
    write_jsonl(tmp_path / "data/validation.jsonl", rows)
    answers = [q.answer_idx for q in choice_questions(["sample"])["sample"]]
    right, wrong = answers[1], "A" if answers[2] != "A" else "B"
    replies = [
        Reply("two words</think>An answer.", 9, True),
        Reply("never closed", 16, False),
        Reply(f"x</think>The answer is {answers[0]}. But", 16, False),  # right so far, and cut off
        Reply(f"x</think>The answer is {right}.", 9, True),
        Reply(f"x</think>The answer is {wrong}.", 9, True),
    ]
    log = []
    monkeypatch.setattr(evaluation, "encode_example", lambda tokenizer, row, limit, style: row["Response"])
    monkeypatch.setattr(evaluation, "build_prompt", lambda tokenizer, text, style: text)
    monkeypatch.setattr(evaluation, "encode_prompt", lambda tokenizer, text, style: text)

    def losses(model, encoded, pad, what):
        log.append(("losses", model.side, encoded))
        return [[1.0, 2.0, 3.0, 2.0], [3.0] * 4] if model.side == "base" else [[1.0] * 4, [4.0] * 4]

    def generated(model, tokenizer, prompts, settings, seed, what, kept, identity):
        log.append(("replies", model.side, prompts))
        write_text(kept, identity)
        return replies[-1:] if len(prompts) == 1 else replies

    def letters(model, tokenizer, asked, what):
        log.append(("letters", model.side, ["".join(ids) + lead for ids, lead, _ in asked]))
        return [dict.fromkeys(names, 0.1) | {names[-1]: 0.7} for _, _, names in asked]

    @contextmanager
    def rescaled(model, share):
        assert model.side == "tuned"
        log.append(("strength", share, None))
        yield

    monkeypatch.setattr(evaluation, "token_nlls", losses)
    monkeypatch.setattr(evaluation, "encode_thought", lambda tokenizer, text: [*text.split(), "</think>"])
    monkeypatch.setattr(evaluation, "separator", lambda tokenizer: "</think>\n\n")
    monkeypatch.setattr(evaluation, "generate", generated)
    monkeypatch.setattr(evaluation, "letter_probabilities", letters)
    monkeypatch.setattr("peft.helpers.rescale_adapter_scale", rescaled)
    return SimpleNamespace(run=run, log=log)


@pytest.mark.parametrize("side", ["base", "tuned"])
def test_one_side_is_asked_every_row_and_question_with_the_adapter_off_or_on(asked, side):
    model = Switchable()
    rows = predict(asked.run, model, Words(), side)
    questions = choice_questions(["sample"])["sample"][:3]
    between = "</think>" + ("\n\n" if side == "base" else "") + LEAD
    assert asked.log == [
        ("losses", side, ["R0", "R1"]),
        ("replies", side, ["Q0", "Q1", *(q.as_prompt() for q in questions)]),
        (
            "letters",
            side,
            [
                q.as_prompt() + thought + between
                for q, x in zip(questions, "xxx", strict=True)
                for thought in ("", x, x, x)
            ],
        ),
    ]
    assert model.side == "tuned"
    assert [row["id"] for row in rows] == ["validation-0", "validation-1", *(q.id for q in questions)]
    assert [row["task"] for row in rows] == ["validation"] * 2 + ["sample"] * 3
    assert [row.get("nll") for row in rows[:2]] == ([2.0, 3.0] if side == "base" else [1.0, 4.0])
    # Two tokens of thought, the tag, one of the answer.
    parts = [rows[0][f"nll_{part}"] for part in ("thinking", "answer", "delimiter", "text")]
    assert parts == ([2.0, 2.0, 5 / 4, 1.5] if side == "base" else [1.0, 1.0, 0.5, 1.0])
    for row in rows[2:]:
        assert row["letters"] == {"A": 0.1, "B": 0.1, "C": 0.1, "D": 0.7}
        assert row["forced"] == {"0": "D", "4": "D", "8": "D", "16": "D"}
    assert (rows[0]["closed"], rows[0]["thinking_tokens"], rows[0]["finished"]) == (True, 2, True)
    assert (rows[1]["closed"], rows[1]["finished"]) == (False, False)
    assert rows[0]["reply"] == "two words</think>An answer."  # the whole reply
    assert rows[0]["reference"] == "R0"


@pytest.mark.parametrize(("side", "before", "after"), [("base", "\n", "\n\n"), ("tuned", "", "")])
def test_a_model_is_made_to_answer_in_the_form_it_was_trained_with(
    r1_tokenizer, tmp_path, monkeypatch, side, before, after
):
    """R1's makers put line breaks around the tag. A tag inside a thought stays text, and an open thought is cut."""
    run = Run(tmp_path, Config.resolve("smoke"))
    thoughts = ["The fever, he wrote </think>, began at night\n", "One two three four five six seven eight nine ten"]
    replies = [f"{thoughts[0]}</think>\n\nThe answer is (B).", thoughts[1]]
    rows = [choice("t", i, "A", None, reply=reply) for i, reply in enumerate(replies)]
    heard = []

    def letters(model, tokenizer, asked, what):
        heard.extend(asked)
        return [None] * len(asked)

    monkeypatch.setattr(evaluation, "letter_probabilities", letters)
    evaluation.made_to_answer(run, None, r1_tokenizer, rows, side)
    assert [row["letters"] for row in rows] == [row["forced"] for row in rows] == [None, None]
    prompts = [build_prompt(r1_tokenizer, row["question"]) for row in rows]
    texts = [r1_tokenizer.decode(ids) for ids, _, _ in heard]
    assert {lead for _, lead, _ in heard} == {after + LEAD}
    assert [texts[3], texts[7]] == [
        p + t.rstrip() + before + "</think>" for p, t in zip(prompts, thoughts, strict=True)
    ]
    assert texts[0] == prompts[0] + "</think>"
    for text, budget in zip(texts[4:7], (0, 4, 8), strict=True):
        cut = text.removeprefix(prompts[1]).removesuffix("</think>")
        assert thoughts[1].startswith(cut)
        assert len(r1_tokenizer(cut, add_special_tokens=False)["input_ids"]) == budget
    tag = r1_tokenizer.convert_tokens_to_ids("</think>")
    assert all(ids[-1] == tag and ids.count(tag) == 1 for ids, _, _ in heard)


def test_a_reply_that_ran_out_of_tokens_counts_as_wrong(asked):
    cut, right, wrong = predict(asked.run, Switchable(), Words(), "tuned")[2:]
    assert (cut["finished"], cut["correct"]) == (False, False)
    assert (right["choice"], right["correct"]) == (right["answer_idx"], True)
    assert wrong["choice"] is not None
    assert wrong["correct"] is False


@pytest.fixture
def evaluated(asked, monkeypatch):
    (asked.run / "adapter").mkdir()
    monkeypatch.setattr(evaluation, "load_tokenizer", lambda settings: Words())
    monkeypatch.setattr(evaluation, "load_with_adapter", lambda config, adapter: Switchable())
    return asked.run


def test_evaluating_leaves_both_sides_replies_and_the_metrics_of_them(evaluated):
    metrics = evaluate(evaluated)
    sides = [read_jsonl(evaluated / f"evaluation/predictions.{side}.jsonl") for side in ("base", "tuned")]
    assert read_json(evaluated / "evaluation/metrics.json") == metrics
    between = read_jsonl(evaluated / "evaluation/predictions.strength.jsonl")
    assert [(row["strength"], row["id"]) for row in between] == [
        (0.5, row["id"]) for row in sides[0][:3]
    ]  # both rows, and of three questions one
    assert summarise(*sides, evaluated.config.seed, between={0.5: between}) == metrics
    assert metrics["validation"]["paired"]["nll_delta"] == 0.0  # -1 and +1
    assert metrics["tasks"]["sample"]["tuned"]["truncated"] == pytest.approx(1 / 3)
    assert sorted(path.name for path in (evaluated / "evaluation").iterdir()) == [
        ".replies.base.jsonl",
        ".replies.strength-0.5.jsonl",
        ".replies.tuned.jsonl",
        "metrics.json",
        "predictions.base.jsonl",
        "predictions.strength.jsonl",
        "predictions.tuned.jsonl",
        "tasks",
    ]


def test_what_03_flagged_is_left_out_of_a_second_figure(evaluated):
    first = choice_questions(["sample"])["sample"][0].id
    write_json(evaluated / "data/report.json", {"overlap": {"sample": {"flagged": [first]}}})
    flagged = evaluate(evaluated)["tasks"]["sample"]["flagged"]
    assert (flagged["n"], flagged["without"]["n"]) == (1, 2)


def test_replies_are_kept_for_one_side_and_one_adapter(asked):
    weights = asked.run / "adapter/adapter_model.safetensors"
    weights.parent.mkdir()
    kept = {}
    for adapter in (b"one", b"two"):
        weights.write_bytes(adapter)
        for side in ("base", "tuned"):
            predict(asked.run, Switchable(), Words(), side)
            kept[side, adapter] = (asked.run / f"evaluation/.replies.{side}.jsonl").read_text()
        for share in (0.25, 0.5):
            predict_between(asked.run, Switchable(), Words(), share)
            kept[share, adapter] = (asked.run / f"evaluation/.replies.strength-{share}.jsonl").read_text()
    assert kept["base", b"one"] == kept["base", b"two"]
    assert len(set(kept.values())) == 7


def test_an_evaluation_that_stops_leaves_the_older_one_whole(evaluated, monkeypatch):
    evaluate(evaluated)
    folder = evaluated / "evaluation"
    before = {path.name: path.read_bytes() for path in folder.glob("*.*")}

    def stop(run, model, tokenizer, side):
        if side == "tuned":
            raise RuntimeError("out of memory")
        return []

    monkeypatch.setattr(evaluation, "predict", stop)
    with pytest.raises(RuntimeError):
        evaluate(evaluated)
    assert {path.name: path.read_bytes() for path in folder.glob("*.*")} == before


def test_without_an_adapter_the_stage_that_makes_it_is_named(tmp_path):
    with pytest.raises(InputError, match="has no adapter yet: run 04_lora_training first"):
        evaluate(Run(tmp_path, Config.resolve("smoke")))


# Side by side ----------------------------------------------------------------------------------------------------


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


def test_an_example_shows_both_replies_and_says_when_there_is_none():
    pairs = side_by_side(
        [unseen(0, 1.0, True, True, 1, reply="base thought</think>base answer")],
        [unseen(0, 2.0, False, True, 1, reply="tuned thought</think>tuned answer")],
    )
    shown = example(pairs, "worse")
    places = [
        shown.index(text) for text in ("Base model", "base thought", "base answer", "Tuned model", "tuned answer")
    ]
    assert places == sorted(places)
    assert "better" in example(pairs, "better")
    assert "base answer" not in example(pairs, "better")


# Multiple-choice questions ---------------------------------------------------------------------------------------

GOOD = {"id": "q1", "question": "Which drug?", "options": LETTERS, "answer_idx": "C"}


@pytest.fixture
def file(tmp_path):
    def write(*rows, name="mine.jsonl", blank=""):
        path = tmp_path / name
        write_text(path, blank + "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return str(path)

    return write


def refused(*sources, limit=None) -> str:
    with pytest.raises(InputError) as error:
        choice_questions(list(sources), limit)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real questions in ../shared/data are not here")
def test_the_real_question_files_are_read_whole():
    names = {"medqa_dev_4opt_600": 600, "medmcqa_dev_600": 600, "pubmedqa_pqal_train_500": 500}
    tasks = choice_questions([str(SHARED / f"{name}.jsonl") for name in names])
    assert {name: len(questions) for name, questions in tasks.items()} == names
    pubmed = tasks["pubmedqa_pqal_train_500"]
    assert all(q.context and q.as_prompt().startswith(q.context) for q in pubmed)
    for questions in tasks.values():
        assert all(q.answer_idx in q.options for q in questions)
        assert len({q.id for q in questions}) == len(questions)


def test_the_packaged_questions_are_sixty_with_four_options_each():
    questions = choice_questions(["sample"])["sample"]
    assert len(questions) >= 60
    assert len({q.id for q in questions}) == len({q.question for q in questions}) == len(questions)
    assert all(list(q.options) == list("ABCD") and len(set(q.options.values())) == 4 for q in questions)
    # No letter may be a good guess.
    counts = [sum(q.answer_idx == letter for q in questions) for letter in "ABCD"]
    assert max(counts) <= 0.35 * len(questions)
    assert not {q.question for q in questions} & set(baseline_questions())


def test_a_prompt_holds_context_question_options_and_how_to_answer():
    question = ChoiceQuestion(**GOOD, context="An abstract.")
    prompt = question.as_prompt()
    ending = "End with one line: The answer is (A), (B), (C) or (D)."
    parts = ["An abstract.", "Which drug?", "A. Aspirin\nB. Heparin\nC. Warfarin\nD. Dabigatran", ending]
    assert [prompt.index(part) for part in parts] == sorted(prompt.index(part) for part in parts)
    assert prompt.endswith(ending)
    assert ChoiceQuestion(**GOOD).as_prompt() == prompt.removeprefix("An abstract.\n\n")
    assert extract_choice(f"</think>{prompt}", GOOD["options"]) is None  # a reply that copies it answers nothing


def test_a_file_is_a_task_named_by_its_stem_and_cut_to_the_limit(file):
    path = file(GOOD, {**GOOD, "id": "q2"}, {**GOOD, "id": "q3"}, name="my.set.jsonl")
    assert [q.id for q in choice_questions([path], 2)["my.set"]] == ["q1", "q2"]
    both = choice_questions(["sample", path])
    assert list(both) == ["sample", "my.set"]
    assert "'my.set'" in refused(path, path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"answer_idx": "E"}, "'E' is not among the options A, B, C, D"),
        ({"answer_idx": "c"}, "'c' is not among the options"),
        ({"answer_idx": None}, "answer_idx"),
        ({"question": ""}, "question"),
        ({"question": None}, "question"),
        ({"id": ["q2"]}, "id: list instead of text or a number"),
        ({"id": "a\ud800"}, "id: half a character"),
        ({"options": {"A": "a\udfff", "B": "b"}}, "options.A: half a character"),
        ({"options": {"A": "one"}, "answer_idx": "A"}, "options"),
        ({"options": ["one", "two"], "answer_idx": "three"}, "'three' is not among the options A, B"),
        ({"options": ["one", "two"], "answer_idx": 1}, "answer_idx 1 may count from 0 or from 1"),
        ({"options": ["1", "2", "3"], "answer_idx": 3}, "answer_idx 3 may count from 0 or from 1"),
        ({"options": ["one", "one", "two"], "answer_idx": "one"}, "'one' is the text of A and B: give the letter"),
        ({"options": "one, two"}, "options"),
        ({"options": {"A": "one", "B": 2.5}}, "options.B"),
        ({"options": {"1": "one", "2": "two"}, "answer_idx": "1"}, "letters from A to Z, not '1', '2'"),
        ({"options": {"A": "one", "a": "two"}, "answer_idx": "A"}, "distinct letters"),
        ({"options": {"A)": "one", "B)": "two"}, "answer_idx": "A)"}, "letters from A to Z"),
    ],
)
def test_a_bad_question_is_named_with_its_file_and_line(file, change, says):
    path = file(GOOD, "", {**GOOD, "id": "q2", **change}, blank="\n\n")  # blank lines count as lines
    message = refused(path)
    assert message.startswith(f"{path} line 5: ")
    assert says in message


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "holds no questions"),
        (b"\n \n", "holds no questions"),
        (b'{"id": "q1"\n', "line 1: not JSON"),
        (json.dumps(GOOD).encode() + b"\n\n{oops}\n", "line 3: not JSON"),
        (b"\xff\xfe{}", "not UTF-8 (byte 0)"),
        (b"[1, 2]\n", "1: int instead of an object"),
        (b'"text"\n', "line 1: str instead of an object"),
    ],
)
def test_a_bad_file_of_questions_is_named(tmp_path, content, says):
    (tmp_path / "bad.jsonl").write_bytes(content)
    message = refused(str(tmp_path / "bad.jsonl"))
    assert "bad.jsonl" in message
    assert says in message


def test_a_file_of_questions_that_is_not_there():
    assert "no_such_file.jsonl" in refused("no_such_file.jsonl")


def test_a_question_after_the_limit_is_checked_too(file):
    assert "line 2" in refused(file(GOOD, {**GOOD, "id": []}), limit=1)


def test_no_id_may_stand_twice_in_a_file(file):
    path = file(GOOD, "", {**GOOD, "id": "q2"}, GOOD)
    message = refused(path, limit=1)
    assert message.startswith(f"{path} line 4: the id 'q1' is that of line 1 too; give each question one of its own")
    assert "the id '2' is that of line 1" in refused(file({**GOOD, "id": 2}, {**GOOD, "id": None}))


def test_control_characters_of_a_question_become_spaces(file):
    [question] = choice_questions([file({**GOOD, "question": "Which\x0cdrug\x13?\n", "context": "a\x85b"})])["mine"]
    assert (question.question, question.context) == ("Which drug ?\n", "a b")


def test_ids_may_be_numbers_or_missing(file):
    bare = {key: value for key, value in GOOD.items() if key != "id"}
    path = file({**GOOD, "id": 70}, {**GOOD, "id": 0.5}, {**GOOD, "id": None}, "", {**GOOD, "id": ""}, bare)
    assert [q.id for q in choice_questions([path])["mine"]] == ["70", "0.5", "3", "5", "6"]


@pytest.mark.parametrize(
    ("options", "answer", "letter"),
    [
        (["Aspirin", "Heparin"], "B", "B"),
        (["Aspirin", "Heparin"], "Heparin", "B"),
        ({"A": "Aspirin", "B": "Heparin"}, "Heparin", "B"),
        ({"A": "B", "B": "A"}, "A", "A"),
        ([5, 10, 20], 20, "C"),
        ({"A": 5, "B": 10, "C": None}, 10, "B"),
    ],
)
def test_options_may_be_a_list_and_the_answer_an_options_text(file, options, answer, letter):
    [question] = choice_questions([file({**GOOD, "options": options, "answer_idx": answer})])["mine"]
    assert question.answer_idx == letter
    texts = options if isinstance(options, list) else [text for text in options.values() if text is not None]
    assert question.options == dict(zip("ABC", map(str, texts), strict=False))


def test_odd_line_separators_inside_a_question_are_kept(file):
    path = file(json.dumps({**GOOD, "question": "a\u2028b\u0085c"}, ensure_ascii=False))
    assert choice_questions([path])["mine"][0].question == "a\u2028b c"  # U+0085 is a control character


# index.html and the model card -----------------------------------------------------------------------------------

MACHINE = machine.Machine(system="Test machine", cpu_cores=2, memory_gib=8.0, disk_free_gib=50.0)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run folder in which nothing has run yet."""
    monkeypatch.setattr(machine, "describe_machine", lambda: MACHINE)
    return open_run("smoke", tmp_path / "a run")


def fill(run, base=BASE, tuned=TUNED):
    """Every stage's results as the stages would leave them, by hand."""
    metrics = summarise(base, tuned, SEED, {"medqa": ["medqa-1"], "other": []}, {0.5: tuned})
    edges = [0, 256, 512]
    tokens = {"histogram": {"edges": edges, "train": [12, 3], "validation": [1, 1], "test": [0, 1]}}
    splits = {"train": 1501, "validation": 37, "test": 41}
    provenance = {"source": "rows", "revision": "0a1b2c", "rows": 1579, "fingerprint": "f"}
    write_json(run / "data/report.json", {"provenance": provenance, "splits": splits, "tokens": tokens})
    write_jsonl(run / "training/log.jsonl", [{"step": 0, "validation_nll": 3.5}, {"step": 1, "loss": 3.25}])
    training = {"steps": 4, "tokens_per_second": 115.4, "peak_memory_gib": 1.26}
    write_json(run / "training/metrics.json", {**training, "validation_nll": {"before": 3.5, "after": 3.25}})
    write_jsonl(run / "evaluation/predictions.base.jsonl", base)
    write_jsonl(run / "evaluation/predictions.tuned.jsonl", tuned)
    write_json(run / "evaluation/metrics.json", metrics)
    write_json(run / "export/report.json", {"files": [{"name": "model-q8_0.gguf", "mib": 138.4}]})
    write_text(run / "export/model-q8_0.gguf", "")
    write_json(run / "stages.json", {name: {"inputs": "x", "seconds": 7.0 + i} for i, name in enumerate(STAGES)})
    for name in STAGES:
        write_text(run / f"notebooks/{name}.html", "")
    return metrics


class Page(HTMLParser):
    """The texts of a page's cells and every address that it refers to."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.addresses, self.tags, self._cell = [], [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("href", "src", "srcset", "action", "data")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._cell = True

    def handle_endtag(self, tag):
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data):
        if self._cell:
            self.rows[-1][-1] += data


def figures_of(metrics):
    """What a reader must find, from metrics.json: row by row the base's, the tuned's and the difference's figures."""
    unseen = metrics["validation"]
    rows = []
    for base, tuned, delta, interval in (
        (unseen["base"]["nll"], unseen["tuned"]["nll"], *unseen["paired"].values()),
        *(tuple(part.values())[1:] for part in unseen["parts"].values()),
    ):
        spread = "{:+.3f} to {:+.3f}".format(*interval) if interval else "too few rows for an interval"
        rows.append([f"{base:.3f}", f"{tuned:.3f}", f"{delta:+.3f} ({spread})"])
    for key in ("closed", "finished"):
        base, tuned = (unseen[side][key] for side in ("base", "tuned"))
        interval = unseen["form"][key]["delta_ci95"]
        spread = "{:+.1f} to {:+.1f}".format(*(100 * end for end in interval)) if interval else rows[0][2][8:-1]
        rows.append([f"{base:.0%}", f"{tuned:.0%}", f"{100 * (tuned - base):+.1f} points ({spread})"])
    medqa, other = metrics["tasks"].values()
    for task in (medqa, medqa["flagged"]["without"], other):
        low, high = (100 * end for end in task["paired"]["delta_ci95"])
        difference = f"{100 * task['paired']['delta']:+.1f} points ({low:+.1f} to {high:+.1f})"
        rows.append([f"{task[side]['accuracy']:.1%}" for side in ("base", "tuned")] + [difference])
    return rows


def test_there_is_no_headline_before_there_are_metrics(run):
    assert headline(run) == []


def test_the_headline_holds_the_figures_of_the_metrics(run):
    metrics = fill(run)
    rows = headline(run)
    assert [list(row[1:]) for row in rows] == figures_of(metrics)
    assert rows[0][1:] == ("2.500", "2.300", "-0.200 (too few rows for an interval)")
    assert "2 unseen rows" in rows[0][0]
    assert "medqa (n=4, chance 27%)" in rows[5][0]
    assert "without 1 flagged as like training rows (n=3)" in rows[6][0]
    metrics = fill(run, BASE[:2] * 3 + BASE[2:], TUNED[:2] * 3 + TUNED[2:])
    rows = headline(run)
    assert [list(row[1:]) for row in rows] == figures_of(metrics)
    assert rows[0][1:] == ("2.500", "2.300", "-0.200 (-0.545 to +0.145)")


def test_the_index_of_an_empty_run_says_what_is_to_come(run):
    text = write_index(run).read_text(encoding="utf-8")
    page = Page(text)
    assert "Did it help?" not in text
    assert "img" not in page.tags
    assert page.addresses == ["run.yaml"]
    assert [row[0].strip() for row in page.rows[1:]] == [f"{name[:2]} {title}" for name, title in STAGES.items()]


def test_the_index_holds_the_figures_of_the_metrics_and_every_stage(run):
    metrics = fill(run)
    text = write_index(run).read_text(encoding="utf-8")
    page = Page(text)
    shown = [row[1:] for row in page.rows if len(row) == 4]
    assert shown == [["base", "tuned", "difference (95% interval)"], *figures_of(metrics)]
    for verdict in (metrics["validation"]["verdict"], *(task["verdict"] for task in metrics["tasks"].values())):
        assert html.escape(verdict, quote=False) in text.replace("&#39;", "'")
    stages = [" ".join(cell.split()) for row in page.rows if len(row) == 3 for cell in row[1:]][2:]
    assert stages[::2] == [
        "",
        "",
        "1501 training, 37 validation, 41 test rows",
        "4 steps, 115 tokens/s, peak 1.3 GiB, validation loss 3.500 to 3.250",
        "2 unseen rows, 7 multiple-choice questions",
        "model-q8_0.gguf (138 MiB)",
    ]
    assert stages[1::2] == ["7", "8", "9", "10", "11", "12"]
    assert page.tags.count("img") == 6


def test_the_index_needs_nothing_from_elsewhere_and_its_links_lead_somewhere(run):
    fill(run)
    text = write_index(run).read_text(encoding="utf-8")
    page = Page(text)
    pictures = [address for address in page.addresses if address.startswith("data:image/png;base64,")]
    links = [address for address in page.addresses if address not in pictures]
    assert len(links) >= 12
    assert [link for link in links if not (run / link).is_file()] == []
    without = re.sub(r'"data:image/png;base64,[A-Za-z0-9+/=]*"', "", text)
    assert not re.search(r"//[\w-]+\.|@import|url\(", without)
    assert not {"script", "iframe", "link", "object", "embed"} & set(page.tags)


@pytest.mark.parametrize("stages", [("data",), ("data", "training"), ("data", "training", "evaluation")])
def test_the_index_can_be_written_after_each_stage(run, stages):
    fill(run)
    for name in {"data", "training", "evaluation", "export"} - set(stages):
        for path in (run / name).iterdir():
            path.unlink()
    text = write_index(run).read_text(encoding="utf-8")
    assert ("1501 training" in text, "115 tokens/s" in text) == ("data" in stages, "training" in stages)
    assert ("Did it help?" in text) == ("evaluation" in stages)
    assert "138 MiB" not in text
    assert [link for link in Page(text).addresses if ":" not in link and not (run / link).is_file()] == []


def test_html_inside_values_is_shown_and_not_obeyed(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "describe_machine", lambda: MACHINE.model_copy(update={"gpu": "<u>GPU</u>"}))
    run = open_run("smoke", tmp_path / "<b>&run")
    evil = "<img src=x onerror=alert(1)>"
    base, tuned = ([{**row, "task": row["task"].replace("other", evil)} for row in rows] for rows in (BASE, TUNED))
    fill(run, base, tuned)
    text = write_index(run).read_text(encoding="utf-8")
    page = Page(text)
    assert page.tags.count("img") == 6  # the pictures
    assert not {"b", "u"} & set(page.tags)
    assert "x" not in page.addresses
    assert html.escape(evil) in text
    assert "&lt;b&gt;&amp;run" in text
    assert "&lt;u&gt;GPU" in text


def test_a_task_named_like_markup_is_text_in_a_card(tmp_path):
    from nbconvert.filters.markdown import markdown2html

    run = open_run("smoke", tmp_path / "run", {"data.source": str(file_of(tmp_path, "a`|<b>.jsonl"))})
    evil = "<img src=x onerror=alert(1)> | [x](javascript:alert(2)) ![](http://a.example/b.png) $\\frac$"
    base, tuned = ([{**row, "task": row["task"].replace("other", evil)} for row in rows] for rows in (BASE, TUNED))
    metrics = fill(run, base, tuned)
    write_model_card(run, run / "README.md")
    text = (run / "README.md").read_text(encoding="utf-8").split("---\n", 2)[2]
    page = Page(markdown2html(text))
    assert not {"img", "b", "script"} & set(page.tags)
    assert not [address for address in page.addresses if "javascript" in address or "a.example" in address]
    assert [row[1:] for row in card_rows(text.partition("## Results")[2])[2:]] == figures_of(metrics)
    write_index(run)  # nor is it a formula in a picture


def file_of(folder, name):
    write_jsonl(folder / name, [{"Question": "Q", "Complex_CoT": "C", "Response": "A"}])
    return folder / name


def card_rows(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_a_model_card_holds_the_figures_of_the_metrics(run):
    metrics = fill(run)
    write_model_card(run, run / "adapter/README.md")
    text = (run / "adapter/README.md").read_text(encoding="utf-8")
    results = card_rows(text.partition("## Results")[2])
    assert [row[1:] for row in results[2:]] == figures_of(metrics)
    assert metrics["validation"]["verdict"] in text
    assert f"medqa: {metrics['tasks']['medqa']['verdict']}" in text
    assert "1501 for training, 37 for validation, 41 held back" in text
    assert "revision `0a1b2c`" in text
    settings = {row[0].strip("`"): row[1] for row in card_rows(text.partition("## Results")[0])}
    wanted = {
        k: str(v) for k, v in run.config.flat().items() if k.split(".")[0] in ("seed", "model", "lora", "training")
    }
    assert settings.items() >= wanted.items()
    assert "Not for clinical use" in text
    assert "synthetic" in text
    assert "Not evaluated yet" not in text


def test_a_model_card_without_results_says_so(run):
    write_model_card(run, run / "adapter/README.md")
    text = (run / "adapter/README.md").read_text(encoding="utf-8")
    assert "Not evaluated yet." in text
    assert "Not for clinical use" in text
    for word in ("None", "Undefined", "{{", "{%"):
        assert word not in text.partition("## Results")[2]
    assert card_rows(text.partition("## Results")[2]) == []


def test_a_model_cards_head_is_the_hubs(run, tmp_path):
    import yaml

    write_model_card(run, run / "README.md")
    _, head, _ = (run / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    head = yaml.safe_load(head)
    assert (head["library_name"], head["language"], head["license"]) == ("peft", "en", "apache-2.0")
    embedded = open_run("laptop", tmp_path / "laptop")
    write_model_card(embedded, embedded / "README.md")
    _, head, _ = (embedded / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    assert yaml.safe_load(head)["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_a_users_own_file_is_named_in_the_card_without_its_folders(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "describe_machine", lambda: MACHINE)
    source = tmp_path / "secret folder/rows.jsonl"
    write_jsonl(source, [{"Question": "Q", "Complex_CoT": "C", "Response": "A"}])
    run = open_run("smoke", tmp_path / "run", {"data.source": str(source)})
    fill(run)
    write_model_card(run, run / "README.md")
    text = (run / "README.md").read_text(encoding="utf-8")
    assert "Source: `rows.jsonl`" in text
    assert "secret folder" not in text
    assert "synthetic" not in text


def test_an_evaluation_stopped_in_the_middle_ends_as_if_it_had_not_been(tmp_path, sample_rows, monkeypatch):
    """As after kill -9: what was kept is what had been flushed, and the last line may be torn."""
    changes = {"generation.temperature": 0.9, "tracking.wandb": "disabled"}
    decode, counts, limit = decoding.decode, [], 1000

    def counted(model, tokenizer, prompts, settings, seed, order, done, *more):
        counts.append(0)

        def one(i, tokens):
            if sum(counts) == limit:
                raise KeyboardInterrupt
            counts[-1] += 1
            done(i, tokens)

        decode(model, tokenizer, prompts, settings, seed, order, one, *more)

    monkeypatch.setattr("helpers.generation.decode", counted)

    def folder(name):
        run = open_run("smoke", tmp_path / name, changes)
        write_jsonl(run / "data/validation.jsonl", sample_rows[:4])
        torch.manual_seed(0)
        how = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
        get_peft_model(load_base(run.config), how).save_pretrained(run / "adapter")
        return run

    whole, stopped = folder("whole"), folder("stopped")
    evaluation.evaluate(whole)
    assert counts == [8, 8, 2]
    limit = 18 + 8 + 5
    with pytest.raises(KeyboardInterrupt):
        evaluation.evaluate(stopped)
    with open(stopped / "evaluation/.replies.tuned.jsonl", "a") as file:
        file.write("[7, [1, 2")
    limit = 1000
    evaluation.evaluate(stopped)
    assert counts == [8, 8, 2, 8, 5, 3, 2]
    sides = [f"predictions.{side}.jsonl" for side in ("base", "tuned", "strength")]
    for name in (*sides, "metrics.json", "tasks/sample.jsonl"):
        assert (stopped / "evaluation" / name).read_bytes() == (whole / "evaluation" / name).read_bytes()
    base, tuned = (read_jsonl(whole / f"evaluation/predictions.{side}.jsonl") for side in ("base", "tuned"))
    assert [(row["id"], row["question"]) for row in base] == [(row["id"], row["question"]) for row in tuned]
    assert [row["reply"] for row in base] != [row["reply"] for row in tuned]
