"""What figures show, in sentences. They are made from stored figures when a page is: a file holds none of them."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from helpers.scoring.statistics import LEAST, always_the_same, is_shown, p_of, points_apart, shown_sign

Figures = Mapping[str, Any]
# What a condition's passages are.
CONDITIONS = {
    "open": "passages found by the question",
    "thought": "passages found by the question and the model's own thought",
    "oracle": "passages of the document that answers",
}


def verdict(
    delta: float,
    interval: Sequence[float] | None,
    n: int,
    noun: str = "accuracy",
    detectable: float | None = None,
    p_value: float = 0.0,
    loss: bool = False,
) -> str:
    """One sentence on a difference, tuned minus base, of n rows; it claims one only if the interval excludes zero.

    It claims nothing if n is below LEAST, or if `p_value` (adjusted, where there are several tests) is 0.05 or more;
    where interval and test disagree, it says so. `detectable` is the difference that so many rows mostly show. A `loss`
    is better if lower, and in nats; all else is a share, shown in percentage points.
    """
    scale, unit, digits = (1, "", 3) if loss else (100, " points", 1)
    if interval is None or n < LEAST:
        return (
            f"Too few rows were measured (n = {n}) to say anything about {noun}: "
            f"tuned minus base is {delta * scale:+.{digits}f}{unit}."
        )
    low, high = interval
    shown = [f"{value * scale:+.{digits}f}" for value in (delta, low, high)]
    figures = f"{shown[0]}{unit} (95% interval {shown[1]} to {shown[2]})"
    if p_value < 0.05 and not low <= 0 <= high:
        word = "better" if (low > 0) != loss else "worse"
        return f"The tuned model's {noun} is {word} than the base model's: {figures}."
    sentence = f"No difference is shown in {noun}: tuned minus base is {figures}."
    return sentence if detectable is None else f"{sentence} {_why_not_shown(interval, p_value, n, detectable)}"


def _why_not_shown(interval: Sequence[float], p_value: float, n: int, detectable: float) -> str:
    """The sentence after one that claims no difference: what n questions could have shown, or how near that came."""
    low, high = interval
    if not low <= 0 <= high:
        edge = f"the exact test gives p = {p_value:.2g} after Holm, so this is at the edge of what {n} questions show."
        return f"The interval leaves zero out, but {edge}"
    return least_shown(n, [detectable])


def least_shown(n: int, detectable: Sequence[float]) -> str:
    """The sentence that says what n questions could have shown in one comparison, or in several."""
    points = " to ".join(dict.fromkeys(f"{100 * each:.0f}" for each in (min(detectable), max(detectable))))
    least = f"only a difference of about {points} points or more"
    return f"With {n} questions, {least} had four chances in five of being shown."


def on_unseen(validation: Figures) -> str:
    """On the NLL of the unseen rows, and how much of its difference is form: `</think>` and the token after it."""
    delta, interval = (validation["paired"][key] for key in ("nll_delta", "nll_delta_ci95"))
    said = verdict(delta, interval, validation["n"], "completion NLL", loss=True)
    parts = validation.get("parts", {})
    if "delimiter" not in parts or not interval:  # an older release wrote fewer parts, or none
        return said
    there, elsewhere = (parts[part]["delta"] for part in ("delimiter", "text"))
    return (
        f"{said} Of this, {there:+.3f} comes from the end of the thought alone (</think> and the token after it); "
        f"the mean over the other tokens alone changes by {elsewhere:+.3f}, and the two do not add up."
    )


def on_task(task: Figures) -> str:
    """On a task's replies: whether one model is right more often, and what that is worth."""
    said = _on_accuracy(task, "accuracy")
    for sentence in (_cut_off, _below_chance, _like_guessing):
        with suppress(KeyError):  # an older release wrote fewer figures
            said += sentence(task)
    return said


def when_made_to_answer(task: Figures) -> str:
    """On the same questions with forced answers; "" where no letters were measured."""
    forced = task.get("made_to_answer")
    return _on_accuracy(forced, "accuracy when made to answer") if forced else ""


def _on_accuracy(found: Figures, noun: str) -> str:
    paired = found["paired"]
    return verdict(paired["delta"], paired["delta_ci95"], found["n"], noun, paired.get("detectable"), p_of(paired))


def _cut_off(task: Figures) -> str:
    """A sentence on the replies that the token limit cut off: a model can gain by brevity alone."""
    base, tuned = (task[side]["truncated"] for side in ("base", "tuned"))
    if not base and not tuned:
        return " No reply was cut off at the token limit."
    return (
        f" {base:.0%} of the base model's replies to these questions and {tuned:.0%} of the tuned model's were cut off "
        "at the token limit, which counts as wrong."
    )


def _below_chance(task: Figures) -> str:
    """A sentence on the models that a guess would beat: what they gain by naming options at all is not knowledge."""
    below = [side for side in ("base", "tuned") if task[side]["ci95"][1] < task["chance"]]
    if not below:
        return ""
    counts = []
    for side in below:
        answered = task[side]["answered"]
        who = f"the {side} model" if len(below) == 2 else "it"
        count = f"{who} names an option after a closed thought in {answered['n']} of {task['n']} replies"
        if answered["n"]:
            count += f", {answered['accuracy']:.0%} of them rightly"
            count += ", less often than a guess would be" * (answered["ci95"][1] < task["chance"])
        counts.append(count)
    first = "Both models score" if len(below) == 2 else f"The {below[0]} model scores"
    return f" {first} below guessing ({task['chance']:.0%}): {'; '.join(counts)}."


def _like_guessing(task: Figures) -> str:
    """Sentences on a tuned model that is not shown to differ from a guess, and on one that names a single letter."""
    if task["n"] < LEAST:
        return ""
    said, (low, high), named = "", task["tuned"]["ci95"], task["tuned"]["favourite"]
    if low <= task["chance"] <= high:
        holds = f"its interval, {low:.1%} to {high:.1%}, holds {task['chance']:.0%}"
        said += f" The tuned model's accuracy is not shown to differ from guessing: {holds}. Always naming "
        said += f"{task['majority_letter']} would score {task['majority_baseline']:.0%}."
    if always_the_same(named):
        said += f" The tuned model names {named['letter']} in {named['times']} of its {named['named']} answers"
        silent = task["base"]["favourite"]["named"] < named["named"] / 2
        said += ": what it has gained is that it answers at all." if silent else ", whatever is asked."
    return said


def reading_verdict(figures: Figures, side: str, condition: str, forced: bool = False, least: bool = True) -> str:
    """Whether this side is right more often with the passages than without, and how sure that is.

    Without `least`, what so many questions could have shown is left out, for a page that says it once.
    """
    counts = f"{figures['mended']} mended and {figures['misled']} misled of {figures['n']}"
    model = f"the {side} model, made to answer," if forced else f"the {side} model"
    what = CONDITIONS[condition]
    if sign := shown_sign(figures):
        word, said = ("more", "helped") if sign > 0 else ("less", "hurt")
        return f"Reading {said}: with {what} {model} is right {word} often, by {points_apart(figures)}; {counts}."
    said = f"Reading is not shown to help or to hurt: with {what} {model} changes by {points_apart(figures)}; {counts}."
    why = _why_not_shown(figures["delta_ci95"], p_of(figures), figures["n"], figures["detectable"])
    return f"{said} {why}" if least or is_shown(figures) else said
