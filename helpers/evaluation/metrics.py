"""evaluation/metrics.json from the two sides' predictions: what differs, and how sure that is."""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from helpers.evaluation.calibration import (
    accuracy_by_budget,
    accuracy_by_length,
    calibration,
    likeliest,
    repetition_rate,
)
from helpers.questions import OPEN_TASK
from helpers.report.markdown import as_markdown
from helpers.statistics import (
    adjust_holm,
    chance,
    compare_paired,
    majority_baseline,
    paired_difference,
    paired_shares,
    points_apart,
    share_interval,
    verdict,
)

SIDES = ("base", "tuned")
PARTS = ("thinking", "answer", "text", "delimiter")
PAIRED = ("delta", "delta_ci95", "base_only", "tuned_only", "mcnemar_p", "detectable")
Prediction = dict[str, Any]


def summarise(
    base: list[Prediction],
    tuned: list[Prediction],
    seed: int,
    flagged: Mapping[str, Sequence[str]] | None = None,
    between: Mapping[float, list[Prediction]] | None = None,
) -> dict[str, Any]:
    """evaluation/metrics.json from the two sides' predictions, which are in the same order.

    `flagged`: by task the ids of questions that training rows resemble, as 03 found; of a task that is not in it
    nothing is known. `between`: by the share of the adapter's strength predictions for rows that are in `base` too.
    """
    sides = (base, tuned)
    return {
        "validation": _unseen(*(_of(rows, OPEN_TASK) for rows in sides)),
        "tasks": compare_tasks(*([row for row in rows if row["task"] != OPEN_TASK] for rows in sides), seed, flagged),
        "strength": strength_points(base, tuned, between) if between else [],
    }


def compare_tasks(
    base: list[Prediction], tuned: list[Prediction], seed: int, flagged: Mapping[str, Sequence[str]] | None = None
) -> dict[str, Any]:
    """Each task's figures in both readings, as replied and made to answer, and the sentences that they allow.

    p values are adjusted to the number of all these tests together.
    """
    tasks: dict[str, Any] = {}
    tests: dict[tuple[str, str], dict[str, Any]] = {}
    for name in dict.fromkeys(row["task"] for row in base):
        sides = _of(base, name), _of(tuned, name)
        tasks[name] = _accuracies(*sides)
        tasks[name]["flagged"] = _without(*sides, flagged[name]) if name in (flagged or {}) else None
        tasks[name]["made_to_answer"] = _made_to_answer(*sides)
        for key, measure in (("length", accuracy_by_length), ("budget", accuracy_by_budget)):
            tasks[name][key] = {side: measure(rows) for side, rows in zip(SIDES, sides, strict=True)}
        tasks[name]["calibration"] = {side: calibration(rows, seed) for side, rows in zip(SIDES, sides, strict=True)}
        tests[name, "replied"] = tasks[name]
        if tasks[name]["made_to_answer"]:
            tests[name, "forced"] = tasks[name]["made_to_answer"]
    adjusted = adjust_holm({key: found["paired"]["mcnemar_p"] for key, found in tests.items()})
    for (name, reading), found in tests.items():
        paired = found["paired"]
        paired["mcnemar_p_holm"] = adjusted[name, reading]
        found["verdict"] = verdict(
            paired["delta"],
            paired["delta_ci95"],
            detectable=paired["detectable"],
            p_value=adjusted[name, reading],
            n=found["n"],
            noun="accuracy" if reading == "replied" else "accuracy when made to answer",
        )
        if reading == "replied":
            found["verdict"] += _cut_off(found) + _below_chance(found)
    return tasks


