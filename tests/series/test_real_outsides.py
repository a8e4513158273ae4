"""Every stage, from the check of the model to llama.cpp, behind the outside of real models and on real rows."""

import json
import math

import pytest
import torch
from outsides import REAL, put_behind, qwen3_5, real_outside
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.labels import train_and_look
from helpers.evaluation.evaluate import evaluate
from helpers.export.check import check_file, reference_outputs
from helpers.export.gguf import convert
from helpers.export.merge import merge
from helpers.files import read_json, read_jsonl, write_jsonl
from helpers.models.loading import check_model, load_base, load_tokenizer, load_with_adapter
from helpers.prompts.encoding import build_prompt
from helpers.run_dir.folder import open_run

QUICK = {
    "data.sample_size": None,
    "model.max_length": 640,
    "training.max_steps": 1,  # most of the time goes into logits over 150,000 tokens
    "training.warmup_steps": 0,
    "training.validations": 1,
    "evaluation.max_validation": 1,
    "evaluation.max_questions": 1,
    "export.gguf": "f16",
    "generation.max_new_tokens": 4,
}


@pytest.fixture(scope="module")
def short_rows(real_rows, tmp_path_factory):
    """A file with the beginnings of real rows, all of which fit."""
    file = tmp_path_factory.mktemp("rows") / "short.jsonl"
    write_jsonl(file, [{name: str(text)[:300] for name, text in row.items()} for row in real_rows[:20]])
    return file


def series(folder, model, rows):
    """01 to 06 without their notebooks; what each promises is asserted on the way. Returns the run."""
    run = open_run("smoke", folder, {"model.name": str(model), "data.source": str(rows), **QUICK})
    check_model(run.config)
    seen = train_and_look(run)
    assert seen["labels_equal"] == seen["prompts_equal"] == seen["rows"] == 2
    metrics = evaluate(run)
    assert metrics["validation"]["n"] == 1
    assert all(math.isfinite(metrics["validation"][side]["nll"]) for side in ("base", "tuned"))
    asked = [row["question"] for row in read_jsonl(run / "evaluation/predictions.tuned.jsonl")]
    assert all(" " in question for question in asked)
    check_merged(run)
    gguf = convert(run, "f16")
    reference = reference_outputs(run, rows=5, last_tokens=2)
    check = check_file(run, gguf, reference)
    assert check["passes"], json.dumps(check)
    return run


def check_merged(run):
    """The merged folder is base plus adapter, asks as training did, and has a tokenizer of a class that all know."""
    folder = merge(run)
    tokenizer, loaded = load_tokenizer(run.config.model), AutoTokenizer.from_pretrained(folder)
    question = "What causes <|im_end|>\n a fever of 39.5 °C?"
    ids = tokenizer(question)["input_ids"]
    assert loaded(question)["input_ids"] == ids
    messages = [{"role": "user", "content": "Why a fever of 39.5 °C?"}]
    asked = loaded.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert asked == build_prompt(tokenizer, messages[0]["content"])
    assert read_json(folder / "tokenizer_config.json")["tokenizer_class"] == "PreTrainedTokenizerFast"
    with torch.inference_mode():
        base, tuned, merged = (
            model.float()(torch.tensor([ids])).logits
            for model in (
                load_base(run.config),
                load_with_adapter(run.config, run / "adapter"),
                AutoModelForCausalLM.from_pretrained(folder),
            )
        )
    assert (merged - tuned).abs().max() < (base - tuned).abs().max() / 3


def test_every_stage_with_a_model_that_reads_images_too(tmp_path, short_rows):
    run = series(tmp_path / "run", qwen3_5(tmp_path / "qwen3_5"), short_rows)
    adapted = set(load_file(run / "adapter/adapter_model.safetensors"))
    assert any("linear_attn.in_proj_qkv" in name for name in adapted)
    assert any("visual" in name for name in load_file(run / "export/merged/model.safetensors"))


@pytest.mark.parametrize("name", REAL)
def test_every_stage_behind_a_real_tokenizer(tmp_path, short_rows, name):
    series(tmp_path / "run", put_behind(real_outside(name), tmp_path / name), short_rows)
