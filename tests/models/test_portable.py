"""Configurations in the form that both major versions of transformers read; test_transformers4.py asks the older."""

import json

import pytest
from transformers import AutoConfig, AutoTokenizer, Gemma3Config, PreTrainedTokenizerFast

from helpers.files import read_json, write_json
from helpers.models.packaged import tiny_folder
from helpers.models.portable import portable_config, portable_tokenizer_config

SHAPE = {
    "vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 64, "torch_dtype": "float32",
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
# As makers of models wrote them for transformers 4.
MAKERS = {
    "theta": {"model_type": "llama", "rope_theta": 100_000.0},
    "linear": {"model_type": "llama", "rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    "llama3": {"model_type": "llama", "rope_theta": 500_000.0, "rope_scaling": LLAMA3},
    "yarn": {"model_type": "qwen3", "rope_theta": 1_000_000.0, "rope_scaling": YARN},
    "partial": {"model_type": "phi", "rope_theta": 100_000.0, "partial_rotary_factor": 0.5},
    "gemma3": {
        "model_type": "gemma3_text",
        "rope_theta": 1_000_000.0,
        "rope_local_base_freq": 20_000.0,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "layer_types": ["sliding_attention", "full_attention"],
        "sliding_window": 8,
    },
}


@pytest.mark.parametrize("name", MAKERS)
def test_rope_and_type_have_both_versions_names(name, tmp_path):
    maker = SHAPE | MAKERS[name]
    assert portable_config(maker) == maker | {"dtype": maker["torch_dtype"]}  # 5 reads what was written for 4
    write_json(tmp_path / "config.json", maker)
    before = AutoConfig.from_pretrained(tmp_path)
    before.save_pretrained(tmp_path)
    written = read_json(tmp_path / "config.json")
    assert "rope_theta" not in written  # else this test shows nothing
    portable = portable_config(written)
    rope = ("rope_theta", "rope_scaling", "rope_local_base_freq", "partial_rotary_factor", "torch_dtype")
    assert {key: portable[key] for key in rope if key in portable} == {key: maker[key] for key in rope if key in maker}
    assert {key: value for key, value in portable.items() if key in written} == written
    assert portable_config(portable) == portable
    write_json(tmp_path / "config.json", portable)
    after = AutoConfig.from_pretrained(tmp_path)
    assert (after.rope_parameters, after.dtype) == (before.rope_parameters, before.dtype)


def test_the_parts_of_a_composite_configuration_are_rewritten_too(tmp_path):
    text = {key: value for key, value in SHAPE.items() if key != "torch_dtype"} | MAKERS["gemma3"]
    Gemma3Config(text_config=text, dtype="bfloat16").save_pretrained(tmp_path)
    portable = portable_config(read_json(tmp_path / "config.json"))
    assert portable["torch_dtype"] == "bfloat16"
    assert portable["text_config"]["rope_theta"] == 1_000_000.0
    assert portable["text_config"]["rope_local_base_freq"] == 20_000.0
    assert portable["text_config"]["rope_scaling"] == {"rope_type": "linear", "factor": 8.0}
    assert "rope_theta" not in portable


@pytest.mark.parametrize("config", [{}, {"rope_parameters": None}, {"rope_parameters": {"full_attention": None}}])
def test_a_configuration_without_rope_stays_as_it_is(config):
    assert portable_config(config) == config


def test_a_tokenizer_comes_back_with_a_class_and_special_tokens_that_both_read(tmp_path):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny_folder())
    tokenizer.add_special_tokens({"additional_special_tokens": ["<a>"]})
    tokenizer.save_pretrained(tmp_path)
    written = read_json(tmp_path / "tokenizer_config.json")
    assert isinstance(written["extra_special_tokens"], list)  # transformers 4 stops at it
    portable = portable_tokenizer_config(written)
    assert portable_tokenizer_config(portable) == portable
    assert portable["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert portable["additional_special_tokens"] == written["extra_special_tokens"]
    assert not {"extra_special_tokens", "backend", "is_local", "local_files_only"} & set(portable)
    write_json(tmp_path / "tokenizer_config.json", portable)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.all_special_tokens == tokenizer.all_special_tokens
    assert json.loads(again.backend_tokenizer.to_str()) == json.loads(tokenizer.backend_tokenizer.to_str())


def test_named_special_tokens_stay_a_dict():
    config = {"tokenizer_class": "GemmaTokenizer", "extra_special_tokens": {"image_token": "<image>"}}
    assert portable_tokenizer_config(config)["extra_special_tokens"] == {"image_token": "<image>"}
