"""Finished folders, read by transformers 4 in a process of its own: Colab notebooks and engines still have it."""

import copy
import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from outsides import MODELS, REAL
from peft import LoraConfig, get_peft_model
from test_portable import MAKERS, SHAPE
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from helpers.export.merge import merge
from helpers.files import atomic_dir, read_json, write_json
from helpers.lora_training.train import save_adapter
from helpers.models.loading import load_base, load_tokenizer
from helpers.models.packaged import cache_folder
from helpers.models.portable import portable_config, portable_tokenizer_config
from helpers.prompts.chat_template import chat_template
from helpers.run_dir.folder import open_run

pytestmark = pytest.mark.network

RELEASE = "4.57.3"
PACKAGES = (f"transformers=={RELEASE}", "tokenizers==0.22.2", "huggingface_hub==0.36.2")
TEXT = "A fever of 39.5 °C.\n\tNew line: naïve, 头痛 🙂🏽 <think> </think>"
TURNS = [{"role": "user", "content": "Why?"}]
IDS = list(range(3, 63))
# Reads a list of folders; writes what is in them as JSON.
READER = """
import json, sys
import torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging
logging.set_verbosity_error()
task, found = json.load(sys.stdin), {}
for folder in task["tokenizers"]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(task["text"]).input_ids
    chat = tokenizer.apply_chat_template(task["turns"], tokenize=False, add_generation_prompt=True)
    special = sorted(map(str, tokenizer.all_special_tokens))
    found[folder] = {"ids": ids, "text": tokenizer.decode(ids), "chat": chat, "special": special}
for folder in task["models"]:
    model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype="auto").eval()
    stored = str(model.dtype)
    with torch.no_grad():
        logits = model.float()(torch.tensor([task["ids"]])).logits[0, -3:]
    ends = model.generation_config.eos_token_id
    found.setdefault(folder, {}).update(dtype=stored, logits=logits.tolist(), end=ends)
json.dump({"version": transformers.__version__, "found": found}, sys.stdout)
"""


@pytest.fixture(scope="module")
def transformers4():
    """A folder with transformers 4 and what it needs in older releases; the rest comes from this environment."""
    folder = cache_folder() / f"transformers-{RELEASE}"
    if not folder.is_dir():
        with atomic_dir(folder) as temporary:
            command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps", "--python", sys.executable]
            command += ["--target", str(temporary), *PACKAGES]
            try:
                ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
            except subprocess.TimeoutExpired:
                pytest.skip("the package index is too slow")
            if ended.returncode:
                pytest.skip(f"no package index: {ended.stderr.strip().splitlines()[-1]}")
    return folder


@pytest.fixture(scope="module")
def read(transformers4, tmp_path_factory):
    """Folders that this project wrote, and what transformers 4 finds in them, in one process for all.

    `run`: a finished run's adapter and merged model. `ropes`: by folder tiny models with each kind of rotary settings,
    run at positions beyond those that the scaling starts from. `saved`: by folder real tokenizers, saved by 5.
    """
    folder = tmp_path_factory.mktemp("read")
    run = open_run("smoke", folder / "run")
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    save_adapter(run, get_peft_model(load_base(run.config), lora), load_tokenizer(run.config.model))
    ropes = dict(rope_model(folder / name, SHAPE | maker) for name, maker in MAKERS.items())
    saved = dict(resaved(MODELS / name, folder / name) for name in REAL * MODELS.is_dir())
    tokenizers, models = [run / "adapter", merge(run), *saved], [run / "export/merged", *ropes]
    task = {"tokenizers": list(map(str, tokenizers)), "models": list(map(str, models))}
    ended = subprocess.run(
        [sys.executable, "-c", READER],
        input=json.dumps(task | {"text": TEXT, "turns": TURNS, "ids": IDS}),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(transformers4), "HF_HUB_OFFLINE": "1"},
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    answer = json.loads(ended.stdout)
    assert answer["version"] == RELEASE
    return SimpleNamespace(run=run, ropes=ropes, saved=saved, found=answer["found"])


def rope_model(folder, config):
    write_json(folder / "config.json", config)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    model.save_pretrained(folder)
    write_json(folder / "config.json", portable_config(read_json(folder / "config.json")))
    return folder, model


def resaved(source, folder):
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("tokenizer_config.json"))
    config = read_json(source / "tokenizer_config.json") | {"tokenizer_class": "PreTrainedTokenizerFast"}
    write_json(folder / "tokenizer_config.json", config)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(folder / "saved")
    path = folder / "saved/tokenizer_config.json"
    write_json(path, portable_tokenizer_config(read_json(path)))
    return folder / "saved", tokenizer


def assert_same_tokenizer(found, tokenizer):
    ids = tokenizer(TEXT).input_ids
    chat = tokenizer.apply_chat_template(TURNS, tokenize=False, add_generation_prompt=True)
    special = sorted(map(str, tokenizer.all_special_tokens))
    ours = {"ids": ids, "text": tokenizer.decode(ids), "chat": chat, "special": special}
    assert {key: found[key] for key in ours} == ours


def assert_same_model(found, model, dtype):
    with torch.no_grad():
        logits = model.float().eval()(torch.tensor([IDS])).logits[0, -3:].numpy()
    assert found["dtype"] == dtype
    np.testing.assert_allclose(np.array(found["logits"]), logits, atol=1e-4)


def test_a_finished_run_reads_alike(read):
    """The adapter's tokenizer, and the merged model: ids, template, weights' type, end token and logits."""
    tokenizer, merged = copy.deepcopy(load_tokenizer(read.run.config.model)), read.run / "export/merged"
    tokenizer.chat_template = chat_template(tokenizer)
    for folder in (read.run / "adapter", merged):
        assert_same_tokenizer(read.found[str(folder)], tokenizer)
    assert read.found[str(merged)]["end"] == tokenizer.eos_token_id
    assert_same_model(read.found[str(merged)], AutoModelForCausalLM.from_pretrained(merged), "torch.float16")


def test_every_kind_of_rope_reads_alike(read):
    for folder, model in read.ropes.items():
        assert_same_model(read.found[str(folder)], model, "torch.float32")


def test_real_tokenizers_saved_by_5_read_alike(read):
    if not read.saved:
        pytest.skip("the real models' files in ../shared/models are not here")
    for folder, tokenizer in read.saved.items():
        assert_same_tokenizer(read.found[str(folder)], tokenizer)
