"""Contamination: evaluation questions that training rows contain, by exact text, shared n-grams and TF-IDF cosine."""

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain, pairwise
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

from helpers.dataset_prep.similarity import BLOCK, normalise, runs
from helpers.questions.multiple_choice import ChoiceQuestion

# A TF-IDF cosine flags a question by how far its nearest row stands above its other near rows. No fixed cosine does:
# the nearest of unrelated rows comes closer with every row, and 0.15 flags 0.4% of 1,700 benchmark questions beside
# 187 real rows but 6% beside 15,700 unrelated ones. In logs, the nearest rows have the spacings of a Pareto tail
# (Renyi 1953), and there the first beats the tenth by STANDOUT times what the second usually has over the eleventh
# (the median of a task's questions) in 1% of cases, by however many rows. Beside 50 to 15,700 unrelated rows 0.3 to
# 2.5% of four tasks' questions were flagged, 3 to 4% beside 19,700 made of other questions' sentences; of 600 vignettes
# that came with another ending 598.
RANK = 10
STANDOUT = 3.75
LEAST = 0.1  # the least median that is used: so the nearest row has at least 1.45 times the cosine of the tenth
FAINT = 0.1  # cosine below which pairs share stock phrases and no more
SURE = 0.5  # and at which they share the text: of unrelated pairs none had more than 0.35
NEAREST = 0.01  # share of a task's questions flagged for the highest cosines alone: short rewrites do not stand out
NGRAM = 13  # words, as in the GPT-3 paper (Brown et al. 2020, appendix C); shorter runs are mostly stock phrases
# Share of a question's runs that flags it, when one row holds them. Of 599 MedQA dev questions 165 have a run in common
# with another one and 5 this share, by stock phrases; with the 187 real rows 5 have a run in common, none over 0.03.
COVERAGE = 0.1
SHOWN = 10, 50  # pairs in the report: the nearest, and at most so many when more than those are flagged


def overlap(rows: Sequence[Mapping[str, Any]], tasks: dict[str, list[ChoiceQuestion]]) -> dict[str, Any]:
    """Overlap of the training rows with the evaluation questions; it is reported, and no row is dropped.

    By task: `exact`, how many questions are a row's question after `normalise`; `ngram`, the share of a question's
    runs of NGRAM words that is found in one row; `cosine`, to the nearest row by TF-IDF of words and word pairs, the
    question with its options against the row's question with its answer; `flagged`, the ids of the questions that are
    exact, reach COVERAGE or are `_close`, which a clean score leaves out; `top`, the flagged pairs and then the
    nearest, each with its `reasons` and the row of the first of them. The rows were rewritten by a language model, so
    that exact and ngram find little: it takes the nearest pairs to see a rewrite, and some are too free even for that.
    """
    items = [(task, question) for task, questions in tasks.items() for question in questions]
    asked = [normalise(question.question) for _, question in items]
    in_full = [normalise("\n".join([question.question, *question.options.values()])) for _, question in items]
    asked_runs = [runs(text, NGRAM) for text in asked]
    askers: dict[str, list[int]] = {}  # run to the questions that hold it
    for k, held in enumerate(asked_runs):
        for run in held:
            askers.setdefault(run, []).append(k)
    copies, wanted = {}, set(asked)  # question to the first row that asks it
    quoted = [(0, 0)] * len(items)  # the most of a question's runs in one row, and that row
    for number, row in enumerate(rows):
        if (question := normalise(row["Question"])) in wanted:
            copies.setdefault(question, number)
        met = askers.keys() & (runs(_answered(row), NGRAM) | runs(normalise(row["Complex_CoT"]), NGRAM))
        for k, shared in Counter(chain.from_iterable(askers[run] for run in met)).items():
            if shared > quoted[k][0]:
                quoted[k] = shared, number
    cosines, numbers = _nearest(rows, in_full)
    names = np.array([task for task, _ in items])
    close = np.zeros(len(items), dtype=bool)
    for task in tasks:
        close[names == task] = _close(cosines[names == task])
    by_task: dict[str, list[dict[str, Any]]] = {task: [] for task in tasks}
    for k, (task, question) in enumerate(items):
        share = round(quoted[k][0] / len(asked_runs[k]), 3) if asked_runs[k] else None
        reasons = {"exact": copies[asked[k]]} if asked[k] in copies else {}
        if share is not None and share >= COVERAGE:
            reasons["ngram"] = quoted[k][1]
        if close[k]:
            reasons["cosine"] = numbers[k]
        row, cosine = rows[next(iter(reasons.values()), numbers[k])], round(float(cosines[k, 0]), 3)
        pair = {"id": question.id, "reasons": [*reasons], "cosine": cosine, "ngram": share, "line": row["line"]}
        pair["question"] = textwrap.shorten(question.question, 300, placeholder=" ...")
        pair["row"] = textwrap.shorten(row["Question"], 300, placeholder=" ...")
        by_task[task].append(pair)
    return {task: _summary(pairs) for task, pairs in by_task.items()}


