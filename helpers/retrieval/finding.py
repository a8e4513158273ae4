"""Does the search find the document that answers? By query, with intervals; the options are never part of one."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import fmean, median
from typing import Any

from helpers.knowledge.dense import FusedIndex
from helpers.knowledge.index import Index
from helpers.knowledge.library import Library, holds
from helpers.questions.multiple_choice import ChoiceQuestion
from helpers.scoring.statistics import mean_interval, paired_difference, share_interval

HITS = (1, 5, 10)
WORDS_ALONE = "question, by words alone"
Queries = Mapping[str, Callable[[ChoiceQuestion], str]]


def queries(library: Library, thoughts: Mapping[str, Mapping[str, str]]) -> dict[str, Callable[[ChoiceQuestion], str]]:
    """Ways to make a query of a question, by name.

    `thoughts` maps "base" and "tuned" to the thought of each question by its id, asked without its options.
    """
    made: dict[str, Callable[[ChoiceQuestion], str]] = {"question": lambda q: q.question}
    if isinstance(library.index, FusedIndex):
        made[WORDS_ALONE] = made["question"]
    if library.synonyms:
        made["question and synonyms"] = lambda q: library.widened(q.question)
    for side, texts in thoughts.items():
        made[f"{side} model's thought"] = lambda q, texts=texts: texts[q.id]
        made[f"question and {side} model's thought"] = lambda q, texts=texts: f"{q.question} {texts[q.id]}"
    return made


def find(library: Library, asked: Sequence[ChoiceQuestion], ways: Queries) -> dict[str, Any]:
    """By query: hit@1, 5 and 10, MRR, and milliseconds a search, over the questions that name a document of it.

    MRR: the mean of 1 over the place of the first passage of the right document, 0 if none is among the first 10.
    Shares have exact intervals, means Student's t; `paired` compares each query with the question alone. {} where no
    question names one.
    """
    there = library.names
    known = [question for question in asked if question.answered_by in there]
    if not known:
        return {}
    places, times = {}, {}
    for name, query in ways.items():
        places[name], times[name] = [], []
        search = partial(Index.search, library.index) if name == WORDS_ALONE else library.index.search
        for question in known:
            started = time.perf_counter()
            found = search(query(question), max(HITS))
            times[name].append(1000 * (time.perf_counter() - started))
            places[name].append(next((n for n, each in enumerate(found, 1) if holds(each, question.answered_by)), None))
    reciprocal = {name: [1 / place if place else 0.0 for place in found] for name, found in places.items()}
    return {
        name: {
            "n": len(known),
            "hits": {str(k): _share([place is not None and place <= k for place in found]) for k in HITS},
            "mrr": fmean(reciprocal[name]),
            "mrr_ci95": [min(max(end, 0.0), 1.0) for end in mean_interval(reciprocal[name]) or ()] or None,
            "paired": paired_difference(reciprocal["question"], reciprocal[name]) if name != "question" else None,
            "median_ms": median(times[name]),
        }
        for name, found in places.items()
    }


def _share(hits: Sequence[bool]) -> dict[str, Any]:
    return {"share": fmean(hits), "ci95": list(share_interval(sum(hits), len(hits)))}
