"""Model folders with tiny random weights behind real models' tokenizer, template and configuration."""

import json
import shutil
from functools import cache
from pathlib import Path

import pytest

from helpers import PROJECT_ROOT

MODELS = PROJECT_ROOT.parent / "shared" / "models"
REAL = ("r1-distill-llama-8b", "qwen3-8b")
SMALL = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16,
}  # fmt: skip


def real_outside(name: str) -> Path:
    """The folder of a real model's outside in ../shared; skips the test where that is not here."""
    if not (MODELS / name).is_dir():
        pytest.skip("the real tokenizers in ../shared/models are not here")
    return MODELS / name


@cache
def real_tokenizer(name: str):
    """Loaded once a process, which takes seconds: a test that changes it copies it."""
    from helpers.config import Config
    from helpers.models.loading import load_tokenizer

    return load_tokenizer(Config.resolve("smoke", {"model.name": str(real_outside(name))}).model)


def put_behind(outside: Path, folder: Path, **config) -> Path:
    """Copy a real model's outside into `folder` and put tiny random weights beside it; returns the folder.

    config.json stays as its makers wrote it, but for the sizes, `config` and the quantisation that a copy may note.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    shutil.copytree(outside, folder)
    written = json.loads((folder / "config.json").read_text(encoding="utf-8")) | config
    part = written.get("text_config", written)
    part.update({key: value for key, value in SMALL.items() if key in part or "text_config" not in written})
    written.pop("quantization_config", None)
    (folder / "config.json").write_text(json.dumps(written), encoding="utf-8")
    shape = AutoConfig.from_pretrained(folder)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(shape).save_pretrained(folder / "weights")
    for file in (folder / "weights").glob("*.safetensors"):
        file.rename(folder / file.name)
    shutil.rmtree(folder / "weights")
    return folder


def qwen3_5(folder: Path) -> Path:
    """A tiny Qwen3.5 as its makers ship one: a model that reads images too, of whose layers some have linear attention.

    Behind Qwen3's real tokenizer, with the template of the small sizes, which thinks only when asked to (TRL has it).
    """
    import torch
    import trl
    from transformers import AutoModelForImageTextToText
    from transformers.models.qwen3_5 import Qwen3_5Config

    text = {
        "vocab_size": 151936,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 256,  # as in every size: llama.cpp expects the rotary sections that belong to it
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
    }
    vision = {"hidden_size": 32, "depth": 2, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64}
    shape = Qwen3_5Config(text_config=text, vision_config=vision, tie_word_embeddings=True)
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(shape).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["text_config"]["mtp_num_hidden_layers"] = 1  # its makers' file has this, for a head that drafts tokens
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    outside = real_outside("qwen3-8b")
    shutil.copyfile(outside / "tokenizer.json", folder / "tokenizer.json")
    declared = json.loads((outside / "tokenizer_config.json").read_text(encoding="utf-8"))
    template = Path(trl.__file__).parent / "chat_templates" / "qwen3_5_nothink.jinja"
    declared["chat_template"] = template.read_text(encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(declared), encoding="utf-8")
    return folder
