"""Answers with sources: passages in front of a question."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from helpers import InputError
from helpers.knowledge.documents import Passage
from helpers.knowledge.index import Index
from helpers.prompts.passages import with_passages
from helpers.run_dir import Run
from helpers.use.ask import Answerer
from helpers.use.citations import listed
from helpers.use.client import MAX_QUESTION, Ended

LookUp = Callable[[str], tuple[str, list[Passage]]]


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


def looked_up_once(index: Index, k: int) -> LookUp:
    """`open_book` by the question alone, which searches for each question once."""
    return cache(partial(open_book, index, k=k))


def with_sources(answerer: Answerer, look_up: LookUp, of_what: str) -> Answerer:
    """An answerer that looks up each question first; its rows have `sources` and `unknown_citations`.

    `of_what` says what the passages are of, in `made_by`.
    """

    def stream(question: str) -> Iterator[str | Ended]:
        return answerer.stream(look_up(question)[0])

    def rows(questions: list[str]) -> Iterator[dict[str, Any]]:
        found = list(map(look_up, questions))
        for (_, passages), row in zip(found, answerer.rows([text for text, _ in found]), strict=True):
            yield {**row, **listed(passages, row["reply"])}

    def check(question: str) -> object:
        return answerer.check(look_up(question)[0])

    return replace(answerer, made_by=f"{answerer.made_by}, with {of_what}", stream=stream, rows=rows, check=check)
