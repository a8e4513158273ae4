"""Measures beside accuracy by hand and by simulation; letters against one plain pass each."""

import warnings

import numpy as np
import pytest
import torch
from scipy.stats import norm
from tokenizers import Tokenizer
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import ByteLevel, Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from helpers.evaluation.calibration import accuracy_by_budget, accuracy_by_length, calibration, repetition_rate
from helpers.losses import letter_probabilities
from helpers.prompts.encoding import encode_prompt, encode_thought
from helpers.report import plots
from helpers.statistics import mean_interval, paired_difference, share_interval

OPTIONS = {"A": "Gentamicin", "B": "Ciprofloxacin", "C": "Ceftriaxone", "D": "Trimethoprim"}


def answered(tokens, correct, finished=True):
    return {"thinking_tokens": tokens, "correct": correct, "finished": finished}


def lettered(*probabilities, right):
    return {"letters": dict(zip("ABCD", probabilities, strict=False)), "answer_idx": right}


def believed(confidences, hits):
    """Rows of two letters, A the more probable one."""
    return [lettered(c, 1 - c, right="A" if hit else "B") for c, hit in zip(confidences, hits, strict=True)]


# ------------------------------------------------------------------------------------------- differences, repetition


def test_a_paired_difference_is_tuned_minus_base():
    found = paired_difference([1, 2, 3, 6, 3], [1, 1, 2, 2, 4])
    assert found.pop("delta_ci95") == pytest.approx(list(mean_interval([0, -1, -1, -4, 1])))
    assert found == {"n": 5, "base": 3.0, "tuned": 2.0, "delta": -1.0}
    shifted = paired_difference([0.1, 5.0, 9.0, 2.0, 3.0], [0.2, 5.1, 9.1, 2.1, 3.1])
    assert shifted["delta_ci95"] == pytest.approx([0.1, 0.1])  # pairs: the rows' own spread does not count
    assert paired_difference([False, True], [True, True])["delta"] == 0.5


@pytest.mark.parametrize("n", [1, 2, 4])
def test_a_paired_difference_of_few_rows_has_no_interval(n):
    assert paired_difference([1.0] * n, [2.0] * n)["delta_ci95"] is None


@pytest.mark.parametrize(("base", "tuned"), [([1, 2], [1]), ([1], [1, 2]), ([], []), ([1, None], [1, 2])])
def test_a_paired_difference_needs_the_same_rows_on_both_sides(base, tuned):
    with pytest.raises(ValueError, match="got"):
        paired_difference(base, tuned)


@pytest.mark.parametrize(
    ("text", "n", "rate"),
    [
        ("", 4, 0),
        ("one two three", 4, 0),
        ("one two three four", 4, 0),
        ("a a a a", 1, 0.75),
        ("a a a a a", 4, 0.5),  # two windows, one of them distinct
        ("a b a b a b", 2, 0.6),  # ab ba ab ba ab
        ("a b c a b c a b c", 4, 0.5),  # abca bcab cabc abca bcab cabc
        ("the  patient\nhas the patient has", 3, 0.25),  # white space of any kind; "The" would be another word
        ("The patient has the patient has", 3, 0),
    ],
)
def test_repetition_by_hand(text, n, rate):
    assert repetition_rate(text, n) == pytest.approx(rate)


def test_a_loop_comes_close_to_one():
    assert repetition_rate("so the answer is C " * 200) > 0.99


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
    for n, count in ((1, 1), (19, 1), (20, 2), (35, 3), (41, 4), (400, 4)):
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
    assert points[2]["ci95"] == list(share_interval(3, 4))
    assert accuracy_by_budget(rows[4:]) == accuracy_by_budget([]) == []
    [axes] = drawn(plots.accuracy_against_budget(points, points[1:]))
    labels = [
        f"{side}, {reading}" for side in ("base", "tuned") for reading in ("made to answer (n=4)", "as replied by then")
    ]
    assert sorted(legend(axes)) == sorted(labels)
    assert bars(axes, 0)[2] == pytest.approx(points[2]["ci95"])
    assert told_apart_in_grey(axes)


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
    assert calibration([lettered(0.25, 0.25, 0.25, 0.25, right="C")], seed=0)["brier"] == pytest.approx(0.75)
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


@pytest.mark.parametrize("n", [60, 200])
def test_calibrated_models_are_told_from_overconfident_ones(n, monkeypatch):
    monkeypatch.setattr("helpers.evaluation.calibration.RESAMPLES", 300)
    rng = np.random.default_rng(0)
    errors, expected, false_alarms, found = [], [], [], []
    for seed in range(100):
        confidence = rng.uniform(0.5, 1, n)
        fair = calibration(believed(confidence, rng.random(n) < confidence), seed)
        over = calibration(believed(confidence, rng.random(n) < confidence - 0.25), seed)
        errors.append(fair["ece"])
        expected.append(fair["ece_if_calibrated"])
        false_alarms.append(fair["ece"] > fair["ece_if_calibrated_p95"])
        found.append(over["overconfidence_ci95"][0] > 0 and over["ece"] > over["ece_if_calibrated_p95"])
    assert np.mean(errors) == pytest.approx(np.mean(expected), rel=0.08)
    assert np.mean(errors) > 0.5 * n**-0.5  # far from the 0 that is the truth
    assert np.mean(false_alarms) <= 0.12
    assert np.mean(found) > 0.8