def strength_points(
    base: list[Prediction], tuned: list[Prediction], between: Mapping[float, list[Prediction]]
) -> list[dict[str, Any]]:
    """NLL and accuracy by the share of the adapter's strength, on the rows and questions that all shares have.

    An interval is that of the paired difference from the base model, laid around the curve: rows differ far more from
    each other than one row does from itself at another strength. So the base model's own has no width.
    """
    asked = {(row["task"], row["id"]) for rows in between.values() for row in rows}
    shares = {0.0: base, **between, 1.0: tuned}
    points = []
    for share in sorted(shares):
        point: dict[str, Any] = {"scale": share}
        for name, key in (("nll", "nll"), ("accuracy", "correct")):
            zero, values = (
                [row[key] for row in rows if key in row and (row["task"], row["id"]) in asked]
                for rows in (base, shares[share])
            )
            compared = paired_difference if key == "nll" else paired_shares
            found = compared(zero, values) if values else None
            point[name] = found and found["tuned"]
            change = found and found["delta_ci95"]
            point[f"{name}_ci95"] = change and [found["base"] + end for end in change]
            point[f"{name}_n"] = len(values)
        points.append(point)
    return points


def flagged_table(tasks: Mapping[str, Any]) -> list[dict[str, str]]:
    """Each task's accuracy difference on all questions and without those that training rows resemble, as text."""
    rows = []
    for name, task in tasks.items():
        flagged = task["flagged"]
        rest = flagged and flagged["without"]
        rows.append(
            {
                "task": name,
                "questions": str(task["n"]),
                "flagged": str(flagged["n"]) if flagged else "not compared",
                "tuned minus base": points_apart(task["paired"]),
                "without flagged": points_apart(rest["paired"]) if rest else "-",
            }
        )
    return rows


def side_by_side(base: list[Prediction], tuned: list[Prediction]) -> list[Prediction]:
    """Pairs of replies to the same question, those that got worse first, then those that got better.

    What is judged is the reply: of a choice question whether it is right, of an open one whether it comes to an
    answer at all. A row's NLL says what text a model expects, not what it writes.
    """
    pairs = []
    for one, two in zip(base, tuned, strict=True):
        judged = "closed" if one["task"] == OPEN_TASK else "correct"
        change = two[judged] - one[judged]
        pairs.append(
            {
                "task": one["task"],
                "id": one["id"],
                "outcome": "worse" if change < 0 else "better" if change > 0 else "same",
                "question": one["question"],
                "base": one["reply"],
                "tuned": two["reply"],
            }
        )
    return sorted(pairs, key=lambda pair: ["worse", "better", "same"].index(pair["outcome"]))


def example(pairs: list[Prediction], outcome: str) -> str:
    """The first pair with this outcome ("worse", "better" or "same") as markdown, both replies taken apart."""
    pair = next((pair for pair in pairs if pair["outcome"] == outcome), None)
    if pair is None:
        return f"*No reply got {outcome}.*"
    sides = (f"### {side.capitalize()} model\n\n{as_markdown(pair['question'], pair[side])}" for side in SIDES)
    return "\n\n".join(sides)


def _of(rows: list[Prediction], task: str) -> list[Prediction]:
    return [row for row in rows if row["task"] == task]


def _unseen(base: list[Prediction], tuned: list[Prediction]) -> dict[str, Any]:
    def compared(measure: Callable[[Prediction], float], by: Callable[..., dict[str, Any]] = paired_difference):
        return by([measure(row) for row in base], [measure(row) for row in tuned])

    nll = compared(lambda row: row["nll"])
    parts = {
        part: compared(lambda row, part=part: row[f"nll_{part}"]) for part in PARTS if f"nll_{part}" in base[0]
    }  # the replies of an older release have not all of them
    form = {key: compared(lambda row, key=key: row[key], paired_shares) for key in ("closed", "finished")}
    tokens = compared(lambda row: row["thinking_tokens"])
    return {
        "n": len(base),
        **{
            side: {"nll": nll[side], **{key: form[key][side] for key in form}, "thinking_tokens": tokens[side]}
            for side in SIDES
        },
        "paired": {"nll_delta": nll["delta"], "nll_delta_ci95": nll["delta_ci95"]},
        "parts": parts,
        "delimiter_share": parts["delimiter"]["delta"] / nll["delta"]
        if "delimiter" in parts and nll["delta"]
        else None,
        "form": {**form, "thinking_tokens": tokens},
        "repetition": compared(lambda row: repetition_rate(row["reply"])),
        "verdict": verdict(
            nll["delta"], nll["delta_ci95"], lower_is_better=True, noun="completion NLL", points=False, n=nll["n"]
        )
        + _at_the_delimiter(nll, parts),
    }


