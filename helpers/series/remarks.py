"""Sentences under 00's results, made from the figures of the run."""

from collections.abc import Mapping
from typing import Any

from helpers.statistics import is_shown, points_apart

PARTS_OF_A_REPLY = {"closed": "closes its thought", "finished": "ends by itself"}


def form_remarks(metrics: Mapping[str, Any] | None) -> list[str]:
    """What the unseen rows' replies look like, a sentence for each part of a reply; one sentence without results."""
    if not metrics:
        return ["This run has no evaluation yet: run 05, then this notebook's last cells."]
    form = metrics["validation"].get("form", {})
    sentences = []
    for key, what in PARTS_OF_A_REPLY.items():
        if not (found := form.get(key)):
            continue
        shares = f"the base model {what} in {found['base']:.0%} of {found['n']} replies, the tuned one in"
        sentences.append(f"On unseen rows {shares} {found['tuned']:.0%}: {_reading(found)}.")
    return sentences


def _reading(found: Mapping[str, Any]) -> str:
    """How sure a difference of shares is."""
    if not found["delta_ci95"]:
        return "too few to compare"
    sure = "a change" if is_shown(found) else "this run cannot tell them apart"
    return f"{sure}, {points_apart(found)}"
