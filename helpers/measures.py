"""More than accuracy: repetition, accuracy by length of the thought, calibration of the answer's letter.

Rows are predictions as `helpers.evaluation.predict` makes them, a choice question's maybe with `letters`, its options'
probabilities. Shares, accuracies and probabilities are fractions; results are plain numbers, None where undefined.
"""

import warnings
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

import numpy as np
from scipy import stats

from helpers.intervals import mean_interval, wilson_interval
from helpers.progress import Progress
from helpers.prompts import END_THINK, encode_thought, split_reasoning

LEAD = "\n\nThe answer is"  # as the questions ask for it
LEAST = 10  # rows a bin: the 95% interval of even ten spans up to half of all accuracies
POSITIONS = 8192  # tokens that go through the model at a time, padding included
RESAMPLES = 5000

Row = Mapping[str, Any]


def paired_difference(base_values: Sequence[float], tuned_values: Sequence[float]) -> dict[str, Any]:
    """Means of a measure over the same rows in the same order, and tuned minus base with its t interval, None of few.

    Rows are the units: one row's two values are paired, and its tokens are not independent of each other.
    """
    base, tuned = np.asarray(base_values, dtype=float), np.asarray(tuned_values, dtype=float)
    if base.shape != tuned.shape:
        raise ValueError(f"need one value of each side a row, got {base.shape} and {tuned.shape}")
    interval = mean_interval(tuned - base)
    return {
        "n": base.size,
        "base": float(base.mean()),
        "tuned": float(tuned.mean()),
        "delta": float((tuned - base).mean()),
        "delta_ci95": _known(interval),
    }


def _known(interval: tuple[float, float]) -> list[float] | None:
    """As JSON: None for the infinite interval of too few values."""
    return list(interval) if np.isfinite(interval).all() else None


