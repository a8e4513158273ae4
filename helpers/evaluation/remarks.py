"""What 05's tables and figures show of this run, in a sentence or two each, made from the figures."""

from collections.abc import Mapping, Sequence
from typing import Any

from helpers.prompts.encoding import split_reasoning
from helpers.questions.multiple_choice import OPEN_TASK
from helpers.report.markdown import as_markdown, quoted
from helpers.scoring.answers import SIDES, Prediction
from helpers.scoring.statistics import LEAST, LOOPS, always_the_same, is_shown, points_apart, shown_sign

Figures = Mapping[str, Any]


def on_loss(validation: Figures, training: Figures | None) -> str:
    """Ties the NLL of 05 to the validation loss of 04, from training/metrics.json, which may be missing."""
    before, after = (validation[side]["nll"] for side in SIDES)
    remark = f"Over {validation['n']} rows the completion NLL is {before:.3f} before and {after:.3f} after tuning."
    if not training:
        return f"{remark} The folder holds no training to compare that with."
    losses = training["validation_nll"]
    there = f"{losses['before']:.3f} and {losses['after']:.3f}"
    if max(abs(before - losses["before"]), abs(after - losses["after"])) < 0.01:
        return f"{remark} 04 measured the same, {there}, before and after: it is one measure, taken twice."
    return f"{remark} 04 logged {there}: the measure is the same, and rows, compute type or batches differ."


def on_parts(validation: Figures) -> str:
    """Which parts of a row changed."""
    n, parts = validation["n"], validation["parts"]
    if n < LEAST:
        return _too_few(n, "rows")
    names = {"thinking": "the reasoning", "answer": "the answer"}
    changed = [name for name in names if name in parts and is_shown(parts[name])]
    if not changed:
        return "Neither in the reasoning nor in the answer is a change shown."
    words = " and ".join(f"{names[name]} ({parts[name]['delta']:+.2f})" for name in changed)
    return f"A change is shown in {words}."


def on_shape(validation: Figures) -> str:
    """Do the replies close their thought, end, and go round in circles?"""
    n, form, repetition = validation["n"], validation["form"], validation["repetition"]
    if n < LEAST:
        return _too_few(n, "replies")
    closed, finished = form["closed"], form["finished"]
    base, tuned = (f"closes its thought in {closed[s]:.0%} and ends by itself in {finished[s]:.0%}" for s in SIDES)
    remark = [f"Of {n} replies the tuned model {tuned}; the base model {base}."]
    if is_shown(finished) and finished["delta"] < 0:
        remark.append("It stops less often than before tuning: more replies run into the limit on new tokens.")
    elif is_shown(closed) and closed["delta"] > 0:
        remark.append("It has learned the form of a reply, and form says nothing yet about what stands in it.")
    elif not is_shown(finished) and not is_shown(closed):
        remark.append("No difference is shown in form.")
    circles = [side for side in SIDES if repetition[side] > LOOPS]
    if circles:
        shares = " and ".join(f"{repetition[side]:.0%} of the {side} model's" for side in circles)
        remark.append(f"Replies go round in circles: {shares} runs of four words had stood there before.")
    return " ".join(remark)


def on_accuracy(task: Figures) -> str:
    """A task's right answers beside those of blind guessing and of one letter; its verdict says what they show."""
    n, chance = task["n"], task["chance"]
    if n < LEAST:
        return _too_few(n, "questions")
    base, tuned = (round(task[side]["accuracy"] * n) for side in SIDES)
    return (
        f"Of {n} questions the base model gets {base} right and the tuned model {tuned}; blind guessing would get "
        f"about {chance * n:.0f} ({chance:.0%}). Always naming {task['majority_letter']}, the most frequent right "
        f"answer, would score {task['majority_baseline']:.0%}."
    )


