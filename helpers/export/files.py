"""What the export leaves: its files' names and sizes, the room that they take, and its report."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from helpers import InputError
from helpers.files import write_json
from helpers.machine import GIB
from helpers.models.loading import model_shape
from helpers.report.model_card import KINDS
from helpers.report.results import write_model_card
from helpers.run_dir import Run

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"  # transformers' own names
SHARD = 2 * 10**9  # bytes of one of a merged model's weight files
MIB = 2**20
# Bytes a weight: 32 in 34 bytes with their scale; Q4_K_M's mixture comes to about 4.9 bits.
BYTES = {"merged": 2.0, "f16": 2.0, "q8_0": 34 / 32, "q4_k_m": 0.61}


def check_room(run: Run) -> dict[str, float]:
    """Gibibytes of disk and of memory that the merged folder and all files of `export.gguf` take, and what is free.

    InputError where either is not enough, before any work. What an earlier export left is replaced file by file, each
    when its successor is whole, so that both are there for a while. Disk is counted in 16-bit weights and llama.cpp's
    blocks, which a small model's file exceeds a little. Memory is what the converter holds of the largest matrix, in
    float32 and in 16 bit, or a weight file, and 1.5 GiB for the programs: of the 8B's shape converting was seen to take
    4.2 GiB, merging 2.8 and rounding 1.6. That comparing takes the whole model is `reference`'s to see to.
    """
    shape = model_shape(run.config.model)
    weights = shape["linear"] + shape["embeddings"]
    left, disk = 0.0, 0.0
    for kind in ("merged", *run.config.export.kinds):
        disk = max(disk, left + weights * BYTES[kind])
        left += weights * BYTES[kind] - _size(run / "export" / ("merged" if kind == "merged" else f"model-{kind}.gguf"))
    room = {
        "disk_gib": disk / GIB,
        "disk_free_gib": shutil.disk_usage(run.path).free / GIB,
        "memory_gib": max(min(SHARD, 2 * weights), 6 * shape["head"]) / GIB + 1.5,
        "memory_free_gib": psutil.virtual_memory().available / GIB,
    }
    fewer = f"make room, or set export.gguf to fewer kinds than {', '.join(run.config.export.kinds)}"
    for what, where, advice in (("disk", f"in {run.label}", fewer), ("memory", "of memory", "close other programs")):
        needed, free = room[f"{what}_gib"], room[f"{what}_free_gib"]
        if needed > free:
            raise InputError(f"the export needs {needed:.1f} GiB {where}, and {free:.1f} GiB are free: {advice}")
    return room


def _size(path: Path) -> int:
    """Bytes of a file, or of a folder's files; 0 where there is neither."""
    return sum(file.stat().st_size for file in (path, *path.glob("*")) if file.is_file())


def write_report(run: Run, checks: Mapping[str, Any], use: Path, answer: dict[str, Any]) -> dict[str, Any]:
    """export/report.json: all checks, the file to use, its answer; and a model card beside each form of the model."""
    report = {
        "use": use.name,
        "files": [
            {"name": f"model-{kind}.gguf", "mib": _size(run / f"export/model-{kind}.gguf") / MIB, **check}
            for kind, check in checks.items()
        ],
        "merged_mib": _size(run / "export/merged") / MIB,
        "answer": answer,
    }
    write_json(run / "export/report.json", report)
    for kind, form in KINDS.items():
        write_model_card(run, run / form.folder / "README.md", kind)
    return report
