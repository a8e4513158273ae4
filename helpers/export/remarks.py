"""What 06's tables and its answer show of this run, in a sentence or two each, made from the figures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from helpers.prompts.encoding import split_reasoning
from helpers.prompts.families import END_THINK
from helpers.scoring.statistics import LOOPS, repetition_rate


def on_rounding(errors: Mapping[str, float]) -> str:
    """What blocks save, from the relative errors "4 bits, one scale" and "4 bits, blocks"."""
    one, blocks = (errors[f"4 bits, {scales}"] for scales in ("one scale", "blocks"))
    if blocks >= one:
        return f"At 4 bits blocks do not help this slice: its error is {blocks:.1%} with them and {one:.1%} without."
    return (
        f"At 4 bits one scale for the whole slice costs an error of {one:.1%} of the weights' own spread, and a scale "
        f"for each block {blocks:.1%}. At 8 bits a scale for each block costs {errors['8 bits, blocks']:.2%}."
    )


def on_checks(checks: Mapping[str, Mapping[str, Any]], use: Path, gain: float | None = None) -> str:
    """Which files pass, why others do not, and which one is used therefore.

    `gain` is the NLL that 05 found tuning to take off, in nats a token: what rounding costs is told as its share.
    """
    by_verdict: dict[str, list[str]] = {}
    for kind, check in checks.items():
        by_verdict.setdefault(check["verdict"].partition(":")[0], []).append(kind)
    said = [f"{_listed(by_verdict['passes'])} passed the check."] if "passes" in by_verdict else []
    for kind, check in checks.items():
        if check["passes"] is False:
            said.append(f"{kind} did not: {_why(check)}.")
    if "not checked" in by_verdict:
        said.append(f"Not checked, for want of memory: {_listed(by_verdict['not checked'])}.")
    kind = use.stem.removeprefix("model-")
    reason = {
        "passes": "the smallest that passed",
        "not checked": "the smallest, though nothing could be checked",
        "not shown to pass": "the smallest that was not shown to fail",
        "fails": "the one that loses least, since all failed: look for the fault before anyone uses it",
    }[checks[kind]["verdict"].partition(":")[0]]
    nll, cost = checks[kind].get("nll"), ""
    if nll and gain is not None and min(gain, nll["difference"]) > 0:
        share = nll["difference"] / gain
        cost = f" It costs {nll['difference']:.3f} nats a token, {share:.0%} of the {gain:.3f} that 05 found gained."
    return f"{' '.join(said)} The notebook goes on with {use.name}, {reason}.{cost}"


def _why(check: Mapping[str, Any]) -> str:
    """Why a file that was checked did not pass."""
    nll, ends = check["nll"], check["ends"]
    if ends["stopped"] < ends["rows"]:
        return f"it stops after {ends['stopped']} of {ends['rows']} rows only"
    if not nll["ci95"]:
        return "there are too few rows for an interval"
    if check["verdict"] == "not shown to pass":
        return f"the interval of its loss reaches beyond {nll['bound']:g}, so more rows could decide either way"
    if max(nll["ci95"][0], -nll["ci95"][1]) > nll["bound"]:
        return f"its loss is {nll['difference']:+.3f} nats a token away, beyond {nll['bound']:g}"
    return "its end-of-sequence token is another one"


def on_answer(answer: Mapping[str, Any]) -> str:
    """Did the file's answer close its thought, stop, and go round in circles?"""
    parts = split_reasoning(answer["reply"])
    if not answer["reply"].strip():
        ends = "and it stopped by itself" if answer["stopped"] else "and the limit cut it off"
        return f"The reply shows no text: its {answer['tokens']} tokens are blank or special ones, {ends}."
    closed = "It closes its thought" if parts.closed else "It never closes its thought, so it comes to no answer"
    again = parts.closed and answer["reply"].count(END_THINK) > 1
    if again:
        closed += " more than once, of which the last counts"
    ends = "stops by itself" if answer["stopped"] else "does not stop within the limit"
    remark = f"{closed}, and {ends} after {answer['tokens']} tokens."
    repeated = repetition_rate(answer["reply"])
    if repeated > LOOPS:
        return f"{remark} It loops: {repeated:.0%} of its runs of four words had stood in it before."
    if again:
        return f"{remark} Training taught to close it once."
    if parts.closed and answer["stopped"]:
        return f"{remark} That is the form that training taught; whether it is right is another question."
    return f"{remark} It does not loop."


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
