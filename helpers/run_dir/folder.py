"""The run folder, through which the stages exchange files: opening one, its record, and what settings may change."""

import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import wraps
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from helpers import PROJECT_ROOT, InputError
from helpers.config import CHANGES, LARGER, Config, may_change, profile_table, read_overrides
from helpers.files import check_writable, clear_leftovers, make_folder, move, project_path, typed_path, write_text
from helpers.machine import hardware
from helpers.machine.processes import is_main_process
from helpers.run_dir.backup import back_up, backup_owned, restore
from helpers.run_dir.layout import RESULT_FOLDERS, check_unused
from helpers.run_dir.owner import owned
from helpers.setup import installed

RECORDED_PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes", "unsloth")


@dataclass(frozen=True)
class Run:
    """An open run folder and the configuration it was made with."""

    path: Path
    config: Config

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def require(self, name: str, stage: str) -> Path:
        """The path of the artifact `name`; InputError with the stage that makes it if it is missing."""
        if not (self / name).exists():
            raise InputError(f"{self.label} has no {name} yet: run {stage} first")
        return self / name

    @property
    def label(self) -> str:
        """The folder to show: relative to the project if it is inside."""
        inside = self.path.is_relative_to(PROJECT_ROOT)
        return str(self.path.relative_to(PROJECT_ROOT) if inside else self.path)

    @property
    def record(self) -> dict[str, Any]:
        return yaml.safe_load((self / "run.yaml").read_text(encoding="utf-8"))


def open_run(
    profile: str = "auto",
    run_dir: str | Path = "runs/default",
    overrides: dict[str, Any] | str | None = None,
    force: bool = False,
    record: bool = True,
) -> Run:
    """Open `run_dir`, making it and its run.yaml on first use; InputError where it holds other things than a run's.

    A folder with results keeps its settings when `profile` is "auto" or its own. Overrides that `config.CHANGES` allows
    are applied and, with `record`, recorded. Others, and another profile, raise InputError; with `force` they are
    applied, and what was made with the old settings is set aside, which is printed. A folder without results takes any.
    Without `record` one with results is only read.
    """
    path, overrides = project_path(run_dir), read_overrides(overrides)
    if PROJECT_ROOT.is_relative_to(path):  # also of "", an unset variable: a stage would overwrite its own notebook
        raise InputError(f"{path} holds this project, not a run: choose a run folder of its own, runs/mine say")
    if restore(path, overrides.get("session.backup")):
        print(f"{path.name}: goes on from {overrides['session.backup']}, which holds a later state")
    check_unused(path, str(path), (*RESULT_FOLDERS, "index.html"))
    stored = read_settings(path)
    bound = stored is not None and any((path / name).exists() for name in RESULT_FOLDERS)
    other = stored is not None and profile not in ("auto", stored.get("profile"))
    if stored and not (force and other):
        stored = _settle(Config.from_flat(stored), {}).flat()  # a setting newer than the folder may be auto
    if stored and (profile == "auto" or (bound and not other)):
        wanted = Config.from_flat(stored, overrides)
    else:
        if profile == "auto":
            profile = hardware.choose_profile(hardware.describe_machine()).profile
        wanted = Config.resolve(profile, overrides)
    run = Run(path, _settle(wanted, stored if bound and not (force and other) else {}))
    there = stored or {}
    changed = {k: (there.get(k), v) for k, v in run.config.flat().items() if k not in there or there[k] != v}
    if changed:
        _change(run, changed, bound, force, record)
    elif record:
        check_writable(path, f"cannot write to the run folder {path}")
    run = _at_commits(run)
    if stored is None and record:  # or a notebook on another machine would begin a run of its own
        back_up(path, run.config.session.backup)
    return run


