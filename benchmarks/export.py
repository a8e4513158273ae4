"""What an export takes: seconds and memory of each step of 06, of a model in a folder, with an adapter at random.

    python benchmarks/export.py MODEL RUN_DIR FILE.json [--kinds q8_0,q4_k_m]

MODEL is a folder with a Llama-like model, as `benchmarks/training.py make-model` makes one of the 8B's shape. The
results are written after every step. Memory is what the process and its children hold apart from files (RssAnon in
/proc), sampled every 20 ms, so it takes Linux.
"""

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
import typer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

from helpers.export.check import check_file, choose_file, reference_outputs
from helpers.export.files import check_room
from helpers.export.gguf import convert
from helpers.export.merge import merge
from helpers.files import read_jsonl, write_json, write_jsonl
from helpers.machine.hardware import GIB, describe_machine
from helpers.models.loading import lora_targets, skeleton
from helpers.run_dir.folder import Run, open_run, versions
from helpers.sources.rows import SAMPLE


def main(model: str, run_dir: Path, out: Path, kinds: str = "q8_0,q4_k_m") -> None:
    """Export the model as f16 and `kinds`, check each file, and write what it took."""
    settings = {"model.name": model, "model.load_in_4bit": False, "data.source": "sample"}
    run = open_run("full", run_dir, {**settings, "export.gguf": kinds.split(",")})
    write_jsonl(run / "data/validation.jsonl", read_jsonl(SAMPLE)[:16])
    make_adapter(run)
    found = {"hardware": describe_machine().model_dump(), "versions": versions(), "room": check_room(run), "steps": {}}
    write_json(out, found)

    def step(name: str, work: Callable[[], Any]) -> Any:
        peak, started = Peak(), time.monotonic()
        result = work()
        found["steps"][name] = taken = {"seconds": time.monotonic() - started, "gib": peak.end() / GIB}
        write_json(out, found)
        print(f"{name:12} {taken['seconds']:6.1f} s  {taken['gib']:5.2f} GiB", flush=True)
        return result

    step("merge", lambda: merge(run))
    files = {kind: step(kind, lambda kind=kind: convert(run, kind)) for kind in run.config.export.kinds}
    found["mib"] = {kind: file.stat().st_size / 2**20 for kind, file in files.items()}
    reference = step("reference", lambda: reference_outputs(run))
    checks = {
        kind: step(f"check {kind}", lambda file=file: check_file(run, file, reference)) for kind, file in files.items()
    }
    write_json(out, {**found, "checks": checks, "use": choose_file(checks, files).name})


def make_adapter(run: Run) -> None:
    """An adapter of the run's rank whose change to the model is small and not nothing."""
    lora = LoraConfig(
        r=run.config.lora.r,
        lora_alpha=run.config.lora.alpha,
        target_modules=lora_targets(run.config.model),
        task_type="CAUSAL_LM",
    )
    with torch.device("meta"):
        shapes = get_peft_model(skeleton(run.config.model), lora)
    torch.manual_seed(0)
    weights = {
        name.replace(".default", ""): torch.randn(weight.shape) * 0.01
        for name, weight in shapes.named_parameters()
        if "lora_" in name
    }
    lora.save_pretrained(run / "adapter")
    save_file(weights, run / "adapter/adapter_model.safetensors")


class Peak:
    """The most memory, in bytes, that this process and its children come to hold until `end`."""

    def __init__(self) -> None:
        self._peak, self._over = 0, threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()

    def end(self) -> int:
        self._over.set()
        self._watch.join()
        return self._peak

    def _look(self) -> None:
        while not self._over.wait(0.02):
            processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
            self._peak = max(self._peak, sum(map(_anonymous, processes)))


def _anonymous(process: psutil.Process) -> int:
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:  # it has ended
        return 0
    return sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon"))


if __name__ == "__main__":
    typer.run(main)
