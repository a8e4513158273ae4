"""A copy of the run folder elsewhere, which outlives the session."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from helpers import InputError
from helpers.config import Config
from helpers.files import check_writable, project_path, publish, read_json, write_json
from helpers.run_dir.layout import MARKER, PARTS, check_unused
from helpers.run_dir.owner import owned

COUNTER = "backup.json"  # how often this state was copied: a clock that no machine's own clock can turn back
DRIVE = Path("/content/drive")


def back_up(path: Path, backup: str | None) -> None:
    """Make `backup` like the run folder `path`, without the merged model and the GGUF files, which 06 makes again from
    the adapter, and checkpoints that are not whole. A copy that fails is reported in one line, and the work goes on."""
    if not backup:
        return
    try:
        folder = project_path(backup)
        if _one_in_the_other(path, folder):  # a copy that is itself gone on with, say
            return
        folder.mkdir(parents=True, exist_ok=True)
        for part in PARTS:
            _mirror(path / part, folder / part)
        count = {"copies": _copies(path) + 1}
        write_json(folder / COUNTER, count)
        write_json(path / COUNTER, count)
    except OSError as error:
        print(f"not copied to {backup}: {error.strerror or error}; the work goes on")


@contextmanager
def backup_owned(config: Config) -> Iterator[None]:
    """Hold `session.backup` in the block: a run folder of another machine may be copied there, too."""
    with ExitStack() as stack:
        if backup := config.session.backup:
            with suppress(OSError):  # as a copy that fails stops nothing
                stack.enter_context(owned(project_path(backup), backup))
        yield


def restore(path: Path, backup: str | None) -> bool:
    """Fill the run folder `path` from `backup` if that holds a later state of it; whether it did.

    InputError for a backup that cannot be written to, that belongs to another run or to none, or that is or lies in
    the run folder.
    """
    if not backup:
        return False
    folder = project_path(backup)
    if _one_in_the_other(path, folder):
        raise InputError(f"session.backup = {backup} and run folder {path} lie in each other: choose another folder")
    _mount(folder)
    born, here = _born(folder), _born(path)
    if born and here and born != here:
        raise InputError(f"session.backup = {backup} holds another run than {path}: choose another folder")
    if born:
        if later := _copies(folder) > _copies(path):
            path.mkdir(parents=True, exist_ok=True)
            for part in (*PARTS, COUNTER):
                _mirror(folder / part, path / part)
        return later
    check_unused(folder, f"session.backup = {backup}", PARTS)
    check_writable(folder, f"session.backup = {backup}")
    return False


def _one_in_the_other(path: Path, folder: Path) -> bool:
    """Whether a copy of the run `path` in `folder` would lie in what is copied, or in its place."""
    return folder.is_relative_to(path) or any(path.is_relative_to(folder / part) for part in PARTS)


def _mount(folder: Path) -> None:
    """On Colab, mount Google Drive for a folder in it; the page asks for permission."""
    if not folder.is_relative_to(DRIVE) or DRIVE.is_mount():
        return
    try:
        from google.colab import drive
    except ImportError:
        raise InputError(f"{folder}: there is no Google Drive at {DRIVE}, which only Colab has") from None
    if "ipykernel" not in sys.modules:
        raise InputError(f"{folder}: mount Google Drive in a notebook of this session first")
    drive.mount(str(DRIVE))


def _born(folder: Path) -> Any:
    """When the run in the folder was begun, which tells runs apart; None if there is none."""
    try:
        return yaml.safe_load((folder / "run.yaml").read_text(encoding="utf-8"))["created"]
    except (OSError, yaml.YAMLError, TypeError, KeyError):
        return None


def _copies(folder: Path) -> int:
    try:
        return int(read_json(folder / COUNTER)["copies"])
    except (OSError, ValueError, TypeError, KeyError):
        return 0 if (folder / "run.yaml").is_file() else -1


def _mirror(source: Path, target: Path) -> None:
    """Make `target` like `source`, a file, a folder or nothing; each file is copied whole, and only if it differs."""
    if source.is_dir():
        target.mkdir(exist_ok=True)
        inside = sorted(filter(_kept, source.iterdir()), key=lambda path: (path.name == MARKER, path.name))
        for path in inside:
            _mirror(path, target / path.name)
        for path in set(target.iterdir()) - {target / path.name for path in inside}:
            _remove(path)
    elif not source.exists():
        _remove(target)
    elif not _alike(source, target):
        temporary = target.with_name(f".{target.name}.tmp")
        shutil.copy2(source, temporary)
        publish(temporary, target)


def _kept(path: Path) -> bool:
    if path.name.startswith("."):
        return path.name.startswith(".replies.")  # what 05 and 07 have asked so far
    if path.parent.name == "checkpoints":
        return (path / MARKER).is_file()
    return not (path.parent.name == "export" and (path.name == "merged" or path.suffix == ".gguf"))


def _alike(one: Path, other: Path) -> bool:
    if not other.is_file():
        return False
    a, b = one.stat(), other.stat()
    return a.st_size == b.st_size and abs(a.st_mtime - b.st_mtime) < 0.01


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
