"""Training and answering on one GPU and on several of the same host, side by side.

    python benchmarks/several_gpus.py ddp FOLDER FILE.json       16-bit and 4-bit LoRA on 1 and on N cards
    python benchmarks/several_gpus.py answers FOLDER FILE.json   the same questions on 1 and on N cards
    python benchmarks/several_gpus.py fsdp FOLDER FILE.json      weights spread over N cards, and on one if they fit
    python benchmarks/several_gpus.py kills FOLDER FILE.json     a training on N cards, killed again and again
    python benchmarks/several_gpus.py make-model FOLDER --layers 64   the width of the 70B Llama with random weights

FOLDER is a model's (`benchmarks/training.py make-model` makes the 8B shape). Each variant is `accelerate launch` of
train.py or evaluate.py, as a user types it, on rows of the packaged sample. Cards of one variant make the same global
batch as one card: then the losses of each step should be the same but for rounding.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import typer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from helpers import PROJECT_ROOT
from helpers.files import fingerprint, read_json, read_jsonl, write_json, write_jsonl
from helpers.machine.hardware import describe_machine
from helpers.run_dir.folder import Run, open_run, versions
from helpers.sources.rows import SAMPLE

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
TRAINING = {
    "data.source": "sample",
    "training.validations": 1,
    "training.checkpoints": 1,
    "training.max_steps": 20,
    "tracking.wandb": "disabled",
    "evaluation.max_validation": 4,
}
LLAMA_70B = {
    "vocab_size": 128256,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
}


@app.command()
def ddp(model: str, out: Path, cards: int = 2, only: str = "", steps: int = 20) -> None:
    """Tokens a second, the losses of each step, and memory; `training.batch_size` is of one card."""
    for weights in ("16-bit", "4-bit"):
        for n in (1, cards):
            name = f"{weights}, {n} of {cards} cards"
            settings = {
                **TRAINING,
                "training.max_steps": steps,
                "model.name": model,
                "model.load_in_4bit": weights == "4-bit",
                "training.gradient_accumulation": cards // n,
            }
            if only in name:
                record(out, name, lambda n=n, settings=settings: trained(settings, n, "ddp"))
    results = read_json(out)["results"]
    for weights in ("16-bit", "4-bit"):
        one, all_ = (results.get(f"{weights}, {n} of {cards} cards", {}) for n in (1, cards))
        if "losses" in one and "losses" in all_:
            apart = max(abs(a / b - 1) for a, b in zip(one["losses"], all_["losses"], strict=True))
            times = all_["tokens_per_second"] / one["tokens_per_second"]
            print(f"{weights}: {times:.2f} x one card, losses at most {apart:.3%} apart")


@app.command()
def fsdp(model: str, out: Path, cards: int = 2, four_bit: bool = True, one_card: bool = False, steps: int = 8) -> None:
    """A model that one card does not hold, or not with room to train: tokens a second and memory of each card."""
    settings = {
        **TRAINING,
        "training.max_steps": steps,
        "model.name": model,
        "model.load_in_4bit": four_bit,
        "training.backend": "transformers",
        "training.gradient_checkpointing": True,
        "training.batch_size": 1,
        "training.gradient_accumulation": 1,
        "training.warmup_steps": 2,
        "training.optimizer": "adamw_torch",
    }
    name = "4-bit" if four_bit else "16-bit"
    record(out, f"FSDP2, {name}, {cards} cards", lambda: trained(settings, cards, "fsdp"))
    if one_card:
        record(
            out,
            f"plain, {name}, 1 card",
            lambda: trained(settings | {"training.gradient_accumulation": cards}, 1, "ddp"),
        )


@app.command()
def answers(model: str, out: Path, cards: int = 2, new_tokens: int = 256) -> None:
    """Seconds for the same questions, and how many replies are the same, of a model that was hardly trained."""
    settings = {
        **TRAINING,
        "model.name": model,
        "training.max_steps": 10,
        "generation.max_new_tokens": new_tokens,
        "generation.temperature": 0.0,
        "evaluation.max_questions": 96,
    }
    with tempfile.TemporaryDirectory() as folder:
        run = prepared(Path(folder), settings)
        launch("train.py", run, 1, "ddp")
        replies = {}
        for n in (1, cards):
            seconds = launch("evaluate.py", run, n, "ddp")
            rows = read_jsonl(run / "evaluation/predictions.base.jsonl")
            rows += read_jsonl(run / "evaluation/predictions.tuned.jsonl")
            replies[n] = [row["reply"] for row in rows if "reply" in row]
            (run / "evaluation").rename(run / f"evaluation-{n}")
            tokens = sum(row["tokens"] for row in rows if "reply" in row)
            record(out, f"answers, {n} of {cards} cards", lambda s=seconds, t=tokens: {"seconds": s, "tokens": t})
    same = sum(a == b for a, b in zip(replies[1], replies[cards], strict=True))
    record(out, "answers, the same", lambda: {"replies": len(replies[1]), "same": same})


@app.command()
def kills(
    model: str, out: Path, cards: int = 2, count: int = 9, steps: int = 60, seed: int = 0, backend: str = "auto"
) -> None:
    """A training that nobody disturbs, one killed at random moments, and another undisturbed: what is the same.

    The third shows how far this hardware repeats itself. A kill is of the launcher, its tree or its process group, by
    SIGKILL, SIGTERM or SIGINT.
    """
    settings = {**TRAINING, "model.name": model, "training.max_steps": steps, "training.checkpoints": 12}
    settings |= {"training.backend": backend}
    found: dict[str, Any] = {"kills": [], "seconds": {}, "losses": {}, "same_adapter": {}, "losses_apart": {}}
    with tempfile.TemporaryDirectory() as folder:
        runs = {name: prepared(Path(folder) / name, settings) for name in ("undisturbed", "killed", "another")}
        for name, run in runs.items():
            if name == "killed":
                longest = found["seconds"]["undisturbed"] / 8
                found["kills"] = killed(run, cards, count, longest, random.Random(seed))
            found["seconds"][name] = launch("train.py", run, cards, "ddp")
            log = [row for row in read_jsonl(run / "training/log.jsonl") if "loss" in row]
            found["losses"][name] = {row["step"]: row["loss"] for row in log}
            first = found["losses"]["undisturbed"]
            adapters = [fingerprint(each / "adapter/adapter_model.safetensors") for each in (runs["undisturbed"], run)]
            found["same_adapter"][name] = adapters[0] == adapters[1]
            found["losses_apart"][name] = max(abs(found["losses"][name][i] / loss - 1) for i, loss in first.items())
            write_json(out, {"hardware": describe_machine().model_dump(), "versions": versions(), "settings": settings,
                             "cards": cards, "seed": seed, "results": found})  # fmt: skip
            print(name, found["same_adapter"][name], found["losses_apart"][name], flush=True)


def killed(run: Run, cards: int, count: int, longest: float, dice: random.Random) -> list[dict[str, Any]]:
    """Start a training again and again, and kill it up to `longest` seconds after its first line; what each left."""
    ways = [(number, whom) for number in (9, 15, 2) for whom in ("launcher", "tree", "group")]
    last = ways.pop(0)  # workers whose launcher is gone train to the end
    note, done = run / "training/log.jsonl", []
    for number, whom in (*dice.sample(ways * (1 + count // len(ways)), count - 1), last):
        before = note.stat().st_mtime_ns if note.exists() else 0
        command = launcher("train.py", run, cards, "ddp")
        process = subprocess.Popen(command, cwd=PROJECT_ROOT, stderr=subprocess.PIPE, text=True, process_group=0)
        while process.poll() is None and (not note.exists() or note.stat().st_mtime_ns == before):
            time.sleep(0.1)
        time.sleep(dice.random() * longest)
        if process.poll() is not None:
            break  # it came to its end
        workers = psutil.Process(process.pid).children(recursive=True)
        if whom == "group":
            os.killpg(process.pid, number)
        for each in (process, *(workers if whom == "tree" else ())) if whom != "group" else ():
            each.send_signal(number)
        said = [line for line in process.communicate()[1].splitlines() if line.startswith("stopped")]
        _, alive = psutil.wait_procs(workers, timeout=120)
        rows = len(read_jsonl(note)) if note.exists() else 0
        done.append({"signal": number, "whom": whom, "status": process.returncode, "lines": said, "log_rows": rows})
        print(done[-1], "left alive:", len(alive), flush=True)
    return done


@app.command()
def make_model(folder: Path, tokenizer: Path, layers: int = 80) -> None:
    """Save the width of the 70B Llama with random bfloat16 weights, a file a layer, behind another's tokenizer."""
    import shutil

    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig

    folder.mkdir(parents=True, exist_ok=True)
    for file in tokenizer.iterdir():
        shutil.copy(file, folder)
    words = json.loads((tokenizer / "config.json").read_text())
    ends = {key: words[key] for key in ("bos_token_id", "eos_token_id")}
    config = LlamaConfig(
        **LLAMA_70B, **ends, num_hidden_layers=layers, dtype="bfloat16", architectures=["LlamaForCausalLM"]
    )
    config.save_pretrained(folder)
    wide, narrow, inner = config.hidden_size, config.hidden_size // 8, config.intermediate_size
    layer = {
        "self_attn.q_proj": (wide, wide),
        "self_attn.k_proj": (narrow, wide),
        "self_attn.v_proj": (narrow, wide),
        "self_attn.o_proj": (wide, wide),
        "mlp.gate_proj": (inner, wide),
        "mlp.up_proj": (inner, wide),
        "mlp.down_proj": (wide, inner),
    }
    ends_shapes = {"model.embed_tokens": (config.vocab_size, wide), "lm_head": (config.vocab_size, wide)}

    def write(number: int) -> dict[str, str]:
        prefix = f"model.layers.{number}." if number < layers else ""
        shapes, norms = (layer, ["input_layernorm", "post_attention_layernorm"]) if prefix else (ends_shapes, [])
        norms = norms or ["model.norm"]
        device = f"cuda:{number % torch.cuda.device_count()}"
        weights = {
            f"{prefix}{name}.weight": (torch.randn(*shape, dtype=torch.bfloat16, device=device) * 0.02).cpu()
            for name, shape in shapes.items()
        }
        weights |= {f"{prefix}{name}.weight": torch.ones(wide, dtype=torch.bfloat16) for name in norms}
        save_file(weights, folder / f"model-{number:03}.safetensors", {"format": "pt"})
        return dict.fromkeys(weights, f"model-{number:03}.safetensors")

    with ThreadPoolExecutor(8) as pool:
        files = {name: file for part in pool.map(write, range(layers + 1)) for name, file in part.items()}
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": files})


