"""What the notebooks draw to explain: strips of tokens, the series, a LoRA layer, what rounding costs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patches import FancyBboxPatch, Rectangle

from helpers.report.plots import BASE, GREY, Picture, new_figure

# Tints of Okabe and Ito's colours, of different lightness; what is bold has no other text than its own.
STRIP = {
    "prompt": "#DDDDDD",
    "<think>": "#F5E663",
    "thought": "#A6D4F2",
    "</think>": "#F5E663",
    "answer": "#7CCFB1",
    "end": "#F2A36B",
}
MONOSPACE = FontProperties(family="DejaVu Sans Mono", size=9)


def token_strip(pieces: Sequence[tuple[str, str]], width: int = 96, colours: Mapping[str, str] = STRIP) -> Picture:
    """Pieces of text, one box each, coloured by kind (those of `colours`), in lines of `width` characters.

    A line end is shown as ↵, and a piece with one ends its line. A piece longer than a line is cut.
    """
    boxes, x, line = [], 0, 0
    for text, kind in pieces:
        shown = _drawable(text)[:width]
        if x + len(shown) > width:
            x, line = 0, line + 1
        boxes.append((x, line, shown, kind))
        x, line = (0, line + 1) if text.endswith("\n") else (x + len(shown), line)
    lines = max((line for _, line, _, _ in boxes), default=0) + 1
    figure, axes = new_figure(8.4, 0.62 + 0.24 * lines)
    figure.alt = "".join(text for text, _ in pieces)
    for x, line, shown, kind in boxes:
        axes.add_patch(
            Rectangle((x, line), len(shown), 0.86, facecolor=colours[kind], edgecolor="white", linewidth=1.2)
        )
        font = MONOSPACE.copy()
        font.set_weight("bold" if kind in ("<think>", "</think>", "end") else "normal")
        for place, character in enumerate(shown):  # one by one, so that each stands in its own column
            axes.text(x + place + 0.5, line + 0.45, character, fontproperties=font, color="black", ha="center",
                      va="center", parse_math=False)  # fmt: skip
    axes.set(xlim=(0, width), ylim=(lines, 0))
    axes.axis("off")
    kinds = dict.fromkeys(kind for _, kind in pieces)
    handles = [Rectangle((0, 0), 1, 1, facecolor=colours[kind]) for kind in kinds]
    if handles:
        figure.legend(handles, kinds, loc="outside upper left", ncols=len(kinds), frameon=False, fontsize=9)
    return figure


def pipeline(steps: Mapping[str, tuple[str, str]]) -> Picture:
    """Steps from left to right, joined by arrows: name to what it does and what it leaves, in short lines."""
    figure, axes = new_figure(1.43 * len(steps), 1.9)
    for x, (name, (does, leaves)) in enumerate(steps.items()):
        style = "round,pad=0,rounding_size=0.06"
        axes.add_patch(FancyBboxPatch((x, 0.42), 0.8, 0.56, boxstyle=style, facecolor="#A6D4F2", edgecolor=BASE))
        axes.text(x + 0.4, 0.87, name, ha="center", va="center", color="black", weight="bold", fontsize=9)
        axes.text(x + 0.4, 0.63, does, ha="center", va="center", color="black", fontsize=7.5)
        axes.text(x + 0.4, 0.2, leaves, ha="center", va="center", color=BASE, fontsize=8, family="monospace")
        if x:
            axes.annotate("", (x - 0.02, 0.7), (x - 0.18, 0.7), arrowprops={"arrowstyle": "-|>", "color": GREY})
    axes.set(xlim=(-0.05, len(steps) - 0.15), ylim=(0.03, 1.02))
    axes.axis("off")
    return figure


def _drawable(text: str) -> str:
    """Text with a visible line end, and a square for what the monospaced font has not."""
    known = get_font(findfont(MONOSPACE)).get_charmap()
    text = text.replace("\r\n", "\n").replace("\n", "↵").replace("｜", "|").replace("\t", "→")
    return "".join(character if ord(character) in known else "□" for character in text)


def rounding_errors(errors: Mapping[str, np.ndarray], spread: float) -> Picture:
    """What rounding adds to each weight of a slice, one panel for each way of rounding, all in one scale of colours.

    `errors` maps a way to its errors (rows, columns); `spread` is the standard deviation of the weights.
    """
    figure, panels = new_figure(7.6, 4.4, nrows=2, ncols=-(-len(errors) // 2), sharex=True, sharey=True, squeeze=False)
    for axes, (name, error) in zip(panels.flat, errors.items(), strict=False):
        axes.grid(visible=False)
        shown = axes.imshow(error / spread, cmap="PuOr", vmin=-0.5, vmax=0.5, aspect="auto", interpolation="nearest")
        axes.set_title(f"{name}: {np.sqrt((error**2).mean()) / spread:.1%}", fontsize=10)
    for axes in panels[-1]:
        axes.set_xlabel("column of the slice")
    for axes in panels[:, 0]:
        axes.set_ylabel("row")
    figure.colorbar(shown, ax=panels, label="error, in standard\ndeviations of the weights", extend="both")
    return figure


def label_strip(ids: Sequence[int], labels: Sequence[int], tokenizer: Any) -> Picture:
    """A row as a strip of tokens: grey where the label is -100, coloured where it is trained."""
    count = sum(label != -100 for label in labels)
    masked, trained = f"label -100, not trained ({len(ids) - count} tokens)", f"trained ({count} tokens)"
    pieces = [
        (tokenizer.decode([number]), masked if label == -100 else trained)
        for number, label in zip(ids, labels, strict=True)
    ]
    return token_strip(pieces, colours={masked: STRIP["prompt"], trained: STRIP["thought"]})


def lora_shapes(d: int, k: int, r: int) -> Picture:
    """A frozen matrix (d, k) and the two thin ones that LoRA puts beside it, drawn to scale."""
    figure, axes = new_figure(7, 2.8)
    axes.set_axis_off()
    unit = 4 / max(d, k)
    height, width, thin = d * unit, k * unit, max(r * unit, 0.06)
    shapes = {
        f"W: {d} x {k}, frozen": (0.0, 0.0, width, height, "#D0D0D0"),
        f"B: {d} x {r}, trained": (width + 2.6, 0.0, thin, height, "#56B4E9"),
        f"A: {r} x {k}, trained": (width + 3.6 + thin, height / 2 - thin / 2, width, thin, "#E69F00"),
    }
    for name, (x, y, wide, high, colour) in shapes.items():
        axes.add_patch(Rectangle((x, y), wide, high, facecolor=colour, edgecolor="#404040", linewidth=0.8))
        axes.text(x + wide / 2, y + high + 0.15, name, ha="center", va="bottom", fontsize=9)
    axes.text(width + 1.3, height / 2, "+ (alpha / r) ×", ha="center", va="center", fontsize=12)
    axes.text(width + 3.1 + thin, height / 2, "×", ha="center", va="center", fontsize=12)
    axes.set(xlim=(-0.8, 2 * width + 4.6 + thin), ylim=(-0.1, height + 0.6), aspect="equal")
    return figure
