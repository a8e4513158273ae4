"""How a model's layers compute while it decodes: the same results up to rounding, with fewer copies and kernels."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import util
from typing import Any

import torch
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask


@contextmanager
def grouped_attention(model: Any) -> Iterator[None]:
    """In the block one new token a row is attended by groups of heads, without a copy of keys for every query head."""
    AttentionInterface.register("grouped_sdpa", _grouped_attention)
    AttentionMaskInterface.register("grouped_sdpa", sdpa_mask)
    before = model.config._attn_implementation
    model.set_attn_implementation("grouped_sdpa")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def quick_layers(model: Any) -> Iterator[None]:
    """In the block a model's layers are set up for one new token a row: by groups of heads, and by the device.

    Only there: elsewhere the model computes as it was loaded, so that its losses do not hang on whether it has replied
    before.
    """
    methods_before = [(part.__dict__, part.__dict__.get("forward")) for part in model.modules()]
    with grouped_attention(model), _fused_kernels(model) if model.device.type == "cuda" else _thin_products(model):
        try:
            yield
        finally:
            for attributes, forward in methods_before:
                attributes.pop("forward", None)
                if forward is not None:
                    attributes["forward"] = forward


@contextmanager
def _fused_kernels(model: Any) -> Iterator[None]:
    """A Llama's norms, rotations and SwiGLU by Liger's kernels, where Liger is installed.

    Each is one kernel in place of about ten, and with one token a row a kernel costs its start.
    """
    if model.config.model_type != "llama" or not util.find_spec("liger_kernel"):
        yield
        return
    # It warns of every kind of card whose kernels it cannot import, before it takes the right ones.
    logging.getLogger("liger_kernel.backends.registry").setLevel(logging.ERROR)
    from liger_kernel.transformers import apply_liger_kernel_to_llama

    # Beside the methods of the layers that are there, it replaces names in transformers' module.
    names = vars(sys.modules["transformers.models.llama.modeling_llama"])
    before = dict(names)
    apply_liger_kernel_to_llama(model=model, fused_linear_cross_entropy=False)
    try:
        yield
    finally:
        names.update(before)


@contextmanager
def _thin_products(model: Any) -> Iterator[None]:
    """Linear layers on a CPU, of a few rows with one token each, as (W x')' in place of x W'.

    The same sums. From 16 rows on, the 135M model's matrices take about a quarter less time so and its head half as
    much (float32, two AMD cores); of 8 rows they take more.
    """
    for part in model.modules():
        if type(part) is torch.nn.Linear and part.bias is None:
            part.forward = partial(_thin_product, part)
    yield


def _thin_product(layer: Any, x: Any) -> Any:
    if x.dim() != 3 or x.shape[1] > 1 or x.shape[0] < 16:
        return linear(x, layer.weight)
    return (layer.weight @ x[:, 0].t()).t().contiguous()[:, None]


def _grouped_attention(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: float | None = None, **more: Any
) -> tuple[Any, None]:
    """Attention of one new token a row: the query heads that share a key are laid out as positions of one head.

    `query` is (batch, heads, 1, size), `key` and `value` are (batch, key heads, positions, size).
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    batch, heads, length, size = query.shape
    if length > 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **more)
    grouped = query.view(batch, key.shape[1], heads // key.shape[1], size)
    output = scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=scaling)
    return output.reshape(batch, 1, heads, size), None
