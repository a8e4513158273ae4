"""Folders that outlive a process: their locks, what a killed process left, and what is set aside."""

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

# Of a run folder, in the order of the stages: each is made from those before it.
RESULT_FOLDERS = ("baseline", "data", "checkpoints", "training", "adapter", "evaluation", "export")
ADAPTER = ("adapter/adapter_model.safetensors", "adapter/adapter_config.json")
TEMPORARY = re.compile(r"\.(?P<final>.+)\.[a-z0-9_]{8}(?P<old>\.old)?")  # as `run_dir.whole_folder` names them


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Hold the folder's lock in the block, or yield False where the file system has no locks.

    Raises BlockingIOError where another process holds it. A killed process's lock is gone with it.
    """
    handle = os.open(folder, os.O_RDONLY)  # the folder itself is locked: a lock file would be left in it
    try:
        yield _flock(handle)
    finally:
        os.close(handle)


def _flock(handle: int) -> bool:
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def clear_leftovers(parent: Path) -> None:
    """Remove the temporary folders in `parent` whose process was killed, and take back a folder that it had renamed.

    A living process holds the lock of its own, which stays; so does every one where the file system has no locks.
    """
    for folder in sorted(parent.glob(".*.*")):  # a temporary folder comes before the one that it was to replace
        match = TEMPORARY.fullmatch(folder.name)
        if not match or not folder.is_dir():
            continue
        with suppress(OSError), locked(folder) as lock:
            if not match["old"]:
                if lock:
                    shutil.rmtree(folder)
            elif not folder.with_suffix("").exists():
                final = parent / match["final"]
                shutil.rmtree(folder) if final.exists() else folder.rename(final)


def set_aside(run_folder: Path, names: Sequence[str], copied: Sequence[str] = ()) -> str:
    """Move those of `names` that are there to earlier/TIME in the run folder, with a copy of run.yaml and of `copied`.

    Returns a sentence that says so; "" where there was nothing to move.
    """
    there = [name for name in names if (run_folder / name).exists()]
    if not there:
        return ""
    time = datetime.now(UTC).isoformat(timespec="seconds").replace(":", "-").removesuffix("+00-00")
    taken = len(list(run_folder.glob(f"earlier/{time}*")))
    aside = run_folder / "earlier" / (f"{time}-{taken + 1}" if taken else time)
    aside.mkdir(parents=True)
    shutil.copy2(run_folder / "run.yaml", aside)
    for name in (name for name in copied if (run_folder / name).exists()):
        shutil.copytree(run_folder / name, aside / name)
    for name in there:
        (aside / name).parent.mkdir(exist_ok=True)
        (run_folder / name).rename(aside / name)
    return f"set aside in {aside.relative_to(run_folder)}: {', '.join(there)}"