# ----------------------------------------------------------------------------------------------------------- letters


@pytest.fixture(scope="module")
def opinionated(r1_tokenizer):
    """A random model whose letters' probabilities depend on what it reads."""
    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(r1_tokenizer), initializer_range=0.5, **sizes))
    return model.train()


LEAD = "\n\nThe answer is ("


@pytest.fixture(scope="module")
def asked(sample_rows, r1_tokenizer):
    """Token ids of prompts and thoughts of many lengths, the lead, and the letters."""
    prompts = [encode_prompt(r1_tokenizer, row["Question"][: 40 * i]) for i, row in enumerate(sample_rows[:6])]
    thoughts = [
        encode_thought(r1_tokenizer, row["Complex_CoT"][: 30 * (7 - i)]) for i, row in enumerate(sample_rows[:6])
    ]
    letters = [list(OPTIONS)] * 4 + [["A", "B"], list(OPTIONS)]
    return [([*p, *t], LEAD, each) for p, t, each in zip(prompts, thoughts, letters, strict=True)]


def plainly(model, tokenizer, ids, letters):
    """One row, without padding, positions or a shortened output."""
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, -1]
    return dict(zip(letters, logits[tokenizer.convert_tokens_to_ids(letters)].softmax(0).tolist(), strict=True))


@pytest.mark.parametrize("positions", [1, 200, 8192])
def test_letters_are_those_of_one_plain_pass_a_question(opinionated, asked, r1_tokenizer, monkeypatch, positions):
    monkeypatch.setattr("helpers.losses.POSITIONS", positions)
    seen = []
    watch = opinionated.register_forward_pre_hook(lambda _, __, named: seen.append(named["input_ids"].shape),
                                                  with_kwargs=True)  # fmt: skip
    try:
        found = letter_probabilities(opinionated, r1_tokenizer, asked)
    finally:
        watch.remove()
    lead = r1_tokenizer(LEAD, add_special_tokens=False)["input_ids"]
    for (ids, _, letters), probabilities in zip(asked, found, strict=True):
        assert probabilities == pytest.approx(plainly(opinionated, r1_tokenizer, [*ids, *lead], letters), abs=1e-5)
        assert sum(probabilities.values()) == pytest.approx(1)
    assert max(abs(found[0][letter] - found[1][letter]) for letter in OPTIONS) > 0.01
    assert opinionated.training  # as it was
    widths = [width for _, width in seen]
    assert widths == sorted(widths, reverse=True)
    assert all(rows == 1 or rows * width <= positions for rows, width in seen)
    assert (len(seen) == 6) == (positions == 1)


def fast(model, splitter):
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = splitter
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", eos_token="[END]")


@pytest.mark.parametrize("lead", ["The answer is (", "The answer is "])
def test_a_letter_that_is_a_token_of_its_own_is_told_by_its_second_token(lead):
    """Byte by byte: " A" is two tokens, of which only the second tells the letters apart."""
    alphabet = sorted(ByteLevel.alphabet())
    tokenizer = fast(BPE({c: i for i, c in enumerate(alphabet)}, []), ByteLevel(add_prefix_space=False))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), initializer_range=0.5, **sizes))
    [found] = letter_probabilities(model, tokenizer, [([5, 6], lead, list(OPTIONS))])
    text = tokenizer(lead, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([[5, 6, *text]])).logits[0, -1]
    expected = logits[[alphabet.index(letter) for letter in OPTIONS]].softmax(0)
    assert list(found.values()) == pytest.approx(expected.tolist(), abs=1e-5)
    assert model.training


def test_letters_that_are_one_token_have_no_probabilities(opinionated):
    """A vocabulary without letters, and one that knows only A: then B and C would pass for the same."""
    for words in (["The", "answer", "is"], ["The", "answer", "is", "A"]):
        vocabulary = {word: i for i, word in enumerate(["[UNK]", *words])}
        tokenizer = fast(WordLevel(vocabulary, unk_token="[UNK]"), Whitespace())
        assert letter_probabilities(opinionated, tokenizer, [([1], "The answer is ", list(OPTIONS))]) == [None]


def test_without_a_question_the_model_is_asked_nothing(r1_tokenizer):
    assert letter_probabilities(None, r1_tokenizer, []) == []


# ----------------------------------------------------------------------------------------------------------- figures

POINTS = [
    {"scale": s, "nll": 2 - s, "nll_ci95": [1.9 - s, 2.2 - s], "accuracy": 0.3, "accuracy_ci95": [0.2, 0.45]}
    for s in (1, 0, 0.5)
]


def drawn(figure):
    """The figure's panels, after a drawing that warned of nothing."""
    with warnings.catch_warnings(action="error"):
        assert figure._repr_png_().startswith(b"\x89PNG")
    return figure.axes


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def told_apart_in_grey(axes):
    """Base and tuned, by error bars, have their own markers and their own lines."""
    base, tuned = (container.lines[0] for container in axes.containers)
    return base.get_marker() != tuned.get_marker() and base.get_linestyle() != tuned.get_linestyle()


