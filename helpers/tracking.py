"""Weights & Biases: one tracked job a stage, grouped by run, and never a prompt for a key."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from helpers.run_dir import Run
from helpers.setup import is_main_process, wandb_mode


@contextmanager
def tracked(run: Run, job: str) -> Iterator[Any]:
    """A W&B run with the configuration and the data's fingerprint, or None where tracking is disabled.

    Online when there is a key, else offline into the run folder (`wandb sync` uploads it later).
    """
    mode = wandb_mode(run.config.tracking.wandb)
    if mode == "disabled" or not is_main_process():
        yield None
        return
    os.environ.setdefault("WANDB_SILENT", "true")  # the setting below does not reach its warnings
    import wandb

    tracker = wandb.init(
        project=run.config.tracking.project,
        group=run.path.name,
        name=f"{run.path.name}-{job}",
        job_type=job,
        dir=run.path,
        mode=mode,
        config={**run.config.flat(), "run": {k: v for k, v in run.record.items() if k != "config"}},
        settings=wandb.Settings(silent=True, console="off"),
    )
    try:
        yield tracker
    finally:
        tracker.finish()


def log_table(tracker: Any, name: str, rows: list[dict[str, Any]]) -> None:
    """Send rows of equal keys as a W&B table; nothing where tracking is disabled."""
    if tracker is None or not rows:
        return
    import wandb

    tracker.log({name: wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])})
