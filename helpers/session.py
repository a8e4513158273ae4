"""What outlives a session: a copy of the run folder elsewhere, and a training that is told to stop in time."""

import logging
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

from helpers import STOPPED, InputError, StageError
from helpers.config import Config
from helpers.files import check_writable, project_path, publish, read_json, write_json
from helpers.layout import MARKER, RESULT_FOLDERS
from helpers.owner import owned
from helpers.processes import is_main_process

# What comes from earlier parts last: a copy that was cut off then says too little, never too much.
PARTS = ("run.yaml", *RESULT_FOLDERS, "notebooks", "index.html", "stages.json")
COUNTER = "backup.json"  # how often this state was copied: a clock that no machine's own clock can turn back
DRIVE = Path("/content/drive")
STARTED = "AI_DOCTOR_STARTED"  # in the environment: time.monotonic() when the series began
SAVING_SECONDS = 25  # clusters mostly send SIGKILL 30 seconds after SIGTERM
TRAINING = ".training.json"  # in the run folder: the process that trains, and saves when it is sent SIGTERM


def back_up(path: Path, backup: str | None) -> None:
    """Bring `backup` up to date with the run folder `path`, and remove what the run folder no longer holds.

    Left out is what 06 makes again from the adapter: the merged model and the GGUF files, tens of gigabytes. Of the
    checkpoints only whole ones are copied. A copy that fails is reported in one line, and the work goes on.
    """
    if not backup:
        return
    try:
        folder = project_path(backup)
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

    InputError for a backup that cannot be written to, or that belongs to another run.
    """
    if not backup:
        return False
    folder = project_path(backup)
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
    check_writable(folder, f"session.backup = {backup}")
    return False


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


@contextmanager
def training_in(path: Path) -> Iterator[None]:
    """In the block, the run folder `path` names this process as the one that trains."""
    me = psutil.Process()
    write_json(path / TRAINING, {"pid": me.pid, "created": me.create_time()})
    try:
        yield
    finally:
        (path / TRAINING).unlink(missing_ok=True)


def tell_training_to_stop(path: Path) -> bool:
    """Send SIGTERM to the process that trains in the run folder `path`, which then saves; whether there is one."""
    with suppress(OSError, ValueError, TypeError, KeyError, psutil.Error):
        named = read_json(path / TRAINING)
        process = psutil.Process(named["pid"])
        if process.create_time() == named["created"]:
            process.send_signal(signal.SIGTERM)
            return True
    return False


class _TerminatedError(KeyboardInterrupt):
    """SIGTERM, as from a cluster that takes the machine back."""


@contextmanager
def stops_in_one_line(line: str, path: Path | None = None) -> Iterator[None]:
    """In the block, Ctrl+C and SIGTERM end the process with status 130 or 143 and, of several processes, one `line`.

    After SIGTERM a training in the run folder `path`, by another process, has SAVING_SECONDS to save.
    """
    told = False

    def stop(number: int, _: Any) -> None:
        nonlocal told
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a launcher sends one after Ctrl+C, and another when it waits
        if number == signal.SIGTERM and path and tell_training_to_stop(path):
            told = True
            signal.alarm(SAVING_SECONDS)
            return
        logging.disable()  # the process ends: what asyncio and nbclient say of their kernel's end helps nobody
        raise KeyboardInterrupt if number == signal.SIGINT else _TerminatedError

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGALRM)}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where a shell runs it in the background
        before[signal.SIGINT] = signal.signal(signal.SIGINT, stop)
    try:
        yield
    except StageError as error:
        if not told or error.status != STOPPED:
            raise
        print(error, file=sys.stderr)
        raise SystemExit(143) from None
    except KeyboardInterrupt as stopped:
        if is_main_process():
            print(line, file=sys.stderr, flush=True)
        raise SystemExit(143 if isinstance(stopped, _TerminatedError) else 130) from None
    finally:
        signal.alarm(0)
        for number, handler in before.items():
            signal.signal(number, handler)
