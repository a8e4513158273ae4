"""Answers with sources: passages in front of a question, and under the reply a numbered list and what it cites."""

import re
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

from helpers import InputError
from helpers.knowledge.documents import Passage
from helpers.knowledge.index import Index
from helpers.knowledge.library import open_index
from helpers.prompts.encoding import split_reasoning
from helpers.prompts.passages import with_passages
from helpers.run_dir.folder import Run
from helpers.use.client import MAX_QUESTION

_DASH = "[-\u2010-\u2014\u2212]"
# As papers number their sources, [1], [1, 3], [1-3], [1][2] and [5, p. 3], and as models vary it: [^1], [#1], \[1\],
# [citation:1], 【1】 and 【4†source】. Numbers in round brackets are not citations: in replies (1) and (2) count steps.
_OPEN, _CLOSE = r"[\[【［]\s*[\^#]?", r"\\?[\]】］]"
_NAME = r"(?:(?:citation|passage|source|document|reference|ref|number|no)s?\.?\s*[:#]?\s*)?"
_PLACE = r"(?:†[^\]】］]{0,40}|,\s*pp?\.[^\]】］]{0,20})?"
CITED = re.compile(
    rf"{_OPEN}{_NAME}(\d{{1,3}}(?:(?:[\s,;&]|and\b|{_DASH})+\d{{1,3}})*)\s*{_PLACE}{_CLOSE}", re.IGNORECASE
)
_RANGE = re.compile(rf"(\d+)(?:\s*{_DASH}\s*(\d+))?")


def find_index(run: Run | None, path: Path | None, embedder: str | None = None) -> Index:
    """The index at `path`, else the one that 07 made in the run folder, with the run's embedder where none is given."""
    file = path or (run and run / "retrieval/index.sqlite")
    if file is None or not file.is_file():
        where = file or "no run folder"
        raise InputError(f"{where}: no index there; run 07_retrieval, or make one with `python -m helpers index`")
    index = open_index(file, embedder or (run and run.config.retrieval.embedder))
    if not len(index):
        raise InputError(f"{file} holds no passage: add files with `python -m helpers index --out {file} ...`")
    return index


def look_up(index: Index, question: str, k: int) -> tuple[str, list[Passage]]:
    """The question with up to k passages in front, as many as MAX_QUESTION characters hold, and those passages."""
    passages = index.search(question, k)
    while passages and len(with_passages(question, passages)) > MAX_QUESTION:
        passages.pop()
    return with_passages(question, passages), passages


def unknown_citations(reply: str, passages: Sequence[Any]) -> list[int]:
    """Numbers that the answer cites and no passage has, ascending; the thought may think aloud of anything."""
    cited: set[int] = set()
    for match in CITED.finditer(split_reasoning(reply).answer):
        for first, last in _RANGE.findall(match[1]):
            ends = sorted((int(first), int(last or first)))
            cited.update(range(ends[0], ends[1] + 1))
    return sorted(cited - set(range(1, len(passages) + 1)))


def listed(passages: Sequence[Passage], *replies: str) -> dict[str, Any]:
    """`sources` and `unknown_citations` of a server's answer, for its replies."""
    names = ("title", "source", "licence", "address", "text")
    rows = [{"number": n} | {name: getattr(each, name) for name in names} for n, each in enumerate(passages, 1)]
    unknown = {number for reply in replies for number in unknown_citations(reply, passages)}
    return {"sources": rows, "unknown_citations": sorted(unknown)}


def source_line(n: int, passage: Passage) -> str:
    """One passage as `[n] title (source, licence, link)`."""
    facts = [passage.source, passage.licence or "licence not stated", passage.address]
    return f"[{n}] {passage.title or 'untitled'} ({', '.join(filter(None, facts))})"


def source_lines(passages: Sequence[Passage], reply: str) -> list[str]:
    """A line for each passage: its number, title, source, licence and link; then one on citations that are in none."""
    lines = [source_line(n, each) for n, each in enumerate(passages, 1)]
    if unknown := unknown_citations(reply, passages):
        numbers = shorten(", ".join(f"[{n}]" for n in unknown), 80, placeholder=" ...")
        lines.append(f"{numbers}: cited in the answer, but no passage has this number")
    return lines or ["no passage was found for this question, or none that fits beside it"]