def bars(axes, side):
    """Low and high ends of one side's error bars."""
    [collection] = axes.containers[side].lines[2]
    return [tuple(segment[:, 1]) for segment in collection.get_segments()]


def test_the_nll_of_each_part_shows_both_sides_and_their_difference():
    parts = {name: paired_difference([2, 3, 4, 5, 6], values) for name, values in
             (("thinking", [1, 2.5, 3, 3, 3]), ("answer", [2.5, 3, 4.5, 5, 5]))}  # fmt: skip
    means, change = drawn(plots.nll_by_part(parts))
    assert legend(means) == ["base", "tuned"]
    assert [text.get_text() for text in means.get_yticklabels()] == ["thinking (n=5)", "answer (n=5)"]
    assert "nats a token" in means.get_xlabel()
    assert "95% interval" in change.get_xlabel()
    spans = [list(line.get_xdata()) for line in change.lines if len(line.get_xdata()) == 2]
    assert [part["delta_ci95"] in spans for part in parts.values()] == [True, True]
    markers = {line.get_label(): line.get_marker() for line in means.lines}
    assert markers["base"] != markers["tuned"]
    _, change = drawn(plots.nll_by_part({"answer": paired_difference([2, 3], [1, 2])}))  # too few for an interval
    assert [len(line.get_xdata()) for line in change.lines] == [1, 2]  # the difference, and the line at zero


def test_accuracy_against_length_shows_intervals_and_counts_what_was_cut():
    base = accuracy_by_length([answered(t, t < 25) for t in range(40)] + [answered(99, False, False)] * 3)
    tuned = accuracy_by_length([answered(2 * t, t % 2 == 0) for t in range(20)])
    [axes] = drawn(plots.accuracy_against_length(base, tuned))
    assert legend(axes) == ["base: 40 replies, 3 more cut off", "tuned: 20 replies, 0 more cut off"]
    assert "tokens" in axes.get_xlabel()
    assert "95% interval" in axes.get_ylabel()
    for side, found in enumerate((base, tuned)):
        ends = [end for each in bars(axes, side) for end in each]
        assert ends == pytest.approx([end for each in found["bins"] for end in each["ci95"]])
    assert told_apart_in_grey(axes)


def test_a_reliability_diagram_shows_both_sides_and_the_diagonal():
    hits = [True, True, False] * 20
    base, tuned = (calibration(believed(np.linspace(low, 1, 60), hits), 0) for low in (0.5, 0.8))
    [axes] = drawn(plots.reliability(base, tuned))
    assert any(list(line.get_xdata()) == list(line.get_ydata()) == [0, 1] for line in axes.lines)
    for side, found in (("base", base), ("tuned", tuned)):
        low, high = found["overconfidence_ci95"]
        told = f"{found['overconfidence']:+.2f} ({low:+.2f} to {high:+.2f})"
        assert f"{side} (n=60): {told}" in legend(axes)
    assert bars(axes, 1)[0] == pytest.approx(tuned["bins"][0]["ci95"])
    assert told_apart_in_grey(axes)
    [alone] = drawn(plots.reliability(None, tuned))
    assert len(legend(alone)) == 2


def test_a_strength_curve_has_a_band_in_each_panel_in_the_order_of_the_strength():
    nll, accuracy = drawn(plots.strength_curve(POINTS))
    assert "share of the adapter's strength" in accuracy.get_xlabel()
    assert "nats a token" in nll.get_ylabel()
    for axes, low, high in ((nll, 0.9, 2.2), (accuracy, 0.2, 0.45)):
        assert list(axes.lines[0].get_xdata()) == [0, 0.5, 1]
        [band] = axes.collections
        edges = band.get_paths()[0].vertices[:, 1]
        assert (edges.min(), edges.max()) == pytest.approx((low, high))
        assert legend(axes) == ["95% interval of the change", "mean"]
    assert nll.get_shared_x_axes().joined(nll, accuracy)
    few, _ = drawn(plots.strength_curve([point | {"nll_ci95": None} for point in POINTS]))
    assert (legend(few), list(few.collections)) == (["mean"], [])
    unknown = [point | {"accuracy": None, "accuracy_ci95": None} for point in POINTS]
    [nll] = drawn(plots.strength_curve(unknown))
    assert len(nll.collections) == 1
    assert "share of the adapter's strength" in nll.get_xlabel()
    [nothing] = drawn(plots.strength_curve([]))
    assert [text.get_text() for text in nothing.texts] == ["not measured"]


def test_figures_of_nothing_are_drawn_without_a_warning():
    nothing = accuracy_by_length([])
    for figure in (
        plots.nll_by_part({}),
        plots.accuracy_against_length(nothing, nothing),
        plots.accuracy_against_budget([], []),
        plots.reliability(None, None),
        plots.strength_curve([]),
        plots.accuracy({}),
        plots.loss_curve([]),
    ):
        drawn(figure)
