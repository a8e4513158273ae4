"""Whether a profile's figures hold with other seeds: 03, 04 and 05 once a seed, without the notebooks.

    python benchmarks/seeds.py FILE.json SEED [SEED ...] [--profile laptop] [--set KEY=VALUE]

On a CPU a seed of `laptop` takes as long as its notebooks; on an H100, in float32 as on a CPU, some 45 s.
"""

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from helpers.config import parse_assignment
from helpers.dataset_prep.prepare import prepare
from helpers.evaluation.evaluate import evaluate
from helpers.files import read_json, write_json
from helpers.lora_training.train import train
from helpers.machine.hardware import describe_machine
from helpers.models.loading import load_tokenizer
from helpers.run_dir.folder import open_run, versions

ALIKE = {"tracking.wandb": "disabled", "training.backend": "transformers", "model.compute_dtype": "float32"}


def main(
    out: Path,
    seeds: list[int],
    profile: str = "laptop",
    setting: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE")] = None,
) -> None:
    """Train and evaluate once a seed; print a line each and write all of it, added to what the file has."""
    results = read_json(out)["results"] if out.exists() else []
    overrides = dict(map(parse_assignment, setting or []))
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            run = open_run(profile, Path(folder) / "run", ALIKE | overrides | {"seed": seed})
            report = prepare(run, load_tokenizer(run.config.model))
            training = train(run)
            found = evaluate(run)
        rows, (task,) = found["validation"], found["tasks"].values()
        results.append({
            "seed": seed, "settings": overrides, "splits": report["splits"],
            "train_tokens": training["tokens"], "train_seconds": training["seconds"],
            "validation": {"n": rows["n"], "base": rows["base"], "tuned": rows["tuned"]},
            "questions": {"n": task["n"], "base": task["base"], "tuned": task["tuned"]},
        })  # fmt: skip
        tuned, named = rows["tuned"], task["tuned"]["answered"]["n"]
        print(
            f"seed {seed}: NLL {tuned['nll'] / rows['base']['nll'] - 1:+.1%}, closed {tuned['closed']:.0%}, ended "
            f"{tuned['finished']:.0%} of {rows['n']}, option named in {named} of {task['n']}, right "
            f"{task['tuned']['accuracy']:.0%}",
            flush=True,
        )
        write_json(
            out, {"hardware": describe_machine().model_dump(), "versions": versions(), "profile": profile,
                  "results": results}
        )  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