def _at_commits(run: Run) -> Run:
    """The run with the hub's commits in its record: what is loaded again is what was loaded first.

    A folder gets its model's commit before its first result.
    """
    record = run.record
    if "model" not in record and not any((run / name).exists() for name in RESULT_FOLDERS):
        from helpers.sources.hub import model_commit

        if commit := model_commit(run.config.model):
            record["model"] = {"source": run.config.model.name, "revision": commit}
            _write_record(run, record)
    at = {
        part: getattr(run.config, part).model_copy(update={"commit": record.get(part, {}).get("revision")})
        for part in ("model", "data")
    }
    return Run(run.path, run.config.model_copy(update=at))


def _change(run: Run, changed: dict[str, tuple[Any, Any]], bound: bool, force: bool, record: bool) -> None:
    """Record changed settings, by key (stored value, requested value); InputError for those that need `force`."""
    from helpers.run_dir.source_check import check_sources

    refused = [key for key in changed if bound and not may_change(key, *changed[key])]
    if refused and not force:
        there, asked = changed[refused[0]]
        more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
        grows = ", and can only grow" if CHANGES.get(refused[0]) == LARGER else ""
        raise InputError(
            f"{run.label} was made with other settings: {refused[0]} is {there!r} there, {asked!r} asked{more}{grows}; "
            "choose another run folder, or --force to set aside what was made with the old ones"
        )
    if bound and not record:
        return
    check_sources(run.config, changed)
    check_writable(run.path, f"cannot write to the run folder {run.path}")
    if not bound:
        _write_record(run, _new_record(run.config))
        return
    with owned(run.path, run.label) as free:
        if not free:
            raise InputError(f"a series is at work in {run.label}: its settings cannot change now")
        stored = run.record
        first = min((RESULT_FOLDERS.index(_first_made_with(key)) for key in refused), default=len(RESULT_FOLDERS))
        if moved := set_aside(run.path, RESULT_FOLDERS[first:]):
            print(f"{run.label}: {moved}")
        for fact in RESULT_FOLDERS[first:] if first else ("model", *RESULT_FOLDERS):
            stored.pop(fact, None)  # `data`, of which it has the commit
        stored |= _new_record(run.config) if refused else {"config": run.config.flat()}
        change = {"time": _now(), "settings": {key: list(values) for key, values in changed.items()}}
        _write_record(run, stored | {"changes": [*stored.get("changes", []), change]})


def _first_made_with(key: str) -> str:
    """The first of RESULT_FOLDERS that depends on a setting; those after it are made from it."""
    return {"data": "data", "lora": "checkpoints", "training": "checkpoints"}.get(key.split(".")[0], "baseline")


@contextmanager
def alone_in(run: Run) -> Iterator[None]:
    """Hold the folder in the block; InputError if another process does. What killed processes left is removed, and at
    the end the folder is copied to `session.backup`: the next notebook may be opened on another machine.

    A kernel that a series started works in the series' folder, and the workers of a launcher in that of its main one.
    """
    if not is_main_process():
        yield
        return
    with owned(run.path, run.label) as first, backup_owned(run.config):
        for folder in (run.path, *run.path.glob("[!.]*/")) if first else ():
            clear_leftovers(folder)
        try:
            yield
        finally:
            if first:
                back_up(run.path, run.config.session.backup)


