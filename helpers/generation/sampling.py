"""Sampling by temperature and top-p whose random numbers belong to a row, not to the batch."""

import math
from collections.abc import Callable
from typing import Any

import torch
from transformers import TopPLogitsWarper

from helpers.config import GenerationSettings

# The likeliest tokens, among which those of top-p nearly always are: a CPU sorts and hashes a whole vocabulary as long
# as the small model takes for its step.
LIKELIEST = 512


def make_sampler(settings: GenerationSettings) -> Callable[[Any, Any, Any], Any]:
    """From logits, (rows, vocabulary) in float32, and each row's RNG key and position id, (rows, 1), to ids, (rows,).

    Adding Gumbel noise to the scores and taking the highest draws from their softmax (the Gumbel-max trick). The noise
    is a hash of key, position and token id, so that a row's tokens do not depend on the batch.
    """
    if settings.temperature == 0:
        return lambda logits, rng_key, position_ids: logits.argmax(-1)
    top_p = settings.top_p
    warp = TopPLogitsWarper(top_p) if top_p < 1 else lambda _, scores: scores

    def sample(logits: Any, rng_key: Any, position_ids: Any) -> Any:
        scores, key = logits / settings.temperature, _hashed(rng_key + position_ids)
        if top_p < 1 and logits.device.type == "cpu":
            best, ids = scores.topk(min(LIKELIEST, scores.shape[-1]))
            shares = (best - scores.logsumexp(-1, keepdim=True)).exp()
            likelier = shares.cumsum(-1) - shares  # what stands before each token, the likeliest first
            if (likelier[:, -1] >= top_p).all():
                drawn = (best.masked_fill(likelier >= top_p, -math.inf) + _gumbel(key + ids)).argmax(-1, keepdim=True)
                return ids.gather(-1, drawn)[:, 0]
        noise = _gumbel(key + torch.arange(logits.shape[-1], device=logits.device))
        return (warp(None, scores) + noise).argmax(-1)

    return sample


def _gumbel(x: Any) -> Any:
    uniform = ((_hashed(x) & 0x7FFFFF) + 0.5) / 2**23  # all of them float32, none 0 or 1
    return -(-uniform.log()).log()


def _hashed(x: Any) -> Any:
    """SplitMix64 (Steele, Lea and Flood 2014) of int64 tensors: neighbouring numbers to unrelated ones."""
    x = x * -0x61C8864680B583EB  # its golden gamma, as a signed number; shifts are of the unsigned one
    x = (x ^ ((x >> 30) & (2**34 - 1))) * -0x40A7B892E31B1A47
    x = (x ^ ((x >> 27) & (2**37 - 1))) * -0x6B2FB644ECCEEE15
    return x ^ ((x >> 31) & (2**33 - 1))


def row_keys(seed: int, indices: Any) -> Any:
    """An RNG key for each prompt index (int64)."""
    return _hashed(indices + _hashed(torch.tensor(seed, device=indices.device)))
