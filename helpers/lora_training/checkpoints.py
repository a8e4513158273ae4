"""The results of earlier training in a run folder: whether they are of this training, and where to resume."""

import json
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from helpers import InputError
from helpers.config import CHANGES, LARGER
from helpers.files import fingerprint, flush, flush_names, move, read_json, write_json
from helpers.machine.processes import is_main_process, wait_for_all
from helpers.run_dir.folder import Run, set_aside
from helpers.run_dir.layout import ADAPTER, MARKER, made_from

Made = dict[str, Any]  # {"settings": by dotted key, "rows": fingerprint}
NOTE = "training/made_from.json"
LENGTH = [key for key, rule in CHANGES.items() if rule == LARGER]

KEPT = 2  # checkpoints


def mark_complete(run: Run, folder: Path) -> None:
    """Flush a checkpoint to disk, record its files' fingerprints and its training, then delete all but the KEPT newest.

    The newest are those of the most steps: by their dates, as transformers counts, a clock put back makes them old.
    """
    flush(folder)
    flush_names(folder.parent)
    files = {str(path.relative_to(folder)): fingerprint(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    write_json(folder / MARKER, {"training": identity(run), "files": files})
    for older in sorted(folder.parent.glob("checkpoint-*"), key=_step)[:-KEPT]:
        shutil.rmtree(older)


def finished(run: Run) -> dict[str, Any] | None:
    """training/metrics.json if exactly this training is finished in the folder, with its adapter; else None."""
    there = all((run / name).is_file() for name in (*ADAPTER, "training/log.jsonl", "training/metrics.json"))
    made = _made_here(run) if there else None
    return read_json(run / "training/metrics.json") if made and _same(made, identity(run), but=()) else None


def take_over(run: Run) -> None:
    """Record this training in the folder, before it writes anything else.

    A different training is set aside, with all that was measured and exported of it; of this one with fewer steps,
    which is continued, the adapter and later results, with a copy of its metrics.
    """
    made, now = _made_here(run), identity(run)
    if is_main_process():
        moved = ""
        if made and not _same(made, now):
            moved = set_aside(run.path, made_from("checkpoints"))
        elif made and not _same(made, now, but=()) and (run / "adapter").exists():
            moved = set_aside(run.path, made_from("adapter"), copied=["training"])
            (run / "training/metrics.json").unlink(missing_ok=True)
        if moved:
            print(moved)
        write_json(run / NOTE, now)
    wait_for_all()


def last_checkpoint(run: Run) -> tuple[Path | None, int]:
    """The newest complete checkpoint of these settings and rows, and its step; (None, 0) if there is none.

    Incomplete ones are deleted, those of other settings set aside, those whose files have changed renamed.
    """
    found, damaged = [], []
    for folder in (run / "checkpoints").glob("checkpoint-*"):
        made = _made(folder / MARKER)
        if made is None:
            if is_main_process():
                shutil.rmtree(folder)
        elif not _same(made, identity(run)):
            if is_main_process():
                print(set_aside(run.path, [f"checkpoints/{folder.name}"]))
        elif all(fingerprint(folder / name) == kept for name, kept in read_json(folder / MARKER)["files"].items()):
            found.append((_step(folder), folder))
        else:
            damaged.append(folder)
    step, newest = max(found, default=(0, None))
    for folder in damaged if is_main_process() else ():
        aside = folder.with_name(f"damaged-{folder.name}")
        shutil.rmtree(aside, ignore_errors=True)
        move(folder, aside)
        print(f"{folder.name} is damaged and renamed to {aside.name}: training continues from step {step}")
    return newest, step


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


@contextmanager
def only_tensors(checkpoint: Path | None) -> Iterator[None]:
    """transformers opens a checkpoint's files with `weights_only`: InputError for one that holds anything else."""
    try:
        yield
    except UnpicklingError:
        raise InputError(f"{checkpoint} holds a pickle of more than tensors, which is not opened: delete it") from None


def follow_schedule(optimizer: Any, scheduler: Any) -> None:
    """Set the learning rates to the current point of the schedule: a shorter training's checkpoint restores its zero,
    which would waste a step."""
    schedule = getattr(scheduler, "scheduler", scheduler)  # accelerate wraps it
    pairs = zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
    schedule._last_lr = [base * factor(schedule.last_epoch) for base, factor in pairs]
    for group, rate in zip(optimizer.param_groups, schedule._last_lr, strict=True):
        group["lr"] = rate


def identity(run: Run) -> Made:
    """What identifies a training: settings, rows and, where there is one, the corpus."""
    settings = {k: v for k, v in run.config.flat().items() if k.startswith(("seed", "model.", "lora.", "training."))}
    corpus = [run / "data/corpus.jsonl"] if run.config.data.corpus else []
    return {"settings": settings, "rows": fingerprint(run / "data/train.jsonl", *corpus)}


def _same(one: Made, other: Made, but: Collection[str] = LENGTH) -> bool:
    """Whether two trainings have the same rows and settings, except those in `but` and those that only one has."""
    both = one["settings"].keys() & other["settings"].keys() - set(but)
    return one["rows"] == other["rows"] and all(one["settings"][key] == other["settings"][key] for key in both)


def _made_here(run: Run) -> Made | None:
    """The training that a folder holds, finished or not; None where there is none.

    A folder from before the note was written has it in its checkpoints; one without any was made by its own settings.
    """
    markers = sorted((run / "checkpoints").glob(f"checkpoint-*/{MARKER}"), key=lambda path: path.stat().st_mtime)
    made = [found for found in map(_made, [run / NOTE, *reversed(markers)]) if found]
    if made or not any((run / name).exists() for name in (*ADAPTER, "training/metrics.json")):
        return made[0] if made else None
    own = identity(run)
    if run.config.training.max_steps > 0 and (run / "training/metrics.json").is_file():
        own["settings"]["training.max_steps"] = read_json(run / "training/metrics.json")["steps"]
    return own


def _made(path: Path) -> Made | None:
    try:
        made = read_json(path)
        made = made["training"] if path.name == MARKER else made
        if isinstance(made, str):  # as version 0.1.0 wrote it
            made = dict(zip(("settings", "rows"), json.loads(made), strict=True))
        return made if isinstance(made["settings"], dict) and made["rows"] else None
    except (OSError, ValueError, TypeError, KeyError):
        return None
