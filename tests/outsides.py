"""Model folders with tiny random weights behind real models' tokenizer, template and configuration."""

import json
import shutil
from pathlib import Path

import pytest

from helpers import PROJECT_ROOT

MODELS = PROJECT_ROOT.parent / "shared" / "models"
REAL = ("r1-distill-llama-8b", "qwen3-8b")
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}


def real_outside(name: str) -> Path:
    """The folder of a real model's outside in ../shared; skips the test where that is not here."""
    if not (MODELS / name).is_dir():
        pytest.skip("the real tokenizers in ../shared/models are not here")
    return MODELS / name


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