def _answered(row: Mapping[str, Any]) -> str:
    return normalise(f"{row['Question']}\n{row['Response']}")


def _nearest(rows: Sequence[Mapping[str, Any]], questions: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The RANK + 1 highest cosines of each question with the rows, falling, and the number of its nearest row.

    Shapes (questions, RANK + 1), fewer where there are fewer rows, and (questions,).
    """
    # Hashing saves the table of a million word pairs; in 4 million places few of them meet.
    count = HashingVectorizer(n_features=2**22, analyzer=_words_and_pairs, norm=None, alternate_sign=False, dtype="f4")
    asked = count.transform(questions)
    weigh = TfidfTransformer(sublinear_tf=True).fit(asked)
    frequency = np.bincount(asked.indices, minlength=asked.shape[1]).astype("f4")
    starts = range(0, len(rows), BLOCK)
    for start in starts:
        frequency += np.bincount(
            count.transform(map(_answered, rows[start : start + BLOCK])).indices, minlength=len(frequency)
        )
    # As TfidfTransformer makes them of all at once.
    weigh.idf_ = np.log((np.full_like(frequency, len(rows) + len(questions) + 1)) / (frequency + 1)) + 1
    theirs = weigh.transform(asked)
    highest, nearest = np.full((len(questions), 0), 0, dtype="f4"), np.zeros(len(questions), dtype=int)
    for start in starts:
        ours = weigh.transform(count.transform(map(_answered, rows[start : start + BLOCK])))
        scores = (theirs @ ours.T.tocsr()).toarray()
        best = scores.argmax(axis=1)
        if start:
            better = scores[np.arange(len(best)), best] > highest[:, 0]
            nearest[better] = best[better] + start
        else:
            nearest = best
        both = np.hstack([highest, scores])
        highest = -np.sort(-np.partition(both, -min(RANK + 1, both.shape[1]))[:, -RANK - 1 :])
    return highest, nearest


def _close(cosines: np.ndarray) -> np.ndarray:
    """Mask (questions,) of a task's questions whose nearest row is closer than unrelated rows are.

    `cosines` holds each question's highest, falling: (questions, RANK + 1), or fewer columns where there are fewer
    rows, and then only SURE and NEAREST flag. That the second to the eleventh are the measure keeps a task's bound
    where it is when every question has a row that was made from it.
    """
    nearest = cosines[:, 0]
    highest = np.zeros(len(nearest), dtype=bool)
    highest[np.argsort(-nearest, kind="stable")[: int(NEAREST * len(nearest))]] = True
    if cosines.shape[1] > RANK:
        logs = np.log(np.maximum(cosines, FAINT / 10))
        usual = max(LEAST, float(np.median(logs[:, 1] - logs[:, RANK])))
        highest |= logs[:, 0] - logs[:, RANK - 1] >= STANDOUT * usual
    return highest & (nearest >= FAINT) | (nearest >= SURE)


def _summary(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    shares = [pair["ngram"] for pair in pairs if pair["ngram"] is not None]
    cosines = [pair["cosine"] for pair in pairs]
    flagged = [pair["id"] for pair in pairs if pair["reasons"]]
    why = Counter(chain.from_iterable(pair["reasons"] for pair in pairs))
    ngram = {"words": NGRAM, "questions": len(shares), "any": sum(share > 0 for share in shares)}
    ngram |= {"max": max(shares, default=0.0), "close": why["ngram"], "close_at": COVERAGE}
    first = sorted(
        pairs, key=lambda p: ("exact" not in p["reasons"], "ngram" not in p["reasons"], not p["reasons"], -p["cosine"])
    )
    return {
        "questions": len(pairs),
        "exact": why["exact"],
        "ngram": ngram,
        "cosine": {**quantiles(cosines), "close": why["cosine"]},
        "flagged": flagged,
        "top": first[: max(SHOWN[0], min(SHOWN[1], len(flagged)))],
    }


def _words_and_pairs(text: str) -> list[str]:
    words = text.split(" ")
    return [*words, *map(" ".join, pairwise(words))]


def quantiles(values: list[float]) -> dict[str, float]:
    """The 5th, 50th and 95th percentile and the largest, to three digits."""
    points = np.quantile(values, [0.05, 0.5, 0.95, 1]).round(3).tolist()
    return dict(zip(("p5", "median", "p95", "max"), points, strict=True))
