"""Answers with sources: passages in front of a question, and the numbered list under the reply."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from helpers import InputError
from helpers.knowledge.documents import Passage
from helpers.knowledge.index import Index
from helpers.prompts.encoding import split_reasoning
from helpers.prompts.passages import with_passages
from helpers.run_dir import Run
from helpers.use.ask import Answerer
from helpers.use.client import MAX_QUESTION, Ended

CITED = re.compile(r"\[(\d{1,3}(?:\s*[,;]\s*\d{1,3})*)\]")  # [1], [1, 3]


def find_index(run: Run | None, path: Path | None) -> Index:
    """The index at `path`, else the one that 07 made in the run folder; InputError where there is none."""
    file = path or (run and run / "retrieval/index.sqlite")
    if file is None or not file.is_file():
        where = file or "no run folder"
        raise InputError(f"{where}: no index there; run 07_retrieval, or make one with `python -m helpers index`")
    index = Index(file)
    if not len(index):
        raise InputError(f"{file} holds no passage: add files with `python -m helpers index --out {file} ...`")
    return index


def open_book(index: Index, question: str, k: int) -> tuple[str, list[Passage]]:
    """The question with up to k passages in front, as many as MAX_QUESTION characters hold, and those passages."""
    passages = index.search(question, k)
    while passages and len(with_passages(question, passages)) > MAX_QUESTION:
        passages.pop()
    return with_passages(question, passages), passages


def unknown_citations(reply: str, passages: Sequence[Any]) -> list[int]:
    """Numbers that the answer cites and no passage has, ascending; the thought may think aloud of anything."""
    answer = split_reasoning(reply).answer
    cited = {int(n) for match in CITED.finditer(answer) for n in re.findall(r"\d+", match[1])}
    return sorted(n for n in cited if not 1 <= n <= len(passages))


def source_line(n: int, passage: Passage) -> str:
    """One passage as `[n] title (source, licence, link)`."""
    facts = [passage.source, passage.licence or "licence not stated", passage.address]
    return f"[{n}] {passage.title or 'untitled'} ({', '.join(filter(None, facts))})"


def source_lines(passages: Sequence[Passage], reply: str) -> list[str]:
    """A line for each passage: its number, title, source, licence and link; then one on citations that are in none."""
    lines = [source_line(n, each) for n, each in enumerate(passages, 1)]
    if unknown := unknown_citations(reply, passages):
        numbers = ", ".join(f"[{n}]" for n in unknown)
        lines.append(f"{numbers}: cited in the answer, but no passage has this number")
    return lines or ["no passage was found for this question"]


def with_sources(answerer: Answerer, index: Index, k: int) -> Answerer:
    """An answerer that looks up each question first; its rows have `sources` and `unknown_citations`."""

    def stream(question: str) -> Iterator[str | Ended]:
        return answerer.stream(open_book(index, question, k)[0])

    def rows(questions: list[str]) -> Iterator[dict[str, Any]]:
        looked_up = [open_book(index, question, k) for question in questions]
        for (_, passages), row in zip(looked_up, answerer.rows([text for text, _ in looked_up]), strict=True):
            listed = [{"source": each.source, "title": each.title, "address": each.address} for each in passages]
            yield {**row, "sources": listed, "unknown_citations": unknown_citations(row["reply"], passages)}

    def check(question: str) -> object:
        return answerer.check(open_book(index, question, k)[0])

    made_by = f"{answerer.made_by}, with {k} passages of {index.documents} documents"
    return replace(answerer, made_by=made_by, stream=stream, rows=rows, check=check)
