"""Sentences for notebook 03 on what a run shows, made from its figures."""

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any


def planted_remark(planted: Collection[str], caught: Mapping[str, str]) -> str:
    """How many planted rows the rules caught; `caught` maps a row's name to its reason."""
    passed = [name for name in planted if name not in caught]
    left = f"{', '.join(passed)} went through" if passed else "none went through"
    return f"Here: {len(caught)} of {len(planted)} planted rows were caught; {left}."


def rules_remark(report: Mapping[str, Any]) -> str:
    """What the rules left out of the source, without rows that were merely not drawn, and the split."""
    rules = [step for step in report["steps"] if step["rule"] != "read"]
    rows_in, rows_out = rules[0]["rows_in"], rules[-1]["rows_out"]
    reasons = sum((Counter(step["reasons"]) for step in rules), Counter())
    if reasons:
        (reason, count), *_ = reasons.most_common(1)
        first = f"Here: {rows_in - rows_out:,} of {rows_in:,} rows were left out, most often ({count:,}) for: {reason}."
    else:
        first = f"Here: all {rows_in:,} rows passed, so the rules found nothing wrong with this source."
    splits = report["splits"]
    second = (
        f"{splits['train']:,} rows train, {splits['validation']:,} validate and {splits['test']:,} wait for the test."
    )
    return f"{first} {second}"


def lengths_remark(report: Mapping[str, Any], max_length: int) -> str:
    """How far the longest kept row is from the limit, and how many were too long."""
    longest = report["tokens"]["total"]["max"]
    dropped = sum(
        count
        for step in report["steps"]
        for reason, count in step["reasons"].items()
        if step["rule"] == "fit" and reason.startswith("longer")
    )
    first = (
        f"Here: the longest kept row has {longest:.0f} tokens, {longest / max_length:.0%} of {max_length:,} allowed."
    )
    if dropped:
        return f"{first} {dropped:,} rows were too long; a higher model.max_length keeps more and costs memory."
    return f"{first} No row was too long, so a higher limit would keep no more."


def leak_remark(overlap: Mapping[str, Any]) -> str:
    """What the comparison with the evaluation questions found, in two sentences."""
    asked = sum(found["questions"] for found in overlap.values())
    if not asked:
        return "Here: there is no evaluation question to compare with."
    flagged = sum(len(found["flagged"]) for found in overlap.values())
    nearest = max(found["cosine"]["max"] for found in overlap.values())
    few = " Fewer than five questions say little about leaks." if asked < 5 else ""
    if not flagged:
        return f"Here: none of {asked:,} questions is flagged. The nearest pair has a cosine of {nearest:.2f}.{few}"
    return (
        f"Here: {flagged:,} of {asked:,} questions are flagged, with a cosine of up to {nearest:.2f}. "
        f"05 gives the score with and without them.{few}"
    )