def repetition_rate(text: str, n: int = 4) -> float:
    """The share of a text's n-grams of words that stood there before; 0 for a text of fewer than n words.

    seq-rep-n of Welleck et al. (Neural Text Generation with Unlikelihood Training, ICLR 2020), with words for tokens,
    so that two tokenizers' models compare.
    """
    words = text.split()
    grams = list(zip(*(words[i:] for i in range(n)), strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def accuracy_by_length(rows: Sequence[Row], seed: int, bins: int = 4) -> dict[str, Any]:
    """Accuracy of choice questions by the tokens of their thoughts, in bins of like many rows, shortest first.

    A reply that was cut off is left out, and counted as `truncated`: of its length only a lower bound is known (it is
    censored) and it counts as wrong by rule, so that it would make long thoughts wrong by construction. What is left
    says nothing of thoughts near the limit. Replies that never closed their thought but ended are in.

    `spearman` is the rank correlation of tokens and being right, which a few very long thoughts do not decide; its
    percentile bootstrap interval is None where over 1% of the resamples have none, as with four right answers or fewer.
    It is no effect: a harder question gets a longer thought and a wrong answer.
    """
    whole = [row for row in rows if row["finished"]]
    tokens = np.array([row["thinking_tokens"] for row in whole], dtype=float)
    correct = np.array([row["correct"] for row in whole], dtype=float)
    found = {"n": len(whole), "truncated": len(rows) - len(whole), "spearman": None, "spearman_ci95": None, "bins": []}
    if not whole:
        return found
    number = _bin_numbers(tokens, bins)
    for each in np.unique(number):
        inside = number == each
        found["bins"].append(
            {
                "tokens": [int(tokens[inside].min()), int(tokens[inside].max())],
                "median_tokens": float(median(tokens[inside])),
                **_share(correct[inside]),
            }
        )
    if len(set(tokens)) > 1 and len(set(correct)) > 1:
        found["spearman"] = float(_spearman(tokens, correct))
        drawn = _resampled(_spearman, tokens, correct, seed)
        if np.isnan(drawn).mean() <= 0.01:
            found["spearman_ci95"] = np.nanpercentile(drawn, [2.5, 97.5]).tolist()
    return found


def calibration(rows: Sequence[Row], seed: int, bins: int = 10) -> dict[str, Any] | None:
    """How far the letters' probabilities can be believed; None where no row has any. Rows without are `left_out`.

    `ece` is the expected calibration error (Guo et al., On Calibration of Modern Neural Networks, ICML 2017): the mean
    over rows of how far a bin's accuracy is from its mean confidence, which is the largest letter's probability. Bins
    hold like many rows, not like widths of confidence: of a few hundred rows those would have bins of one or two,
    whose accuracy is 0 or 1. `brier` is Brier's score (1950) over all letters, 0 to 2.

    ECE sums absolute values, so noise adds to it and n rows of a model that is perfectly calibrated have one above 0:
    `ece_if_calibrated` is that model's mean, and 95% of its draws lie below `ece_if_calibrated_p95`, by simulation
    with these confidences. A bootstrap adds the noise once more, and its percentiles would leave the truth out (of 60
    rows of a calibrated model, always). So the interval is the basic one, mirrored at the estimate, and reaches from 0
    to the estimate at the least, the former where noise alone explains the ECE. Of 60 or 200 simulated rows it held
    the truth about 9 times in 10: take it for a rough one.
    """
    known = [row for row in rows if row.get("letters")]
    if not known:
        return None
    confidence = np.array([max(row["letters"].values()) for row in known])
    hit = np.array([max(row["letters"], key=row["letters"].get) == row["answer_idx"] for row in known], dtype=float)
    brier = [_brier(row["letters"], row["answer_idx"]) for row in known]
    ece = float(_ece(confidence, hit, bins))
    high, low = 2 * ece - np.percentile(_resampled(_ece, confidence, hit, seed, bins=bins), [2.5, 97.5])
    draws = np.random.default_rng(seed).random((RESAMPLES, len(known))) < confidence
    if_calibrated = _ece(np.broadcast_to(confidence, draws.shape), draws, bins)
    p95 = float(np.percentile(if_calibrated, 95))
    number = _bin_numbers(confidence, bins)
    return {
        "n": len(known),
        "left_out": len(rows) - len(known),
        "accuracy": float(hit.mean()),
        "confidence": float(confidence.mean()),
        "ece": ece,
        "ece_ci95": [max(0.0, float(low)) if ece > p95 else 0.0, max(ece, float(high))],
        "ece_if_calibrated": float(if_calibrated.mean()),
        "ece_if_calibrated_p95": p95,
        "brier": fmean(brier),
        "brier_ci95": _known(mean_interval(brier)),
        "bins": [
            {"confidence": float(confidence[number == each].mean()), **_share(hit[number == each])}
            for each in np.unique(number)
        ],
    }


def letter_probabilities(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    replies: Sequence[str],
    options: Sequence[Mapping[str, str]],
    what: str = "letters",
) -> list[dict[str, float] | None]:
    """Of each choice question the probability of each option's letter after the reply's thought and "The answer is".

    Prompts are token ids, as `encode_prompt` makes them; options map letters to texts. None where the thought was not
    closed, and where the vocabulary does not tell the letters apart by one token. The probabilities are a softmax over
    the letters alone: what the model would say if it had to name one now. The reply may state another.
    """
    from helpers.decoding import left_padded
    from helpers.generation import forward_only

    asked: dict[int, list[int]] = {}
    tokens: dict[int, list[int]] = {}
    for i, (prompt, reply, lettered) in enumerate(zip(prompts, replies, options, strict=True)):
        spelled = _spelled(tokenizer, tuple(lettered))
        if spelled and split_reasoning(reply).closed:
            lead, tokens[i] = spelled
            asked[i] = [*prompt, *encode_thought(tokenizer, reply.rpartition(END_THINK)[0]), *lead]
    found: list[dict[str, float] | None] = [None] * len(prompts)
    if not asked:
        return found
    order = sorted(asked, key=lambda i: -len(asked[i]))
    with Progress(len(order), what) as progress, forward_only(model) as causal:
        while order:
            size = max(1, POSITIONS // len(asked[order[0]]))
            batch, order = order[:size], order[size:]
            ids, mask = (x.to(model.device) for x in left_padded([asked[i] for i in batch], tokenizer.pad_token_id))
            places = (mask.cumsum(1) - 1).clamp(min=0)
            logits = causal(
                input_ids=ids, attention_mask=mask, position_ids=places, use_cache=False, logits_to_keep=1
            ).logits
            for i, row in zip(batch, logits[:, -1].float(), strict=True):
                found[i] = dict(zip(options[i], row[tokens[i]].softmax(-1).tolist(), strict=True))
            progress.update(len(batch))
    return found


def _spelled(tokenizer: Any, letters: Sequence[str]) -> tuple[list[int], list[int]] | None:
    """The token ids that lead up to the letters, and each letter's next one; None where two letters share it.

    Encoded together, since a space is part of the letter's token in most vocabularies and a token before it in others.
    """
    spelled = [tokenizer(f"{LEAD} {letter}", add_special_tokens=False)["input_ids"] for letter in letters]
    shared = next((i for i, column in enumerate(zip(*spelled, strict=False)) if len(set(column)) > 1), None)
    if shared is None or len({ids[shared] for ids in spelled}) < len(letters):
        return None
    return spelled[0][:shared], [ids[shared] for ids in spelled]


def _bin_numbers(values: np.ndarray, bins: int) -> np.ndarray:
    """Of values (..., n) the number of each one's bin, between quantiles along the last axis, same shape.

    Equal values share a bin, so that some may be empty; there are fewer bins where these would hold under ten rows.
    """
    count = max(1, min(bins, values.shape[-1] // LEAST))
    edges = np.quantile(values, np.arange(1, count) / count, axis=-1)
    return sum((values > edge[..., None] for edge in edges), np.zeros(values.shape, dtype=int))


def _share(right: np.ndarray) -> dict[str, Any]:
    n, k = right.size, int(right.sum())
    return {"n": n, "accuracy": k / n, "ci95": list(wilson_interval(k, n))}


def _resampled(statistic: Any, x: np.ndarray, y: np.ndarray, seed: int, **more: Any) -> np.ndarray:
    """A statistic of paired values x and y, each (n,), in as many resamples of their rows; NaN where it has none."""
    if x.size == 1:  # scipy refuses it; every resample is the row itself
        return np.full(RESAMPLES, statistic(x, y, **more))
    # scipy's own interval, of which it would warn, is not taken: it is NaN for one NaN among the resamples.
    with warnings.catch_warnings(action="ignore"):
        return stats.bootstrap(
            (x, y),
            lambda x, y, axis: statistic(x, y, **more),  # the rows are the last axis
            paired=True,
            vectorized=True,
            n_resamples=RESAMPLES,
            batch=max(1, 1_000_000 // x.size),
            method="percentile",
            rng=seed,
        ).bootstrap_distribution


def _spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return stats.pearsonr(stats.rankdata(x, axis=-1), stats.rankdata(y, axis=-1), axis=-1).statistic


def _ece(confidence: np.ndarray, hit: np.ndarray, bins: int) -> np.ndarray:
    """Of confidences and hits, both (..., n), the expected calibration error, (...)."""
    number, gap = _bin_numbers(confidence, bins), confidence - hit
    return sum(abs(np.where(number == each, gap, 0).sum(-1)) for each in range(bins)) / confidence.shape[-1]


def _brier(letters: Mapping[str, float], right: str) -> float:
    return sum((p - (letter == right)) ** 2 for letter, p in letters.items())
