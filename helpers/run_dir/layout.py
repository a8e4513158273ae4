"""The stages, and what a run folder holds: what each stage reads and leaves."""

from dataclasses import dataclass
from pathlib import Path

from helpers import InputError

ADAPTER = ("adapter/adapter_model.safetensors", "adapter/adapter_config.json")
# In the order of the stages: each is made from those before it.
RESULT_FOLDERS = ("baseline", "data", "checkpoints", "training", "adapter", "evaluation", "export", "retrieval")
# All that a copy of a run has. What comes from earlier parts last: one that was cut off then says too little.
PARTS = ("run.yaml", *RESULT_FOLDERS, "notebooks", "index.html", "stages.json")
MARKER = "complete"  # written last into a checkpoint; one without it is incomplete


@dataclass(frozen=True)
class Stage:
    """`settings` that it reads, by key, or by section where it reads all of one; `reads` and `leaves` in the folder.

    Printing a setting is not reading it, and 06's model card has earlier stages' settings from their files.
    """

    title: str
    settings: tuple[str, ...]
    reads: tuple[str, ...] = ()
    leaves: tuple[str, ...] = ()


STAGES = {
    "01_setup": Stage("Set-up", ("model", "tracking")),
    "02_baseline_inference": Stage(
        "Baseline inference", ("seed", "model", "generation"), leaves=("baseline/predictions.jsonl",)
    ),
    "03_dataset_prep": Stage(
        "Dataset preparation",
        ("seed", "model", "data", "evaluation.questions", "evaluation.max_questions"),
        leaves=("data/train.jsonl", "data/validation.jsonl", "data/test.jsonl", "data/report.json"),
    ),
    "04_lora_training": Stage(
        "LoRA training",
        ("seed", "model", "lora", "training", "data.corpus", "evaluation.max_validation", "tracking"),
        reads=("data/train.jsonl", "data/validation.jsonl"),
        leaves=(*ADAPTER, "training/metrics.json", "training/log.jsonl"),
    ),
    "05_evaluation": Stage(
        "Evaluation",
        ("seed", "model", "generation", "evaluation", "tracking"),
        reads=("data/validation.jsonl", "data/test.jsonl", *ADAPTER),
        leaves=("evaluation/metrics.json", "evaluation/predictions.base.jsonl", "evaluation/predictions.tuned.jsonl"),
    ),
    "06_export": Stage(
        "Export",
        ("seed", "model", "generation", "export"),
        reads=("evaluation/metrics.json", *ADAPTER),
        leaves=("export/merged/config.json", "export/Modelfile", "export/README.md", "export/report.json"),
    ),
    "07_retrieval": Stage(
        "Retrieval",
        ("seed", "model", "generation", "retrieval", "evaluation.questions", "evaluation.max_questions"),
        reads=("evaluation/predictions.base.jsonl", "evaluation/predictions.tuned.jsonl", *ADAPTER),
        leaves=(
            "retrieval/index.sqlite",
            "retrieval/metrics.json",
            "retrieval/predictions.base.jsonl",
            "retrieval/predictions.tuned.jsonl",
        ),
    ),
}


def check_unused(path: Path, what: str, parts: tuple[str, ...]) -> None:
    """InputError for a folder that no run made and that has something a run would put its own in the place of."""
    other = next((part for part in parts if (path / part).exists()), None)
    if other and not (path / "run.yaml").exists():
        raise InputError(f"{what} holds {other}, and no run made it: choose a folder of its own for the run")


def made_from(folder: str) -> tuple[str, ...]:
    return RESULT_FOLDERS[RESULT_FOLDERS.index(folder) :]
