"""Every figure, drawn from the files in the run folder, so that notebooks and index.html show the same ones.

Colours are Okabe and Ito's, which colour-blind readers can distinguish; each series also has its own marker or place.
"""

import io
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

BASE, TUNED, ACCENT, GREY = "#0072B2", "#D55E00", "#009E73", "#767676"
DEPTHS = ("#7CCFB1", ACCENT, "#00543D")  # of a list of hits, light to dark
GRID = {"color": "#888888", "alpha": 0.28, "linewidth": 0.6}  # as faint on a dark ground as on white
INTERVAL: dict[str, Any] = {"linewidth": 3, "alpha": 0.45, "solid_capstyle": "butt"}  # no longer than the interval
WHOLE: dict[str, Any] = {"clip_on": False, "zorder": 3}  # for markers that may lie on an axis, which would halve them
STYLES: dict[str, dict[str, str]] = {
    "base": {"color": BASE, "marker": "o", "linestyle": "-"},
    "tuned": {"color": TUNED, "marker": "s", "linestyle": "--"},
}


class Picture(Figure):
    """A figure that a notebook shows by itself, without pyplot and its global state.

    `alt` is for who does not see it; without it the words in the figure are.
    """

    alt = ""

    def png(self) -> bytes:
        """The image file."""
        image = io.BytesIO()
        self.savefig(image, format="png")
        return image.getvalue()

    def _repr_png_(self) -> tuple[bytes, dict[str, str]]:
        words = [self.get_supxlabel()]
        for axes in self.axes:
            words += [axes.get_title(), axes.get_ylabel(), axes.get_xlabel()]
            words += [*axes.get_legend_handles_labels()[1], *(text.get_text() for text in axes.texts)]
        return self.png(), {"alt": " ".join((self.alt or "; ".join(filter(None, words))).split())[:500]}


def new_figure(width: float = 7, height: float = 3.2, **panels: Any) -> tuple[Picture, Any]:
    """A figure and its axes, one or, with arguments of `Figure.subplots`, an array of them."""
    figure = Picture(figsize=(width, height), dpi=110, layout="constrained")
    axes = figure.subplots(**panels)
    for each in np.ravel(axes):
        each.spines[["top", "right"]].set_visible(False)
        each.grid(axis="y", **GRID)
        each.set_axisbelow(True)
    return figure, axes


def _grid_along_x(axes: Axes) -> None:
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", **GRID)


def _percent_along_x(axes: Axes) -> None:
    _grid_along_x(axes)
    axes.xaxis.set_major_formatter(PercentFormatter(1))


def _chance_line(axes: Axes, y: int, chance: float) -> None:
    axes.plot([chance] * 2, [y - 0.32, y + 0.32], color=GREY, linestyle=":", label=None if y else "chance")


def token_lengths(report: Mapping[str, Any], max_length: int) -> Picture:
    """Rows by length in tokens (prompt, reasoning and answer together), stacked by split, up to the limit."""
    figure, axes = new_figure()
    histogram = report["tokens"]["histogram"]
    edges = np.array(histogram["edges"])
    below = np.zeros(len(edges) - 1)
    for split, colour in (("train", BASE), ("validation", TUNED), ("test", ACCENT)):
        counts = np.array(histogram[split])
        axes.bar(edges[:-1], counts, np.diff(edges), bottom=below, align="edge", color=colour, label=split)
        below += counts
    axes.axvline(max_length, color=GREY, linestyle="--")
    axes.annotate("model.max_length ", (max_length, below.max()), ha="right", va="top", color=GREY)
    axes.set(xlabel="tokens a row: prompt, reasoning and answer", ylabel="rows", xlim=(0, max_length * 1.02))
    axes.legend(frameon=False, loc="upper left")
    return figure