def alone(work: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator of a stage's function, whose first argument is the run: it works `alone_in` the folder."""

    @wraps(work)
    def call(run: Run, *args: Any, **kwargs: Any) -> Any:
        with alone_in(run):
            return work(run, *args, **kwargs)

    return call


def check_run(path: Path) -> None:
    """InputError, and no new folder, if there is no run in it."""
    if not read_settings(path):
        raise InputError(f"{path} is not a run folder: it has no run.yaml")


def find_run(path: Path, record: bool = True) -> Run:
    """The run in a folder, with its own settings; errors as `check_run` and `open_run` have them."""
    check_run(path)
    return open_run(run_dir=path, record=record)


def run_folder(named: str | None) -> Path | None:
    """The named folder, else that in AI_DOCTOR_RUN_DIR, else the run in runs/ that was exported last, else None.

    Runs of the `smoke` profile are skipped: the tests make them, and their weights are random.
    """
    if named:
        return typed_path(named)
    if variable := os.environ.get("AI_DOCTOR_RUN_DIR"):
        return project_path(variable)
    reports = sorted((PROJECT_ROOT / "runs").glob("*/export/report.json"), key=lambda file: -file.stat().st_mtime)
    folders = (report.parents[1] for report in reports)
    return next((path for path in folders if (read_settings(path) or {}).get("profile", "smoke") != "smoke"), None)


def read_settings(path: Path) -> dict[str, Any] | None:
    """The dotted settings in a folder's run.yaml; None if there is none.

    A setting newer than the folder has its profile's current value; one that is no longer a setting is left out.
    """
    try:
        record = yaml.safe_load((path / "run.yaml").read_text(encoding="utf-8"))
        settings = dict(record["config"])
        known = {"profile", *chain.from_iterable(profile_table().values())}
        ours = {key: value for key, value in settings.items() if key in known}
        return {**profile_table().get(settings.get("profile"), {}), **ours}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise InputError(f"cannot read {path / 'run.yaml'}: {error.strerror}") from None
    except (yaml.YAMLError, KeyError, TypeError, ValueError, OSError):
        raise InputError(f"{path / 'run.yaml'} is not a run record; choose another run folder") from None


def _settle(config: Config, stored: dict[str, Any]) -> Config:
    """Replace each `auto` that gpus.yaml has a value for: by the folder's stored value, else by this GPU's.

    The machine is only examined, which imports torch, if an `auto` remains.
    """
    config = config.settled({key: stored[key] for key in hardware.gpu_table()[0] if key in stored})
    flat = config.flat()
    if any(flat.get(key) == "auto" for key in hardware.gpu_table()[0]):
        # The small models need no 4-bit weights; SmolLM2's NLL on real rows is 0.30 higher with them.
        small = {"model.load_in_4bit": False} if config.model.name in ("tiny", "embedded") else {}
        config = config.settled(hardware.gpu_settings(hardware.describe_machine()) | small)
    return config


def note_in_record(run: Run, **facts: Any) -> None:
    """Add facts from a stage to run.yaml, such as the fingerprint of the data."""
    _write_record(run, run.record | facts)


def _write_record(run: Run, record: dict[str, Any]) -> None:
    write_text(run / "run.yaml", yaml.safe_dump(record, sort_keys=False, allow_unicode=True))


def versions() -> dict[str, str]:
    """Installed versions of Python and of the packages that can change a result."""
    found = {name: installed(name) for name in RECORDED_PACKAGES}
    return {"python": platform.python_version()} | {name: version for name, version in found.items() if version}


def _new_record(config: Config) -> dict[str, Any]:
    return {
        "profile": config.profile,
        "created": _now(),
        "git_commit": _git_commit(),
        "versions": versions(),
        "hardware": hardware.describe_machine().model_dump(),
        "config": config.flat(),
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _git_commit() -> str | None:
    """The project's commit, with "-dirty" where a file differs from it; None where there is no git."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, encoding="utf-8", check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def set_aside(run_folder: Path, names: Sequence[str], copied: Sequence[str] = ()) -> str:
    """Move those of `names` that exist to earlier/TIME in the run folder, with copies of run.yaml and of `copied`.

    Returns a sentence about it; "" if there was nothing to move.
    """
    there = [name for name in names if (run_folder / name).exists()]
    if not there:
        return ""
    time = _now().replace(":", "-").removesuffix("+00-00")
    taken = len(list(run_folder.glob(f"earlier/{time}*")))
    aside = run_folder / "earlier" / (f"{time}-{taken + 1}" if taken else time)
    make_folder(aside)
    shutil.copy2(run_folder / "run.yaml", aside)
    for name in (name for name in copied if (run_folder / name).exists()):
        shutil.copytree(run_folder / name, aside / name)
    for name in there:
        (aside / name).parent.mkdir(exist_ok=True)
        move(run_folder / name, aside / name)
    return f"set aside in {aside.relative_to(run_folder)}: {', '.join(there)}"
