"""How a model's layers compute while it decodes: the same results up to rounding, with fewer copies and kernels."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import util
from typing import Any

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
def fused_kernels(model: Any) -> Iterator[None]:
    """In the block a Llama on a GPU takes Liger's kernels for norms, rotations and SwiGLU, where Liger is installed.

    Each is one kernel in place of about ten, and with one token a row a kernel costs its start. Only there: elsewhere
    the model computes as it was loaded, so that its losses do not hang on whether it has replied before.
    """
    if model.device.type != "cuda" or model.config.model_type != "llama" or not util.find_spec("liger_kernel"):
        yield
        return
    from liger_kernel.transformers import apply_liger_kernel_to_llama

    # It replaces names in transformers' module, and methods of the layers that are there.
    names = vars(sys.modules["transformers.models.llama.modeling_llama"])
    names_before = dict(names)
    methods_before = [(part.__dict__, part.__dict__.get("forward")) for part in model.modules()]
    apply_liger_kernel_to_llama(model=model, fused_linear_cross_entropy=False)
    try:
        yield
    finally:
        names.update(names_before)
        for attributes, forward in methods_before:
            attributes.pop("forward", None)
            if forward is not None:
                attributes["forward"] = forward


def _grouped_attention(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: float | None = None, **more: Any
) -> tuple[Any, None]:
    """Attention of one new token a row: the query heads that share a key are laid out as positions of one head.

    `query` is (batch, heads, 1, size), `key` and `value` are (batch, key heads, positions, size).
    """
    from torch.nn.functional import scaled_dot_product_attention
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    batch, heads, length, size = query.shape
    if length > 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **more)
    grouped = query.view(batch, key.shape[1], heads // key.shape[1], size)
    output = scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=scaling)
    return output.reshape(batch, 1, heads, size), None
