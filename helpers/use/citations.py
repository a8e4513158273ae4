"""Which passages a reply cites, and the numbered list under it."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from helpers.knowledge.documents import Passage
from helpers.prompts.encoding import split_reasoning

_DASH = "[-\u2010-\u2014\u2212]"
# As papers number their sources, [1], [1, 3], [1-3] and [1][2], and as models vary it: [^1], [citation:1], 【1】.
# Numbers in round brackets are no citations: in replies (1) and (2) count steps.
CITED = re.compile(
    r"[\[【]\s*\^?(?:(?:citation|passage|source|reference|ref)s?\.?\s*:?\s*)?"
    rf"(\d{{1,3}}(?:\s*(?:[,;&]|and\b|{_DASH})\s*\d{{1,3}})*)\s*[\]】]",
    re.IGNORECASE,
)
_RANGE = re.compile(rf"(\d+)(?:\s*{_DASH}\s*(\d+))?")
_MOST_SAID = 10


def unknown_citations(reply: str, passages: Sequence[Any]) -> list[int]:
    """Numbers that the answer cites and no passage has, ascending; the thought may think aloud of anything."""
    cited = set(_cited(split_reasoning(reply).answer))
    return sorted(n for n in cited if not 1 <= n <= len(passages))


def _cited(answer: str) -> Iterator[int]:
    for match in CITED.finditer(answer):
        for first, last in _RANGE.findall(match[1]):
            ends = sorted((int(first), int(last or first)))
            yield from range(ends[0], ends[1] + 1)


def source_line(n: int, passage: Passage) -> str:
    """One passage as `[n] title (source, licence, link)`."""
    facts = [passage.source, passage.licence or "licence not stated", passage.address]
    return f"[{n}] {passage.title or 'untitled'} ({', '.join(filter(None, facts))})"


def source_lines(passages: Sequence[Passage], reply: str) -> list[str]:
    """A line for each passage: its number, title, source, licence and link; then one on citations that are in none."""
    lines = [source_line(n, each) for n, each in enumerate(passages, 1)]
    if unknown := unknown_citations(reply, passages):
        numbers = ", ".join(f"[{n}]" for n in unknown[:_MOST_SAID])
        more = f" and {len(unknown) - _MOST_SAID} more" if len(unknown) > _MOST_SAID else ""
        lines.append(f"{numbers}{more}: cited in the answer, but no passage has this number")
    return lines or ["no passage was found for this question"]


def listed(passages: Sequence[Passage], reply: str) -> dict[str, Any]:
    """`sources` and `unknown_citations` of a row in a file of replies."""
    rows = [{"source": each.source, "title": each.title, "address": each.address} for each in passages]
    return {"sources": rows, "unknown_citations": unknown_citations(reply, passages)}
