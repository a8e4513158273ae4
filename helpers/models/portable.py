"""Configuration files that transformers 4 and 5, and engines built on either, read alike.

transformers 5 writes names that 4 does not know. Some stop 4 with an error. Others it ignores, and the model silently
runs with wrong rotary frequencies or takes twice its memory.
"""

from typing import Any

# Rotary settings that transformers 4 reads at the top level, not inside `rope_scaling`.
_TOP = ("rope_theta", "partial_rotary_factor")
# How transformers 5 loaded the tokenizer; nothing about the tokenizer.
_NOTES = ("backend", "is_local", "local_files_only")


def portable_config(config: dict[str, Any]) -> dict[str, Any]:
    """A config.json, or a part of it such as `text_config`, with 4's names beside 5's.

    4 reads `rope_theta` and `rope_scaling`, and for layers with sliding attention `rope_local_base_freq`; 5 writes
    `rope_parameters` and reads both. Up to 4.55 the weights' type is `torch_dtype`, and float32 without it.
    """
    portable = {
        key: portable_config(value) if key.endswith("_config") and isinstance(value, dict) else value
        for key, value in config.items()
    }
    by_layer = config.get("rope_parameters") or {}
    rope = by_layer.get("full_attention") or by_layer
    portable |= {key: rope[key] for key in _TOP if key in rope}
    if rope.get("rope_type", rope.get("type", "default")) != "default":
        portable["rope_scaling"] = {key: value for key, value in rope.items() if key not in _TOP}
    if sliding := by_layer.get("sliding_attention"):
        portable["rope_local_base_freq"] = sliding["rope_theta"]
    if dtype := config.get("dtype") or config.get("torch_dtype"):
        portable |= {"dtype": dtype, "torch_dtype": dtype}
    return portable


def portable_tokenizer_config(config: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer_config.json for a folder with a tokenizer.json.

    The class takes tokenizer.json as it is, in 4 and in 5: a model's own class can replace the pre-tokenizer, and 4 has
    no `TokenizersBackend`. 4 reads a list of special tokens only as `additional_special_tokens`; 5 reads either name.
    """
    portable = {key: value for key, value in config.items() if key not in _NOTES}
    portable["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(portable.get("extra_special_tokens"), list):
        portable["additional_special_tokens"] = portable.pop("extra_special_tokens")
    return portable
