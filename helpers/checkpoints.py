"""Checkpoints of a training: which of them it can go on from."""

import json
import os
import shutil
from pathlib import Path

from helpers.run_dir import Run, fingerprint, read_json, write_json
from helpers.setup import is_main_process

MARKER = "complete"  # written last; a checkpoint without it was being written when its process ended


def mark_complete(run: Run, folder: Path) -> None:
    """Flush a checkpoint's files to disk, then write down what they are and the training that they belong to.

    A power cut, or a drive that is mounted over the network, can deliver the marker and lose what was written before.
    """
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    for path in (*(folder / name for name in names), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    files = {name: fingerprint(folder / name) for name in names}
    write_json(folder / MARKER, {"training": identity(run), "files": files})


def last_checkpoint(run: Run) -> tuple[Path | None, int]:
    """The newest checkpoint that is whole and belongs to these settings and rows, and its step; (None, 0) if none.

    Checkpoints of other settings, and unfinished ones, are of no use to this run and are deleted. One whose files are
    not those that were saved is moved to `damaged-...` beside it, and said so.
    """
    found, damaged = [], []
    for folder in (run / "checkpoints").glob("checkpoint-*"):
        if not _belongs(run, folder):
            if is_main_process():
                shutil.rmtree(folder)
        elif wrong := _damage(folder):
            damaged.append((folder, wrong))
        else:
            found.append((int(folder.name.removeprefix("checkpoint-")), folder))
    step, newest = max(found, default=(0, None))
    for folder, wrong in damaged if is_main_process() else ():
        aside = folder.with_name(f"damaged-{folder.name}")
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        print(f"{folder.name} is damaged ({wrong}), and now {aside.name}: training goes on from step {step}")
    return newest, step


def identity(run: Run) -> str:
    """What makes two trainings the same: settings and rows."""
    settings = {k: v for k, v in run.config.flat().items() if k.startswith(("seed", "model.", "lora.", "training."))}
    return json.dumps([settings, fingerprint(run / "data/train.jsonl")], sort_keys=True)


def _belongs(run: Run, folder: Path) -> bool:
    try:
        return read_json(folder / MARKER)["training"] == identity(run)
    except (OSError, ValueError, TypeError, KeyError):  # no marker, an empty one, or one of an earlier version
        return False


def _damage(folder: Path) -> str:
    """What is wrong with a marked checkpoint's files; "" if they are as they were saved."""
    for name, expected in read_json(folder / MARKER)["files"].items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if fingerprint(folder / name) != expected:
            return f"{name} is not as it was saved"
    return ""
