"""Finished folders, read by transformers 4 in a process of its own: Colab notebooks and engines still have it."""

import copy
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from test_portable import MAKERS, MODELS, SHAPE
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from helpers.export.merge import merge
from helpers.files import atomic_dir, read_json, write_json
from helpers.lora_training.train import save_adapter
from helpers.models.loading import load_base, load_tokenizer
from helpers.models.packaged import cache_folder
from helpers.models.portable import portable_config, portable_tokenizer_config
from helpers.prompts.chat_template import chat_template
from helpers.run_dir import open_run

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
        logits = model.float()(torch.tensor([task["ids"]])).logits
    ends = model.generation_config.eos_token_id
    found.setdefault(folder, {}).update(dtype=stored, logits=logits[0].tolist(), end=ends)
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


def read_by_4(packages, tokenizers=(), models=(), ids=IDS):
    """What transformers 4 finds in folders, each a dict by the folder."""
    task = {"tokenizers": list(map(str, tokenizers)), "models": list(map(str, models))}
    task |= {"text": TEXT, "turns": TURNS, "ids": ids}
    environment = {**os.environ, "PYTHONPATH": str(packages), "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", READER],
        input=json.dumps(task),
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    answer = json.loads(ended.stdout)
    assert answer["version"] == RELEASE
    return answer["found"]


def assert_same_tokenizer(found, tokenizer):
    ids = tokenizer(TEXT).input_ids
    chat = tokenizer.apply_chat_template(TURNS, tokenize=False, add_generation_prompt=True)
    special = sorted(map(str, tokenizer.all_special_tokens))
    ours = {"ids": ids, "text": tokenizer.decode(ids), "chat": chat, "special": special}
    assert {key: found[key] for key in ours} == ours


def with_trained_template(tokenizer):
    trained = copy.deepcopy(tokenizer)
    trained.chat_template = chat_template(tokenizer)
    return trained


def assert_same_logits(found, model):
    with torch.no_grad():
        logits = model.float().eval()(torch.tensor([IDS])).logits[0].numpy()
    np.testing.assert_allclose(np.array(found["logits"]), logits, atol=1e-4)


def test_a_finished_run_reads_alike(transformers4, tmp_path):
    """The adapter's tokenizer, and the merged model: ids, template, weights' type, end token and logits."""
    run = open_run("smoke", tmp_path / "run")
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    tokenizer = load_tokenizer(run.config.model)
    save_adapter(run, get_peft_model(load_base(run.config), lora), tokenizer)
    merged = merge(run)
    found = read_by_4(transformers4, tokenizers=[run / "adapter", merged], models=[merged])
    for folder in (run / "adapter", merged):
        assert_same_tokenizer(found[str(folder)], with_trained_template(tokenizer))
    assert found[str(merged)]["dtype"] == "torch.float16"
    assert found[str(merged)]["end"] == tokenizer.eos_token_id
    assert_same_logits(found[str(merged)], AutoModelForCausalLM.from_pretrained(merged))


def test_every_kind_of_rope_reads_alike(transformers4, tmp_path):
    """Tiny models saved by transformers 5, with positions beyond those that the scaling starts from."""
    models = {}
    for name, maker in MAKERS.items():
        folder = tmp_path / name
        write_json(folder / "config.json", SHAPE | maker)
        torch.manual_seed(0)
        models[folder] = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
        models[folder].save_pretrained(folder)
        write_json(folder / "config.json", portable_config(read_json(folder / "config.json")))
    found = read_by_4(transformers4, models=models)
    for folder, model in models.items():
        assert found[str(folder)]["dtype"] == "torch.float32"
        assert_same_logits(found[str(folder)], model)


@pytest.mark.parametrize("name", ["r1-distill-llama-8b", "qwen3-8b"])
def test_a_real_tokenizer_saved_by_5_reads_alike(name, transformers4, tmp_path):
    if not MODELS.is_dir():
        pytest.skip("the real models' files in ../shared/models are not here")
    source = tmp_path / "source"
    source.mkdir()
    for file in ("tokenizer.json", "config.json"):
        (source / file).write_bytes((MODELS / name / file).read_bytes())
    config = read_json(MODELS / name / "tokenizer_config.json")
    write_json(source / "tokenizer_config.json", config | {"tokenizer_class": "PreTrainedTokenizerFast"})
    tokenizer = AutoTokenizer.from_pretrained(source)
    assert tokenizer.decode(tokenizer(TEXT, add_special_tokens=False).input_ids) == TEXT
    saved = tmp_path / "saved"
    tokenizer.save_pretrained(saved)
    write_json(saved / "tokenizer_config.json", portable_tokenizer_config(read_json(saved / "tokenizer_config.json")))
    assert_same_tokenizer(read_by_4(transformers4, tokenizers=[saved])[str(saved)], tokenizer)