def prepared(folder: Path, settings: dict[str, Any]) -> Run:
    """A run folder as 03 leaves it: rows of the packaged sample, again and again."""
    run = open_run("full", folder / "run", settings)
    rows = read_jsonl(SAMPLE)
    write_jsonl(run / "data/train.jsonl", rows * 12)
    write_jsonl(run / "data/validation.jsonl", rows[:4])
    return run


def launch(script: str, run: Run, cards: int, config: str) -> float:
    """Run a script by `accelerate launch` on `cards` cards; seconds, its start and the model's loading included."""
    started = time.monotonic()
    done = subprocess.run(launcher(script, run, cards, config), cwd=PROJECT_ROOT, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in f"{done.stdout}\n{done.stderr}".splitlines() if "│" not in line or "❱" in line]
        raise RuntimeError("\n".join(lines)[-6000:])
    return time.monotonic() - started


def trained(settings: dict[str, Any], cards: int, config: str) -> dict[str, Any]:
    """One training on `cards` cards: figures of its metrics and the loss of each step."""
    with tempfile.TemporaryDirectory() as folder:
        run = prepared(Path(folder), settings)
        seconds = launch("train.py", run, cards, config)
        metrics = read_json(run / "training/metrics.json")
        log = [row for row in read_jsonl(run / "training/log.jsonl") if "loss" in row]
        kept = ("backend", "steps", "micro_batch", "gradient_accumulation", "tokens", "peak_memory_gib", "parameters")
        return {
            **{key: metrics[key] for key in kept},
            "tokens_per_second": metrics["steady_tokens_per_second"],
            "seconds_with_start": seconds,
            "validation_nll": metrics["validation_nll"],
            "losses": [row["loss"] for row in log],
            **{key: [row[key] for row in log] for key in ("learning_rate", "grad_norm")},
        }


def launcher(script: str, run: Run, cards: int, config: str) -> list[str]:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(cards)]
    command += ["--config_file", str(PROJECT_ROOT / f"launch/{config}.yaml")] if cards > 1 else ["--num_machines", "1"]
    return [*command, str(PROJECT_ROOT / script), "--run-dir", str(run.path)]


def record(out: Path, name: str, measure: Any) -> None:
    """Add a measurement to the file, unless it has it; a failed one is printed."""
    results = read_json(out)["results"] if out.exists() else {}
    if name not in results:
        try:
            results[name] = measure()
        except RuntimeError as error:
            print(f"{name}: failed\n{error}", flush=True)
            return
        write_json(out, {"hardware": describe_machine().model_dump(), "versions": versions(), "results": results})
    print(name, {key: value for key, value in results[name].items() if not isinstance(value, list)}, flush=True)


if __name__ == "__main__":
    app()