def on_forced(task: Figures) -> str:
    """Whether the finding in the replies stands where both models are made to answer; the verdicts give the figures."""
    n, chance, forced = task["n"], task["chance"], task["made_to_answer"]
    if not forced:
        return "No probabilities of letters were measured, so neither model was made to answer."
    if min(n, forced["n"]) < LEAST:
        return _too_few(min(n, forced["n"]), "questions")
    replied, stands = shown_sign(task["paired"]), shown_sign(forced["paired"])
    if not stands and not replied:
        remark = "So no difference is shown in either reading."
    elif not stands:
        remark = "This does not show the difference of the replies, which may come from naming an option alone."
    elif stands == replied:
        remark = "The difference in the replies stands here too, so it does not come from naming an option alone."
    elif replied:
        remark = "Here the difference goes the other way, so the gain in the replies comes from naming options."
    else:
        remark = "Here a difference shows that the replies did not show."
    like_guessing = [side for side in SIDES if forced[side]["ci95"][0] <= chance <= forced[side]["ci95"][1]]
    if like_guessing:
        who = "neither model is" if len(like_guessing) == 2 else f"the {like_guessing[0]} model is not"
        remark += f" Made to answer, {who} shown to differ from guessing."
    for side in SIDES:
        found = task[side]["favourite_forced"]
        if always_the_same(found):
            times = f"{found['letter']} in {found['times']} of {found['named']}"
            remark += f" Made to answer, the {side} model names {times}."
    return remark


def on_differing(base: Sequence[Prediction], tuned: Sequence[Prediction]) -> str:
    """How many questions one model alone gets right, and how many of them by closing its thought."""
    pairs = [pair for pair in zip(base, tuned, strict=True) if pair[0]["task"] != OPEN_TASK]
    better, worse = (sum(two["correct"] - one["correct"] == sign for one, two in pairs) for sign in (1, -1))
    if not better + worse:
        return f"Of {len(pairs)} questions none is right for one model alone. Nothing in them tells the models apart."
    both = sum(one["correct"] and two["correct"] for one, two in pairs)
    same = f"Of the others {both} are right with both models and {len(pairs) - better - worse - both} with neither."
    remark = f"Of {len(pairs)} questions {better} got better and {worse} worse. {same}"
    unclosed = sum(two["correct"] and not one["closed"] for one, two in pairs)
    never = f" In {unclosed} of the {better} the base model never closed its thought, so its answer does not count."
    return remark + never if unclosed else remark


def on_words(rows: Sequence[Prediction]) -> str:
    """How often a reply names the letter of one option beside the words of another: the letter alone is scored."""
    named = [row for row in rows if row.get("choice")]
    apart = [row for row in named if _words_of_another(row)]
    if not apart:
        return ""
    right = sum(row["correct"] for row in apart)
    return (
        f"In {len(apart)} of the tuned model's {len(named)} replies that name an option the letter is one option's and "
        f"the words are another's; by the letter, which alone is scored, {right} of them "
        f"{'is' if right == 1 else 'are'} right."
    )


def _words_of_another(row: Prediction) -> bool:
    answer, texts = split_reasoning(row["reply"]).answer.casefold(), row["options"]
    return texts[row["choice"]].casefold() not in answer and any(text.casefold() in answer for text in texts.values())


def on_holm(tasks: Mapping[str, Figures]) -> str:
    """What Holm's procedure changes in this run's tests."""
    tests = [
        found["paired"]
        for task in tasks.values()
        for found in (task, task["made_to_answer"])
        if found and found["n"] >= LEAST
    ]
    if not tests:
        return "Too few questions were asked for a test."
    before, after = ([test[key] for test in tests] for key in ("mcnemar_p", "mcnemar_p_holm"))
    few, left = (sum(p < 0.05 for p in each) for each in (before, after))
    computed, corrected = (", ".join(f"{p:#.2g}" for p in each) for each in (before, after))
    return (
        f"This run has {len(tests)} test{'s' * (len(tests) > 1)} of accuracy, of the replies and of the models made to "
        f"answer; {few} of their p values {'lies' if few == 1 else 'lie'} below 0.05 as computed ({computed}) and "
        f"{left} after Holm's procedure ({corrected})."
    )


