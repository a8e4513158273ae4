"""Stage 05's figures: what they show, in colour and in grey."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from evaluated_rows import believed

from helpers.evaluation.metrics import calibration
from helpers.report import drawings, plots
from helpers.scoring.statistics import paired_difference


def drawn(figure):
    """The figure's panels, after a drawing that warned of nothing."""
    with warnings.catch_warnings(action="error"):
        assert figure.png().startswith(b"\x89PNG")
    return figure.axes


def legend(axes):
    found = axes.get_legend() or axes.figure.legends[0]
    return [text.get_text() for text in found.get_texts()]


def bars(axes):
    """Low and high ends of a panel's error bars."""
    [container] = axes.containers
    return [tuple(segment[:, 1]) for segment in container.lines[2][0].get_segments()]


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


def test_a_reliability_diagram_has_a_panel_for_each_side_with_its_bars_and_the_diagonal():
    hits = [True, True, False] * 20
    sides = [calibration(believed(np.linspace(low, 1, 60), hits)) for low in (0.5, 0.8)]
    panels = drawn(plots.reliability(*sides))
    for axes, side, found in zip(panels, ("base", "tuned"), sides, strict=True):
        assert list(axes.lines[0].get_xdata()) == list(axes.lines[0].get_ydata()) == [0, 1]
        low, high = found["overconfidence_ci95"]
        told = f"{found['overconfidence']:+.2f} ({low:+.2f} to {high:+.2f})"
        assert axes.get_title().startswith(f"{side} (n=60)")
        assert axes.get_title().endswith(told)
        assert bars(axes)[0] == pytest.approx(found["bins"][0]["ci95"])
    markers = {axes.containers[0].lines[0].get_marker() for axes in panels}
    assert len(markers) == 2
    nothing, alone = drawn(plots.reliability(None, sides[1]))
    assert "no letter" in nothing.get_title()
    assert len(alone.containers) == 1


def test_reading_shows_what_chance_would_score_where_the_figures_have_it():
    """Those of runs before this release have not."""
    side = {"replied": {"accuracy": 0.5, "ci95": [0.3, 0.7]}, "n": 9}
    for more, lines in (({}, []), ({"chance": 0.25}, [[0.25, 0.25]])):
        [axes] = drawn(plots.reading({"tuned": {"open": side | more}, "base": {}}))
        assert [list(line.get_xdata()) for line in axes.lines if line.get_linestyle() == ":"] == lines
        assert ("chance" in legend(axes)) == bool(lines)


def test_markers_on_an_axis_are_whole():
    """Each figure with a value at the end of its axis."""
    nothing, all_of_it = ({"accuracy": share, "ci95": [share, share], "share": share} for share in (0, 1))
    figures = {
        "loss": plots.loss_curve([{"step": 0, "validation_nll": 4.0}, {"step": 9, "validation_nll": 3.0}]),
        "accuracy": plots.accuracy({"a": {"base": nothing, "tuned": all_of_it, "chance": 0.25, "n": 9}}),
        "hits": plots.hits({"a": {"hits": dict.fromkeys((1, 5, 10), nothing), "n": 9}}),
        "reading": plots.reading({side: {"closed": {"replied": nothing, "n": 9}} for side in ("base", "tuned")}),
    }
    for name, figure in figures.items():
        [axes] = drawn(figure)
        marked = [line for line in axes.lines if line.get_marker() != "None"]
        assert marked, name
        assert not any(line.get_clip_on() for line in marked), name


def test_no_dot_of_the_paired_rows_is_covered():
    [axes] = drawn(plots.paired_nll([3, 4, 5], [2, 3, 3.5]))
    assert list(axes.texts) == []
    assert "below the line" in axes.get_title()


def test_figures_of_nothing_are_drawn_without_a_warning():
    for figure in (
        plots.nll_by_part({}),
        plots.reliability(None, None),
        plots.accuracy({}),
        plots.loss_curve([]),
    ):
        drawn(figure)


def test_a_token_strip_has_a_box_for_each_piece_and_breaks_lines_at_line_ends_and_the_width():
    pieces = [("Why?\n", "prompt"), ("<think>", "<think>"), ("a" * 8, "thought"), ("$x$ 日", "answer"), ("</s>", "end")]
    figure = drawings.token_strip(pieces, width=10)
    [axes] = drawn(figure)
    assert [(patch.get_x(), patch.get_y()) for patch in axes.patches] == [(0, 0), (0, 1), (0, 2), (0, 3), (5, 3)]
    assert "".join(text.get_text() for text in axes.texts) == "Why?↵<think>aaaaaaaa$x$ □</s>"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [kind for _, kind in pieces]
    drawn(drawings.token_strip([]))


def test_a_label_strip_is_coloured_where_a_token_is_trained():
    tokenizer = SimpleNamespace(decode=lambda ids: "abc"[ids[0]])
    figure = drawings.label_strip([0, 1, 2], [-100, 1, 2], tokenizer)
    [axes] = drawn(figure)
    grey, *trained = [patch.get_facecolor() for patch in axes.patches]
    assert trained[0] == trained[1] != grey
    counts = ["label -100, not trained (1 tokens)", "trained (2 tokens)"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == counts


def test_the_pipeline_joins_its_steps():
    [axes] = drawn(drawings.pipeline({"01": ("looks", "run.yaml"), "02": ("asks", "baseline/")}))
    assert {text.get_text() for text in axes.texts} >= {"01", "looks", "run.yaml", "02", "asks", "baseline/"}


def test_a_notebook_gets_the_words_of_a_figure_for_who_does_not_see_it():
    image, more = plots.loss_curve([{"step": 1, "loss": 2.0}, {"step": 2, "validation_nll": 1.0}])._repr_png_()
    assert image.startswith(b"\x89PNG")
    assert more == {
        "alt": "loss (nats a token); optimizer step; training, each step; training, mean of 1 steps; validation"
    }
    strip = drawings.token_strip([("Why?", "prompt"), ("So.", "answer")])._repr_png_()[1]["alt"]
    assert "Why?" in strip
    assert "So." in strip


def test_the_live_curve_is_not_drawn_for_each_step_and_is_whole_at_the_end(monkeypatch):
    drawn = []
    handle = SimpleNamespace(update=lambda figure: drawn.append(len(figure.axes[0].lines[0].get_xdata())))
    monkeypatch.setattr("IPython.display.display", lambda *_, **__: handle)
    log, curve = [], plots.LiveCurve()
    for step in range(1, 31):
        log.append({"step": step, "loss": 1 / step})
        curve(log)
    assert len(drawn) < 3
    curve.draw(log)
    assert drawn[-1] == 30
    later = plots.time.monotonic() + 6
    monkeypatch.setattr("time.monotonic", lambda: later)
    curve(log[:7])
    assert drawn[-1] == 7