def loss_curve(log: Sequence[Mapping[str, Any]]) -> Picture:
    """Training loss by step, smoothed over five steps, and the validation loss where it was measured."""
    figure, axes = new_figure()
    train = [(row["step"], row["loss"]) for row in log if "loss" in row]
    checked = [(row["step"], row["validation_nll"]) for row in log if "validation_nll" in row]
    if train:
        steps, losses = np.array(train).T
        axes.plot(steps, losses, color=BASE, alpha=0.3, linewidth=1, label="training, each step")
        width = min(5, len(losses))
        smooth = np.convolve(losses, np.ones(width) / width, mode="valid")
        axes.plot(steps[width - 1 :], smooth, color=BASE, label=f"training, mean of {width} steps")
    if checked:
        size = 6 if len(checked) <= 20 else 3  # else the markers become one thick line
        axes.plot(*np.array(checked).T, "o--", color=TUNED, markersize=size, label="validation", **WHOLE)
    axes.set(xlabel="optimizer step", ylabel="loss (nats a token)")
    axes.set_xlim(left=0)
    if train or checked:
        axes.legend(frameon=False)
    return figure


def paired_nll(base: Sequence[float], tuned: Sequence[float]) -> Picture:
    """One dot a validation row: its NLL under the base model against under the tuned one."""
    figure, axes = new_figure(4.6, 4.2)
    axes.grid(axis="x", **GRID)
    low, high = min(*base, *tuned), max(*base, *tuned)
    edge = (high - low) * 0.08 + 1e-6
    limits = (low - edge, high + edge)
    axes.plot(limits, limits, color=GREY, linestyle="--", linewidth=1)
    axes.scatter(base, tuned, color=TUNED, alpha=0.8, s=28)
    axes.set_title("below the line: a lower loss after tuning", fontsize="medium", color=GREY)
    axes.set(xlabel="base model, nats a token", ylabel="tuned model, nats a token", xlim=limits, ylim=limits)
    axes.set_aspect("equal")
    return figure


def accuracy(rows: Mapping[str, Any]) -> Picture:
    """Accuracy of base and tuned with 95% intervals, and what chance would score: a row for each task, say."""
    figure, axes = new_figure(7, 1.3 + 0.7 * len(rows))
    _percent_along_x(axes)
    for y, row in enumerate(rows.values()):
        for side, height in (("base", y - 0.14), ("tuned", y + 0.14)):
            if found := row.get(side):
                colour, marker = STYLES[side]["color"], STYLES[side]["marker"]
                axes.plot(found["ci95"], [height] * 2, color=colour, **INTERVAL)
                axes.plot(found["accuracy"], height, marker, color=colour, label=side if y == 0 else None, **WHOLE)
        if row["chance"] is not None:
            _chance_line(axes, y, row["chance"])
    axes.set_yticks(range(len(rows)), [f"{_as_text(name)} (n={row['n']})" for name, row in rows.items()])
    axes.set(xlabel="accuracy, with 95% interval", xlim=(0, 1), ylim=(len(rows) - 0.4, -0.6))
    if rows:
        figure.legend(frameon=False, ncols=3, loc="outside upper left")
    return figure


def reading(sides: Mapping[str, Any]) -> Picture:
    """Accuracy closed book and with passages; 07's `reading` of a task."""
    rows: dict[str, Any] = {}
    for side, conditions in sides.items():
        for name, found in conditions.items():
            about = {"n": found["n"], "chance": found.get("chance")}  # which the figures of older runs lack
            rows.setdefault(name, about)[side] = found["replied"]
    return accuracy(rows)


def nll_by_part(parts: Mapping[str, Mapping[str, Any]]) -> Picture:
    """Base and tuned NLL of each part of the same rows, and their paired difference with its 95% interval.

    `parts` maps a name ("thinking", "answer") to what `statistics.paired_difference` returns.
    """
    figure, (means, change) = new_figure(7.6, 1.6 + 0.5 * len(parts), ncols=2, sharey=True)
    for y, part in enumerate(parts.values()):
        means.plot([part["base"], part["tuned"]], [y, y], color=GREY, linewidth=1)
        for side in STYLES:
            means.plot(part[side], y, **(STYLES[side] | {"linestyle": "none"}), label=side if y == 0 else None)
        if part["delta_ci95"]:  # None of too few rows
            change.plot(part["delta_ci95"], [y, y], color=ACCENT, **(INTERVAL | {"marker": "|", "markersize": 11}))
        change.plot(part["delta"], y, "D", color=ACCENT, markersize=3)
    change.axvline(0, color=GREY, linestyle="--", linewidth=1)
    for axes in (means, change):
        _grid_along_x(axes)
        axes.locator_params(axis="x", nbins=5)
    means.set_yticks(range(len(parts)), [f"{name} (n={part['n']})" for name, part in parts.items()])
    means.set(xlabel="NLL, nats a token", ylim=(len(parts) - 0.4, -0.6))
    change.set(xlabel="tuned minus base, nats a token,\nwith 95% interval; left of 0 is better")
    if parts:
        figure.legend(frameon=False, ncols=2, loc="outside upper left")
    return figure


