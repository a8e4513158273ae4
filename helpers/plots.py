"""Every figure, drawn from the files in the run folder, so that notebooks and index.html show the same ones.

Colours are Okabe and Ito's, which colour-blind readers tell apart; each series also has its own marker or place.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BASE, TUNED, ACCENT, GREY = "#0072B2", "#D55E00", "#009E73", "#767676"


class Picture(Figure):
    """A figure that a notebook shows by itself, without pyplot and its global state."""

    def _repr_png_(self) -> bytes:
        image = io.BytesIO()
        self.savefig(image, format="png")
        return image.getvalue()


def _figure(width: float = 7, height: float = 3.2) -> tuple[Picture, Axes]:
    figure = Picture(figsize=(width, height), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def token_lengths(report: Mapping[str, Any], max_length: int) -> Picture:
    """Rows by length in tokens (prompt, reasoning and answer together), stacked by split, up to the limit."""
    figure, axes = _figure()
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
    figure, axes = _figure()
    train = [(row["step"], row["loss"]) for row in log if "loss" in row]
    checked = [(row["step"], row["validation_nll"]) for row in log if "validation_nll" in row]
    if train:
        steps, losses = np.array(train).T
        axes.plot(steps, losses, color=BASE, alpha=0.3, linewidth=1, label="training, each step")
        width = min(5, len(losses))
        smooth = np.convolve(losses, np.ones(width) / width, mode="valid")
        axes.plot(steps[width - 1 :], smooth, color=BASE, label=f"training, mean of {width} steps")
    if checked:
        axes.plot(*np.array(checked).T, "o--", color=TUNED, label="validation")
    axes.set(xlabel="optimizer step", ylabel="loss (nats a token)")
    axes.set_xlim(left=0)
    if train or checked:
        axes.legend(frameon=False)
    return figure


def paired_nll(base: Sequence[float], tuned: Sequence[float]) -> Picture:
    """One dot a validation row: its NLL under the base model against under the tuned one."""
    figure, axes = _figure(4.6, 4.2)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    low, high = min(*base, *tuned), max(*base, *tuned)
    edge = (high - low) * 0.08 + 1e-6
    limits = (low - edge, high + edge)
    axes.plot(limits, limits, color=GREY, linestyle="--", linewidth=1)
    axes.scatter(base, tuned, color=TUNED, alpha=0.8, s=28)
    axes.annotate("below the line: the tuned\nmodel expects the row better", (0.97, 0.05), xycoords="axes fraction",
                  ha="right", color=GREY)  # fmt: skip
    axes.set(xlabel="base model, nats a token", ylabel="tuned model, nats a token", xlim=limits, ylim=limits)
    axes.set_aspect("equal")
    return figure


def accuracy(tasks: Mapping[str, Any]) -> Picture:
    """Accuracy of base and tuned with 95% intervals, task by task, and what chance would score."""
    figure, axes = _figure(7, 1.2 + 0.9 * len(tasks))
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    names = list(tasks)
    for y, name in enumerate(names):
        task = tasks[name]
        for side, offset, colour, marker in (("base", 0.14, BASE, "o"), ("tuned", -0.14, TUNED, "s")):
            value, (low, high) = task[side]["accuracy"], task[side]["ci95"]
            axes.plot([low, high], [y + offset] * 2, color=colour, linewidth=3, alpha=0.45)
            axes.plot(value, y + offset, marker, color=colour, label=side if y == 0 else None)
        axes.plot([task["chance"]] * 2, [y - 0.32, y + 0.32], color=GREY, linestyle=":",
                  label="chance" if y == 0 else None)  # fmt: skip
    axes.set_yticks(range(len(names)), [f"{name} (n={tasks[name]['n']})" for name in names])
    axes.set(xlabel="accuracy, with 95% interval", xlim=(0, 1), ylim=(-0.6, len(names) - 0.4))
    axes.legend(frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 1))
    return figure


class LiveCurve:
    """The loss curve in a notebook, drawn again as the log grows."""

    def __init__(self) -> None:
        from IPython.display import display

        self._handle = display(loss_curve([]), display_id=True)

    def __call__(self, log: Sequence[Mapping[str, Any]]) -> None:
        self._handle.update(loss_curve(log))
