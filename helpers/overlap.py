"""Which evaluation questions the training rows give away: the same text, shared runs of words, nearest neighbours."""

import textwrap
from collections import Counter
from itertools import chain, pairwise
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

from helpers.questions import ChoiceQuestion
from helpers.similarity import BLOCK, normalise, runs

# TF-IDF cosine that flags a question. Four of 187 real rows are known rewrites of one of 1,700 benchmark questions,
# with 0.32, 0.24, 0.156 and 0.144: this finds three, and flags four other questions (0.2: two and none; 0.14: all and
# nine). MedQA dev's flags grow about evenly with the rows: 1.4, 2.6 and 5 of 600 at n = 50, 100 and 187 (the first two
# means of 20 draws). Unrelated exam questions in place of rows make them grow as n to the power 0.7 (n = 187 to 900).
# At 19,700 rows that is 22% of MedQA dev, and even growth would be 88%: from so few flags no more than a guess.
CLOSE = 0.15
NGRAM = 13  # words, as in the GPT-3 paper (Brown et al. 2020, appendix C); shorter runs are mostly stock phrases
# Share of a question's runs that flags it, when one row holds them. Of 599 MedQA dev questions 165 have a run in common
# with another one and 5 this share, by stock phrases; with the 187 real rows 5 have a run in common, none over 0.03.
COVERAGE = 0.1
SHOWN = 10, 50  # pairs in the report: the nearest, and at most so many when more than those are flagged


def overlap(rows: list[dict[str, Any]], tasks: dict[str, list[ChoiceQuestion]]) -> dict[str, Any]:
    """What the training rows share with the questions that are to judge the model: told to the reader, nothing dropped.

    By task: `exact`, how many questions are a row's question after `normalise`; `ngram`, the share of a question's
    runs of NGRAM words that is found in one row; `cosine`, to the nearest row by TF-IDF of words and word pairs, the
    question with its options against the row's question with its answer; `flagged`, the ids of the questions that are
    exact or reach COVERAGE or CLOSE, which a clean score leaves out; `top`, the flagged pairs and then the nearest,
    each with its `reasons` and the row of the first of them. The rows were rewritten by a language model, so that
    exact and ngram find little: it takes the nearest pairs to see a rewrite, and some are too free even for that.
    """
    items = [(task, question) for task, questions in tasks.items() for question in questions]
    asked = [normalise(question.question) for _, question in items]
    in_full = [normalise("\n".join([question.question, *question.options.values()])) for _, question in items]
    answered = [normalise(f"{row['Question']}\n{row['Response']}") for row in rows]
    asked_runs = [runs(text, NGRAM) for text in asked]
    askers: dict[str, list[int]] = {}  # run to the questions that hold it
    for k, held in enumerate(asked_runs):
        for run in held:
            askers.setdefault(run, []).append(k)
    copies: dict[str, int] = {}  # question to the first row that asks it
    quoted = [(0, 0)] * len(items)  # the most of a question's runs in one row, and that row
    for number, (row, text) in enumerate(zip(rows, answered, strict=True)):
        copies.setdefault(normalise(row["Question"]), number)
        met = askers.keys() & (runs(text, NGRAM) | runs(normalise(row["Complex_CoT"]), NGRAM))
        for k, shared in Counter(chain.from_iterable(askers[run] for run in met)).items():
            if shared > quoted[k][0]:
                quoted[k] = shared, number
    # Hashing saves the table of a million word pairs; in 4 million places few of them meet.
    count = HashingVectorizer(n_features=2**22, analyzer=_words_and_pairs, norm=None, alternate_sign=False, dtype="f4")
    matrix = TfidfTransformer(sublinear_tf=True).fit_transform(count.transform([*answered, *in_full]))
    ours, theirs = matrix[: len(rows)].T.tocsr(), matrix[len(rows) :]
    by_task: dict[str, list[dict[str, Any]]] = {task: [] for task in tasks}
    for start in range(0, len(items), BLOCK):
        for k, scores in enumerate((theirs[start : start + BLOCK] @ ours).toarray(), start):
            (task, question), nearest = items[k], int(scores.argmax())
            cosine = round(float(scores[nearest]), 3)
            share = round(quoted[k][0] / len(asked_runs[k]), 3) if asked_runs[k] else None
            reasons = {"exact": copies[asked[k]]} if asked[k] in copies else {}
            if share is not None and share >= COVERAGE:
                reasons["ngram"] = quoted[k][1]
            if cosine >= CLOSE:
                reasons["cosine"] = nearest
            row = rows[next(iter(reasons.values()), nearest)]
            pair = {"id": question.id, "reasons": [*reasons], "cosine": cosine, "ngram": share, "line": row["line"]}
            pair["question"] = textwrap.shorten(question.question, 300, placeholder=" ...")
            pair["row"] = textwrap.shorten(row["Question"], 300, placeholder=" ...")
            by_task[task].append(pair)
    return {task: _summary(pairs) for task, pairs in by_task.items()}


def _summary(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    shares = [pair["ngram"] for pair in pairs if pair["ngram"] is not None]
    cosines = [pair["cosine"] for pair in pairs]
    flagged = [pair["id"] for pair in pairs if pair["reasons"]]
    why = Counter(chain.from_iterable(pair["reasons"] for pair in pairs))
    ngram = {"words": NGRAM, "questions": len(shares), "any": sum(share > 0 for share in shares)}
    ngram |= {"max": max(shares, default=0.0), "close": why["ngram"], "close_at": COVERAGE}
    first = sorted(pairs, key=lambda p: ("exact" not in p["reasons"], "ngram" not in p["reasons"], -p["cosine"]))
    return {
        "questions": len(pairs),
        "exact": why["exact"],
        "ngram": ngram,
        "cosine": {**quantiles(cosines), "close": why["cosine"], "close_at": CLOSE},
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
