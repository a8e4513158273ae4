"""Files and folders, written atomically: under a temporary name, flushed to the disk, then renamed."""

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from helpers import PROJECT_ROOT, InputError


def project_path(path: str | Path, start: Path | None = None) -> Path:
    """A path as given if absolute, else below the project (or `start`), so that the working folder does not matter.

    InputError for one that no file can have (links in a circle, an unknown `~user`, too long a name, a NUL), and for a
    name that is not UTF-8.
    """
    try:
        found = ((start or PROJECT_ROOT) / Path(path).expanduser()).resolve()
        found.exists()
        str(found).encode()  # else it cannot be recorded
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{str(path)[:200]!r} is not a path that can be used: {error}"[:400]) from None
    return found


def typed_path(path: str | Path) -> Path:
    """A path as typed at the command line: below the working folder. InputError as from `project_path`."""
    return project_path(path, Path())


def check_writable(folder: Path, what: str) -> None:
    """Make a folder if need be, and see that files can be written to it; InputError that begins with `what` if not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"{what}: {error.strerror or error}") from None


def flush(path: Path) -> None:
    """Wait until a file, or a folder with all that is in it, is on the disk."""
    if path.is_dir():
        for each in path.iterdir():
            if not each.is_symlink():
                flush(each)
        flush_names(path)
    else:
        _fsync(path)


def flush_names(folder: Path) -> None:
    """Wait until the names in a folder, and not what they name, are on the disk."""
    try:
        _fsync(folder)
    except OSError as error:  # Windows and some network drives cannot
        if error.errno in (errno.EIO, errno.ENOSPC, errno.EDQUOT):
            raise


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(path: Path) -> None:
    """Make a folder and its parents so that a power cut does not undo it."""
    new = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for each in new:
        flush_names(each.parent)


def move(source: Path, target: Path) -> None:
    """Rename what is on the disk already, replacing a file, so that a power cut does not undo it."""
    source.replace(target)
    flush_names(target.parent)
    if source.parent != target.parent:
        flush_names(source.parent)


def publish(temporary: Path, final: Path) -> None:
    """Give a finished file or folder its name: after a power cut it has all of its content, or not that name."""
    flush(temporary)
    move(temporary, final)


def write_text(path: Path, text: str) -> None:
    """Atomic: temporary file, fsync, rename. A killed process leaves the old file or the new one."""
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8", newline="\n") as handle:
            handle.write(text)
        publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Indented UTF-8 JSON; ValueError for NaN and infinities, which JSON does not have."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


def read_json(path: Path) -> Any:
    """The value in a file; InputError for one that is cut off or otherwise damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise damaged(path, error) from None


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The objects in a file, one a line; InputError as from `read_json`."""
    try:
        # Not splitlines(): JSON strings may contain U+2028 and similar characters, at which it would split.
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (ValueError, RecursionError) as error:
        raise damaged(path, error) from None
    if not all(isinstance(row, dict) for row in rows):
        raise damaged(path, "a line is not an object")
    return rows


def damaged(path: Path, why: object) -> InputError:
    return InputError(f"{path} is damaged ({why}): restore it, or delete it, and the stage that makes it runs again")


@contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """Atomic folder: yields an empty temporary one that replaces `path` when the block ends without an error."""
    make_folder(path.parent)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    temporary.chmod(0o755)
    retired = temporary.with_name(temporary.name + ".old")
    try:
        yield temporary
        flush(temporary)
        if path.exists():
            path.rename(retired)
        move(temporary, path)
        shutil.rmtree(retired, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def fingerprint(*paths: Path) -> str:
    """SHA-256, shortened to 16 hex digits, of files' contents (a folder's in name order); a missing path counts too."""
    digest = hashlib.sha256()
    for path in paths:
        files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
        for file in files:
            digest.update(os.fsencode(file.name))  # which need not be UTF-8
            if file.is_file():
                with open(file, "rb") as handle:
                    digest.update(hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()[:16]


@contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[bool]:
    """Hold the folder's lock in the block; yields False where the file system has no locks.

    If another process holds it, waits or raises BlockingIOError. The lock of a killed process is released.
    """
    import fcntl  # not on Windows, where this module must import

    handle = os.open(folder, os.O_RDONLY)  # the folder itself is locked: a lock file would stay behind
    held = True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(handle)
        raise
    except OSError:
        held = False
    try:
        yield held
    finally:
        os.close(handle)


def clear_leftovers(parent: Path, only: str = "") -> None:
    """Remove what killed processes left in `parent`, or of the folder `only` in it, and restore what they had renamed.

    Nobody else may write there meanwhile.
    """
    for path in sorted(parent.glob(".*.*")):  # a temporary folder sorts before the .old one beside it
        folder = re.fullmatch(r"\.(.+)\.[a-z0-9_]{8}(\.old)?", path.name)  # as `atomic_dir` names them
        if folder and path.is_dir() and only in ("", folder[1]):
            if folder[2] and not (parent / folder[1]).exists():
                path.rename(parent / folder[1])
            else:
                shutil.rmtree(path, ignore_errors=True)
        elif not only and ".tmp" in path.name and path.is_file():
            path.unlink()
