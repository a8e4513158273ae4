"""How near the plan before a training comes to what happens, on this machine.

    python benchmarks/plan.py measure MODEL ROWS FILE.json [--only NAME,NAME]

MODEL is a model's folder with the outside of a real one (configuration, tokenizer), ROWS a file of rows. Each variant
is a process that goes through 03 and 04 as the notebooks do. `ratio` is the seconds that happened by the planned ones,
`steady_ratio` the same at the speed of the steps after the first few, in which kernels are compiled: of a training of
hours that is nearer to the whole.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import typer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from helpers.files import read_json, write_json
from helpers.machine.hardware import describe_machine
from helpers.run_dir.folder import open_run, versions

EPOCH = {"training.max_steps": -1, "data.sample_size": None, "tracking.wandb": "disabled"}
VARIANTS = {
    "full": ("full", {"training.epochs": 8}),
    "full 4-bit": ("full", {"training.epochs": 4, "model.load_in_4bit": True}),
    "full transformers": ("full", {"training.epochs": 4, "training.backend": "transformers"}),
    "t4": ("t4", {}),
}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def measure(model: str, rows: Path, out: Path, only: str = "") -> None:
    """Plan and train every variant, print plan and outcome, write all of it after each."""
    results = read_json(out)["results"] if out.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        for name in only.split(",") if only else VARIANTS:
            found = Path(folder) / "found.json"
            command = [sys.executable, __file__, "one", name, model, str(rows.resolve()), str(Path(folder) / name)]
            ended = subprocess.run([*command, str(found)])
            results[name] = {"error": f"exit status {ended.returncode}"} if ended.returncode else read_json(found)
            print(name, json.dumps(results[name]), flush=True)
            facts = {"hardware": describe_machine().model_dump(), "versions": versions(), "settings": {"model": model}}
            write_json(out, {**facts, "results": results})


@app.command(hidden=True)
def one(name: str, model: str, rows: str, folder: Path, out: Path) -> None:
    """One variant in this process."""
    profile, overrides = VARIANTS[name]
    run = open_run(profile, folder, {"model.name": model, "data.source": rows, **EPOCH, **overrides})
    from helpers.lora_training.backends import start_backend

    start_backend(run)
    from helpers.dataset_prep.prepare import prepare
    from helpers.lora_training.batches import as_dataset, load_split
    from helpers.lora_training.budget import matmul_rate, training_budget
    from helpers.lora_training.train import train
    from helpers.models.loading import load_tokenizer

    tokenizer = load_tokenizer(run.config.model)
    prepare(run, tokenizer)
    examples = load_split(run, "train", tokenizer)
    rate = matmul_rate()
    budget = training_budget(run.config, examples, len(as_dataset(run.config, examples)), rate)
    metrics = train(run)
    planned = budget["minutes"] * 60
    write_json(out, {
        "matmul_tflops": rate / 1e12,
        "planned": {"seconds": planned, **{key: budget[key] for key in ("steps", "tokens", "memory_gib")}},
        "happened": {key: metrics[key] for key in (
            "seconds", "steps", "tokens", "peak_memory_gib", "tokens_per_second", "steady_tokens_per_second", "backend"
        )},
        "ratio": metrics["seconds"] / planned,
        "steady_ratio": metrics["tokens"] / metrics["steady_tokens_per_second"] / planned,
    })  # fmt: skip


if __name__ == "__main__":
    app()
