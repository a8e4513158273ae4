"""The exported files' names and sizes, the disk and memory that they take, and the report."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from helpers import InputError
from helpers.files import damaged, read_json, write_json, write_text
from helpers.machine.hardware import GIB
from helpers.models.loading import model_shape
from helpers.report.model_card import KINDS, model_card
from helpers.run_dir.folder import Run
from helpers.sources.tables import brief

WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"  # transformers' own names
SHARD = 2 * 10**9  # bytes of each weight file of a merged model
MIB = 2**20
# Bytes a weight: 32 in 34 bytes with their scale; Q4_K_M's mixture comes to about 4.9 bits.
BYTES = {"merged": 2.0, "f16": 2.0, "q8_0": 34 / 32, "q4_k_m": 0.61}


def whole(path: Path) -> Path:
    """The path; InputError for a .safetensors, .gguf or .json file that is cut off, or broken in what describes it."""
    from safetensors import SafetensorError, safe_open

    from helpers.export.gguf import Reader

    try:
        if path.suffix == ".safetensors":
            safe_open(path, framework="numpy")
        elif path.suffix == ".gguf":
            Reader(path)
        elif path.suffix == ".json":
            read_json(path)
    except InputError:
        raise
    except (SafetensorError, ValueError, IndexError) as error:
        raise damaged(path, brief(error)) from None
    return path


def check_room(run: Run) -> dict[str, float]:
    """Gibibytes of disk and memory that the merged folder and the files of `export.gguf` take, and what is free.

    Raises InputError where either is too little. A file of an earlier export stays until its successor is complete.
    Disk counts weights alone, which a small model's file exceeds a little. Memory is the converter's largest matrix, in
    float32 and 16 bit, or one weight file, and 1.5 GiB for the programs: with an 8B model converting took 4.2 GiB,
    merging 2.8 and quantising 1.6. Whether the check fits, which loads the whole model, `reference_outputs` decides.
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
    fewer = f"free up disk space, or set export.gguf to fewer types than {', '.join(run.config.export.kinds)}"
    for what, where, advice in (("disk", f"in {run.label}", fewer), ("memory", "of memory", "close other programs")):
        needed, free = room[f"{what}_gib"], room[f"{what}_free_gib"]
        if needed > free:
            raise InputError(f"the export needs {needed:.1f} GiB {where}, and {free:.1f} GiB are free: {advice}")
    return room


def _size(path: Path) -> int:
    """Bytes of a file or of a folder's files; 0 where it is missing."""
    return sum(file.stat().st_size for file in (path, *path.glob("*")) if file.is_file())


def write_report(run: Run, checks: Mapping[str, Any], use: Path, answer: dict[str, Any]) -> dict[str, Any]:
    """Write export/report.json (the checks, the file to use, its answer) and the model card of every artifact."""
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
        write_text(run / form.folder / "README.md", model_card(run, kind))
    return report
