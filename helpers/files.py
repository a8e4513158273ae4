"""Files and folders, written atomically: under a temporary name, then renamed."""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from helpers import PROJECT_ROOT


def project_path(path: str | Path) -> Path:
    """A path as given if absolute, else below the project: a notebook's own folder must not matter."""
    return (PROJECT_ROOT / Path(path).expanduser()).resolve()


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name and rename it: a killed run leaves the old file or the new, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8", newline="\n") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """JSON for people and programs: indented, UTF-8, and refusing NaN, which is not JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    # Not splitlines(): U+2028 and its like are allowed inside JSON strings and are no line ends there.
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


@contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path` that takes its place when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    temporary.chmod(0o755)
    try:
        with locked(temporary):  # so that `clear_leftovers` sees that somebody is at work on it
            yield temporary
            retired = temporary.with_name(temporary.name + ".old")
            if path.exists():
                path.rename(retired)
            temporary.rename(path)
            shutil.rmtree(retired, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def fingerprint(*paths: Path) -> str:
    """SHA-256, shortened to 16 hex digits, of files' contents (a folder's in name order); absent paths count too."""
    digest = hashlib.sha256()
    for path in paths:
        files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
        for file in files:
            digest.update(file.name.encode())
            if file.is_file():
                with open(file, "rb") as handle:
                    digest.update(hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()[:16]


TEMPORARY = re.compile(r"\.(?P<final>.+)\.[a-z0-9_]{8}(?P<old>\.old)?")  # as `run_dir.atomic_dir` names them


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
