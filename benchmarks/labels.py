"""Whether the labels in the trainer's batches decode to the rows, to the letter, behind a real model's tokenizer.

    python benchmarks/labels.py OUTSIDE ROWS.jsonl FILE.json

OUTSIDE is a folder with a real model's tokenizer and config.json. A model of that shape with random weights is made
beside them, and trained by the `t4` and the `full` profile, 20 steps each, on ROWS. Of every batch that the model is
given, each row's prompt and labels are decoded and compared with the text they were made of.
"""

import json
import shutil
import sys
import tempfile
from itertools import groupby
from pathlib import Path
from typing import Any

import typer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from helpers.config import Config
from helpers.files import read_json, read_jsonl, write_json
from helpers.lora_training.backends import start_backend
from helpers.machine.hardware import describe_machine
from helpers.run_dir.folder import Run, open_run, versions

PROFILES = ("t4", "full")
STEPS = 20


def main(outside: Path, rows: Path, out: Path, profiles: str = ",".join(PROFILES)) -> None:
    """Train by each profile in this process; write what was seen."""
    with tempfile.TemporaryDirectory() as folder:
        model, results = Path(folder) / "model", {}
        shutil.copytree(outside, model)
        make_weights(model)
        for profile in profiles.split(","):
            overrides = {
                "model.name": str(model),
                "data.source": str(rows.resolve()),
                "data.sample_size": None,
                "training.max_steps": STEPS,
                "tracking.wandb": "disabled",
            }
            run = open_run(profile, Path(folder) / profile, overrides)
            results[profile] = train_and_look(run)
            facts = {"hardware": describe_machine().model_dump(), "versions": versions(), "results": results}
            write_json(out, facts)
            print(profile, json.dumps(results[profile], ensure_ascii=False))


def make_weights(folder: Path) -> None:
    """Random bfloat16 weights of the shape that the folder's config.json gives."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    written = read_json(folder / "config.json")
    written.pop("quantization_config", None)  # a copy that was saved from a 4-bit model notes it
    write_json(folder / "config.json", written)
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.bfloat16)
    model.save_pretrained(folder / "weights", max_shard_size="4GB")
    for file in (folder / "weights").glob("model*"):
        file.rename(folder / file.name)
    shutil.rmtree(folder / "weights")


def train_and_look(run: Run) -> dict[str, Any]:
    """03 and 04 as the notebooks do them, and what the model was given."""
    start_backend(run)
    from helpers.dataset_prep.prepare import prepare
    from helpers.lora_training import train as lora_training
    from helpers.models.loading import load_tokenizer
    from helpers.prompts.encoding import build_prompt

    tokenizer = load_tokenizer(run.config.model)
    report = prepare(run, tokenizer)
    kept = read_jsonl(run / "data/train.jsonl")
    wanted = {f"{r['Complex_CoT']}</think>{r['Response']}{tokenizer.eos_token}": r["Question"] for r in kept}
    asked = {text: build_prompt(tokenizer, question) for text, question in wanted.items()}
    seen: dict[str, Any] = {"batches": 0, "rows": 0, "labels_equal": 0, "prompts_equal": 0, "other": []}
    make = lora_training.trainer_class

    def trainer_class(unsloth: bool) -> type:
        class Watched(make(unsloth)):
            def training_step(self, model: Any, inputs: dict[str, Any], *more: Any, **named: Any) -> Any:
                seen["batches"] += 1
                for ids, labels in zip(inputs["input_ids"].tolist(), inputs["labels"].tolist(), strict=True):
                    compare(ids, labels)
                return super().training_step(model, inputs, *more, **named)

        return Watched

    def compare(ids: list[int], labels: list[int]) -> None:
        """Go through a padded row or a pack: a prompt, whose labels are -100, and its completion, again and again."""
        parts = [list(part) for _, part in groupby(zip(ids, labels, strict=True), key=lambda pair: pair[1] == -100)]
        for prompt, completion in zip(parts[::2], parts[1::2], strict=False):
            text = tokenizer.decode([label for _, label in completion])
            seen["rows"] += 1
            seen["labels_equal"] += text in wanted and [i for i, _ in completion] == [label for _, label in completion]
            seen["prompts_equal"] += tokenizer.decode([i for i, _ in prompt]) == asked.get(text)
            if text not in wanted and len(seen["other"]) < 3:
                seen["other"].append(text[:200])

    lora_training.trainer_class = trainer_class
    try:
        metrics = lora_training.train(run)
    finally:
        lora_training.trainer_class = make
    names = ("steps", "micro_batch", "gradient_accumulation", "steady_tokens_per_second", "peak_memory_gib", "backend")
    return {
        "tokenizer": {
            "declared": read_json(Path(run.config.model.name) / "tokenizer_config.json")["tokenizer_class"],
            "eos": tokenizer.eos_token,
            "pad": tokenizer.pad_token,
        },
        "splits": report["splits"],
        "settings": Config.from_flat(run.config.flat()).training.model_dump(),
        **seen,
        **{name: metrics[name] for name in names},
        "train_loss": metrics["train_loss"],
    }


if __name__ == "__main__":
    typer.run(main)
