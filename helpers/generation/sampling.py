"""Sampling by temperature and top-p whose random numbers belong to a row, not to the batch."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

from helpers.config import GenerationSettings


def make_sampler(settings: GenerationSettings) -> Callable[[Any, Any, Any], Any]:
    """From logits, (rows, vocabulary) in float32, and each row's RNG key and position id, (rows, 1), to ids, (rows,).

    Adding Gumbel noise to the scores and taking the highest draws from their softmax (the Gumbel-max trick). The noise
    is a hash of key, position and token id, so that a row's tokens do not depend on the batch.
    """
    if settings.temperature == 0:
        return lambda logits, rng_key, position_ids: logits.argmax(-1)
    warpers = LogitsProcessorList([TemperatureLogitsWarper(settings.temperature)])
    if settings.top_p < 1:
        warpers.append(TopPLogitsWarper(settings.top_p))

    def sample(logits: Any, rng_key: Any, position_ids: Any) -> Any:
        each = _hashed(rng_key + position_ids) + torch.arange(logits.shape[-1], device=logits.device)
        uniform = ((_hashed(each) & 0x7FFFFF) + 0.5) / 2**23  # all of them float32, none 0 or 1
        return (warpers(None, logits) - (-uniform.log()).log()).argmax(-1)

    return sample


def _hashed(x: Any) -> Any:
    """SplitMix64 (Steele, Lea and Flood 2014) of int64 tensors: neighbouring numbers to unrelated ones."""
    x = x * -0x61C8864680B583EB  # its golden gamma, as a signed number; shifts are of the unsigned one
    x = (x ^ ((x >> 30) & (2**34 - 1))) * -0x40A7B892E31B1A47
    x = (x ^ ((x >> 27) & (2**37 - 1))) * -0x6B2FB644ECCEEE15
    return x ^ ((x >> 31) & (2**33 - 1))


def row_keys(seed: int, indices: Any) -> Any:
    """An RNG key for each prompt index (int64)."""
    return _hashed(indices + _hashed(torch.tensor(seed, device=indices.device)))