def on_leaks(tasks: Mapping[str, Figures]) -> str:
    """Whether flagged questions carry the difference."""
    compared = {name: task for name, task in tasks.items() if task["flagged"]}
    if not compared:
        return "03 compared no question with the training rows, so nothing is known about leaks."
    flagged = sum(task["flagged"]["n"] for task in compared.values())
    n = sum(task["n"] for task in compared.values())
    if not flagged:
        return f"None of {n} questions is flagged, so there is nothing to leave out. A free rewrite would pass unseen."
    turned = [name for name, task in compared.items() if _turns(task)]
    remark = f"{flagged} of {n} questions {'resembles' if flagged == 1 else 'resemble'} a training row."
    if turned:
        return f"{remark} Without them the finding is another one in {quoted(', '.join(turned))}: trust that column."
    return f"{remark} Without them each finding is the same."


def on_calibration(task: Figures) -> str:
    """Over- or underconfidence of both models, and their ECE."""
    found = {side: each for side, each in task["calibration"].items() if each}
    if not found:
        return "No probabilities of letters were measured."
    if (n := min(each["n"] for each in found.values())) < LEAST:
        return _too_few(n, "answers")
    said = []
    for side, each in found.items():
        low, high = each["overconfidence_ci95"]
        word = "overconfident" if low > 0 else "underconfident" if high < 0 else "not shown to be miscalibrated"
        said.append(f"the {side} model is {word} ({each['confidence']:.0%} sure, {each['accuracy']:.0%} right)")
    errors = " and ".join(f"{each['ece']:.2f} ({side})" for side, each in found.items())
    return f"Over {n} answers {' and '.join(said)}. The expected calibration error is {errors}."


def flagged_table(tasks: Mapping[str, Any]) -> list[dict[str, str]]:
    """Each task's accuracy difference on all questions and without those that resemble training rows, as text."""
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


def two_by_two(both: int, base_only: int, tuned_only: int, neither: int) -> dict[str, dict[str, int]]:
    """McNemar's table of paired answers, column by column."""
    return {
        "tuned right": {"base right": both, "base wrong": tuned_only},
        "tuned wrong": {"base right": base_only, "base wrong": neither},
    }


def differing(base: Sequence[Prediction], tuned: Sequence[Prediction], limit: int = 6) -> str:
    """The first `limit` questions that one model alone got right, as a Markdown table; all text is quoted."""
    rows = []
    for one, two in zip(base, tuned, strict=True):
        if one["task"] == OPEN_TASK or one["correct"] == two["correct"] or len(rows) == limit:
            continue
        question = one["question"].partition("\n")[0]
        short = question if len(question) <= 160 else f"{question[:160].rsplit(' ', 1)[0]} ..."
        right = f"{one['answer_idx']}. {one['options'][one['answer_idx']]}"
        rows.append([short, right, *(_named(side) for side in (one, two)), "better" if two["correct"] else "worse"])
    if not rows:
        return "*No question is right for one model alone.*"
    head = ["question", "right answer", "base model", "tuned model", "tuned is"]
    lines = [head, ["---"] * len(head), *([quoted(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def example(pairs: list[Prediction], outcome: str) -> str:
    """The first pair with this outcome ("worse", "better" or "same") as markdown, each reply split at its thought."""
    pair = next((pair for pair in pairs if pair["outcome"] == outcome), None)
    if pair is None:
        return f"*No reply got {outcome}.*"
    sides = (f"### {side.capitalize()} model\n\n{as_markdown(pair['question'], pair[side])}" for side in SIDES)
    return "\n\n".join(sides)


def _named(row: Prediction) -> str:
    """What a reply comes to, as the scorer reads it."""
    if not row["finished"]:
        return "cut off"
    if not row["closed"]:
        return "thought never closed"
    return row["choice"] or "names no option"


def _turns(task: Figures) -> bool:
    """Whether the finding is another one without flagged questions, whose figures are not adjusted by Holm."""
    rest, paired = task["flagged"]["without"], task["paired"]
    alone = {**paired, "mcnemar_p_holm": paired["mcnemar_p"]}
    return not rest or shown_sign(rest["paired"]) != shown_sign(alone)


def _too_few(n: int, what: str) -> str:
    return f"With {n} {what} nothing can be said: at least {LEAST} are needed."
