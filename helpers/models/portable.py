"""The files of a model folder in the form that transformers 4 and 5, and engines built on either, read alike.

transformers 5 writes names that 4 does not know. Some stop 4 with an error, others are passed over: a model then runs
with rotary frequencies for another base, or takes twice its memory, without a word.
"""

from typing import Any

# Rotary settings that transformers 4 reads at the top of the configuration, not among those of the scaling.
_TOP = ("rope_theta", "partial_rotary_factor")
# What transformers 5 notes about how it loaded the tokenizer; nothing about the tokenizer.
_NOTES = ("backend", "is_local", "local_files_only")


def portable_config(config: dict[str, Any]) -> dict[str, Any]:
    """The contents of a config.json, or of one of its parts such as `text_config`, with 4's names beside 5's.

    4 reads `rope_theta` and `rope_scaling`, 5 writes `rope_parameters` and reads both. Where layers differ, 4 takes
    those with full attention from these two and the base of the sliding ones from `rope_local_base_freq`. Up to 4.55
    the weights' type is `torch_dtype`; without it they are loaded as float32.
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
    """The contents of a tokenizer_config.json that lies beside a tokenizer.json, which decides how text is split.

    The class is the one that takes tokenizer.json as it is, in 4 and in 5: a model's own class can put another
    pre-tokenizer in its place, and 4 has no `TokenizersBackend`. A list of further special tokens is
    `additional_special_tokens` in 4, which takes `extra_special_tokens` for a dict; 5 reads either.
    """
    portable = {key: value for key, value in config.items() if key not in _NOTES}
    portable["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(portable.get("extra_special_tokens"), list):
        portable["additional_special_tokens"] = portable.pop("extra_special_tokens")
    return portable