def reliability(base: Mapping[str, Any] | None, tuned: Mapping[str, Any] | None) -> Picture:
    """Accuracy with 95% interval by the mean confidence of a bin, from `calibration.calibration`, which may be None.

    A panel for each side: in one, the intervals of bins of like confidence would lie over each other.
    """
    figure, panels = new_figure(7.6, 4.4, ncols=2, sharex=True, sharey=True)
    for axes, (side, found) in zip(panels, {"base": base, "tuned": tuned}.items(), strict=True):
        axes.grid(axis="x", **GRID)
        axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="perfectly calibrated")
        if found:
            gap, (low, high) = found["overconfidence"], found["overconfidence_ci95"]
            told = f"{side} (n={found['n']}), confidence minus\naccuracy: {gap:+.2f} ({low:+.2f} to {high:+.2f})"
            x, y, intervals = ([each[key] for each in found["bins"]] for key in ("confidence", "accuracy", "ci95"))
            alone = STYLES[side] | {"linestyle": "none"}  # a line from group to group would look like a trend
            axes.errorbar(x, y, abs(np.array(intervals).T - y), **alone, capsize=3, elinewidth=1)
        else:
            told = f"{side}: no letter could be had"
        axes.set_title(told, fontsize="medium")
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    panels[0].set_ylabel("accuracy, with 95% interval")
    panels[0].legend(frameon=False, loc="upper left", handles=panels[0].lines[:1])
    figure.supxlabel("mean confidence: probability of the likeliest letter", fontsize="medium")
    return figure


def _as_text(name: str) -> str:
    return name.replace("$", r"\$")


class LiveCurve:
    """The loss curve in a notebook; called with the growing log, it is drawn again every few seconds.

    Drawing takes 0.15 s, in which the training waits.
    """

    def __init__(self) -> None:
        from IPython.display import display

        self._handle = display(loss_curve([]), display_id=True)
        self._drawn = time.monotonic()

    def __call__(self, log: Sequence[Mapping[str, Any]]) -> None:
        if time.monotonic() - self._drawn >= 5:
            self.draw(log)

    def draw(self, log: Sequence[Mapping[str, Any]]) -> None:
        """Draw it now, as at the end."""
        self._handle.update(loss_curve(log))
        self._drawn = time.monotonic()


def hits(finding: Mapping[str, Any]) -> Picture:
    """hit@1, 5 and 10 with 95% intervals by query, from 07's `finding` of one task."""
    figure, axes = new_figure(7, 1.3 + 0.5 * len(finding))
    _percent_along_x(axes)
    for y, found in enumerate(finding.values()):
        for (k, hit), colour, marker, shift in zip(found["hits"].items(), DEPTHS, "os^", (-0.2, 0, 0.2), strict=True):
            axes.plot(hit["ci95"], [y + shift] * 2, color=colour, **INTERVAL)
            axes.plot(hit["share"], y + shift, marker, color=colour, label=f"hit@{k}" if y == 0 else None, **WHOLE)
    told = [f"query: {_as_text(name)}\n(n={found['n']})" for name, found in finding.items()]
    axes.set_yticks(range(len(finding)), told)
    axes.set(xlabel="share of questions, with 95% interval", xlim=(0, 1.02), ylim=(len(finding) - 0.4, -0.6))
    figure.legend(frameon=False, ncols=3, loc="outside upper left")
    return figure
