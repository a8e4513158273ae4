"""Weights & Biases: one tracked job a stage, grouped by run. It never asks for a key and never stops a stage."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from helpers import InputError
from helpers.files import fingerprint
from helpers.machine.processes import is_main_process
from helpers.run_dir.folder import Run
from helpers.sources.tables import brief
from helpers.tracking.secrets import export_secrets, wandb_address


@contextmanager
def tracked(run: Run, job: str) -> Iterator[Any]:
    """Yields a W&B run with the configuration and the data's fingerprint, or None if tracking is disabled or fails.

    Online with a key and a connection, else offline in the run folder (`wandb sync` uploads it later), which a printed
    line says. A stopped job resumes its W&B run; a failed one is recorded as failed.
    """
    mode = wandb_mode(run.config.tracking.wandb)
    if mode == "disabled" or not is_main_process():
        yield None
        return
    try:
        tracker = _start(run, job, mode)
    except Exception as error:  # W&B's own, and any of the disk and the network: tracking is not worth a training
        print(f"W&B cannot start ({brief(error)}): no tracking")
        yield None
        return
    try:
        yield tracker
    except BaseException:
        tracker.finish(exit_code=1)
        raise
    tracker.finish()


def _start(run: Run, job: str, mode: str) -> Any:
    os.environ.setdefault("WANDB_SILENT", "true")  # the setting below does not reach its warnings
    import wandb

    arguments = {
        "project": os.environ.get("WANDB_PROJECT") or run.config.tracking.project,
        "group": run.path.name,
        "name": f"{run.path.name}-{job}",
        "job_type": job,
        "dir": None if os.environ.get("WANDB_DIR") else run.path,
        "id": run_id(run, job),
        "resume": "allow",
        "config": {**run.config.flat(), "run": {k: v for k, v in run.record.items() if k != "config"}},
        "settings": wandb.Settings(silent=True, console="off"),
    }
    if mode == "online":
        try:
            # An unreachable server W&B retries for minutes. Any answer will do: no secret is sent, and W&B itself
            # checks the certificate.
            httpx.get(wandb_address(), timeout=10, verify=False)
        except Exception as error:  # httpx's, and what else a network has
            print(f"W&B online fails ({brief(error)}): tracking offline, `wandb sync` uploads it later")
            mode = "offline"
    return wandb.init(mode=mode, **arguments)


def run_id(run: Run, job: str) -> str:
    """Constant for a job of a run folder until it has written its metrics, so that a stopped job is resumed."""
    finished = fingerprint(run / job / "metrics.json")
    made_of = json.dumps([str(run.record["created"]), run.path.name, job, finished])
    return hashlib.sha256(made_of.encode()).hexdigest()[:16]


def log_table(tracker: Any, name: str, rows: list[dict[str, Any]]) -> None:
    """Send rows with equal keys as a W&B table; does nothing if tracking is disabled."""
    if tracker is None or not rows:
        return
    import wandb

    tracker.log({name: wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])})


def wandb_mode(setting: str) -> str:
    """online, offline or disabled: `setting`, or for `auto` what WANDB_DISABLED and WANDB_MODE say.

    If those are not set either: online with a key, offline without, so that W&B never prompts. Raises InputError for
    online without a key.
    """
    mode = setting
    if setting == "auto":
        disabled = os.environ.get("WANDB_DISABLED", "").lower() in ("1", "true", "yes", "on")
        mode = "disabled" if disabled else os.environ.get("WANDB_MODE", "").strip().lower() or "auto"
    if mode not in ("auto", "online", "offline", "disabled"):
        raise InputError(f"WANDB_MODE = {mode!r} is none of online, offline, disabled")
    if mode in ("offline", "disabled"):
        return mode
    if export_secrets()["WANDB_API_KEY"] != "not set":
        return "online"
    if mode == "online":
        where = "tracking.wandb" if setting == "online" else "WANDB_MODE"
        raise InputError(f"{where} = 'online' requires an API key: set WANDB_API_KEY, or choose offline")
    return "offline"