def _at_the_delimiter(nll: Mapping[str, Any], parts: Mapping[str, Any]) -> str:
    """A sentence on how much of the difference is form: `</think>` and the token after it, where makers differ."""
    if "delimiter" not in parts or not nll["delta_ci95"]:
        return ""
    there, elsewhere = (parts[part]["delta"] for part in ("delimiter", "text"))
    return (
        f" Of it, {there:+.3f} is at the end of the thought alone (</think> and the token after it); "
        f"on all other tokens the difference is {elsewhere:+.3f}."
    )


def _accuracies(base: list[Prediction], tuned: list[Prediction]) -> dict[str, Any]:
    pairs = compare_paired([row["correct"] for row in base], [row["correct"] for row in tuned])
    return {
        "n": pairs["n"],
        "majority_baseline": majority_baseline([row["answer_idx"] for row in base]),
        "chance": chance([len(row["options"]) for row in base]),
        **{
            side: {
                "accuracy": pairs[f"{side}_accuracy"],
                "ci95": pairs[f"{side}_ci95"],
                "abstained": fmean(row["choice"] is None and row["finished"] for row in rows),
                "truncated": fmean(not row["finished"] for row in rows),
                "answered": _answered([row["correct"] for row in rows if row["choice"] is not None]),
            }
            for side, rows in zip(SIDES, (base, tuned), strict=True)
        },
        "paired": {key: pairs[key] for key in PAIRED},
    }


def _made_to_answer(base: list[Prediction], tuned: list[Prediction]) -> dict[str, Any] | None:
    """Accuracy of the letters that both sides' thoughts lead to, closed or not; None where no letter could be had."""
    pairs = [pair for pair in zip(base, tuned, strict=True) if all(row.get("letters") for row in pair)]
    if not pairs:
        return None
    right = [[likeliest(pair[i]["letters"]) == pair[i]["answer_idx"] for pair in pairs] for i in range(len(SIDES))]
    found = compare_paired(*right)
    return {
        "n": found["n"],
        **{side: {"accuracy": found[f"{side}_accuracy"], "ci95": found[f"{side}_ci95"]} for side in SIDES},
        "paired": {key: found[key] for key in PAIRED},
    }


def _cut_off(task: Mapping[str, Any]) -> str:
    """A sentence on the replies that the token limit cut off: a model can gain by being brief."""
    base, tuned = (task[side]["truncated"] for side in SIDES)
    if not base and not tuned:
        return " No reply was cut off at the token limit."
    return (
        f" Replies cut off at the token limit count as wrong: {base:.0%} of the base model's, {tuned:.0%} of the tuned "
        "model's."
    )


def _answered(correct: list[bool]) -> dict[str, Any]:
    """Of the replies that name an option: how many, and the share of them that is right."""
    if not correct:
        return {"n": 0, "accuracy": None, "ci95": None}
    return {"n": len(correct), "accuracy": fmean(correct), "ci95": list(share_interval(sum(correct), len(correct)))}


def _below_chance(task: Mapping[str, Any]) -> str:
    """A sentence on the models that a guess would beat: what they gain by naming options at all is no knowledge."""
    below = [side for side in SIDES if task[side]["ci95"][1] < task["chance"]]
    if not below:
        return ""
    told = []
    for side in below:
        answered = task[side]["answered"]
        right = f" and is right in {answered['accuracy']:.0%} of those" if answered["n"] else ""
        told.append(f"the {side} model names an option in {answered['n']} of {task['n']} replies{right}")
    guess = f"a guess would be right more often ({task['chance']:.0%})"
    return f" But {guess} than {' or '.join(f'the {side} model' for side in below)}: {'; '.join(told)}."


def _without(base: list[Prediction], tuned: list[Prediction], flagged: Sequence[str]) -> dict[str, Any]:
    """How many questions are flagged, and the figures without them; None where none is left."""
    clean = [pair for pair in zip(base, tuned, strict=True) if pair[0]["id"] not in set(flagged)]
    rest = _accuracies(*map(list, zip(*clean, strict=True))) if clean else None
    return {"n": len(base) - len(clean), "without": rest}
