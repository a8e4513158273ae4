"""A process at work in a run folder: the only one, also on a network drive."""

import json
import os
import platform
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from helpers import InputError
from helpers.files import locked

OWNER = ".owner.json"  # deleting it lets another process take the folder, and stops the one that had it
HELD = "AI_DOCTOR_HELD"  # lines of token and folder, for the processes that the owner starts, as kernels
BEAT_SECONDS = 15.0
PATIENCE_BEATS = 8  # a network drive may show a beat minutes late


@contextmanager
def owned(folder: Path, label: str) -> Iterator[bool]:
    """Hold a folder in the block; yields False if this process, or the one that started it, holds it already.

    InputError names the process that holds it. The folder is locked, and since a network drive may have no locks or
    not share them, it also has a file that names its owner, with a number that grows every BEAT_SECONDS. A dead owner
    is replaced: at once where the lock says so, else if its number has not grown while watched for PATIENCE_BEATS; no
    clock of another machine is read.
    """
    path, before = folder / OWNER, os.environ.get(HELD, "")
    for token, _, where in (line.partition(" ") for line in before.split("\n")):
        if where == str(folder) and _read(path).get("token", token) == token:
            yield False
            return
    me = {"token": secrets.token_hex(8), "host": platform.node(), "machine": _machine(), "pid": os.getpid()}
    me |= {"since": datetime.now(UTC).isoformat(timespec="seconds"), "beat": f"{0:09}"}
    with ExitStack() as stack:
        try:
            lock = stack.enter_context(locked(folder))
        except BlockingIOError:
            raise InputError(_in_use(label, _read(path))) from None
        _claim(path, me, lock, label)
        os.environ[HELD] = f"{before}\n{me['token']} {folder}".strip()
        try:
            with repeating(BEAT_SECONDS, partial(_beat, path, me, count(1), label)):
                yield True
        finally:
            os.environ[HELD] = before
            with suppress(OSError):
                if _read(path).get("token") == me["token"]:
                    path.unlink()


def _claim(path: Path, me: dict[str, Any], lock: bool, label: str) -> None:
    """Make the owner's file; InputError if another's shows that it is alive. `lock`: the folder's lock is held."""
    replaced = False
    while True:
        try:
            with open(path, "x", encoding="utf-8") as file:
                try:
                    json.dump(me, file)
                    file.flush()
                except OSError:  # a full disk: half a file would be taken for an owner's
                    path.unlink(missing_ok=True)
                    raise
            break
        except FileExistsError:
            other = _read(path)
            if not (lock and other.get("machine") == me["machine"]):  # where the lock counts, it is dead
                _watch(path, other, label)
            if _read(path) == other:  # not yet replaced by a third process
                path.unlink(missing_ok=True)
                replaced = True
    if replaced:  # two may have seen that one dead: the second has removed the file of the first
        time.sleep(min(1.0, BEAT_SECONDS))
        if _read(path) != me:
            raise InputError(_in_use(label, _read(path)))


def _watch(path: Path, other: dict[str, Any], label: str) -> None:
    """Return when the owner's file has stayed as it is for PATIENCE_BEATS; InputError as soon as it changes."""
    patience = PATIENCE_BEATS * BEAT_SECONDS
    print(f"{_in_use(label, other)}; watching for {patience:.0f} s if it still runs", file=sys.stderr, flush=True)
    until = time.monotonic() + patience
    while time.monotonic() < until:
        time.sleep(BEAT_SECONDS / 5)
        if (now := _read(path)) != other:
            raise InputError(_in_use(label, now or other))


def _beat(path: Path, me: dict[str, Any], numbers: Iterator[int], label: str) -> bool:
    """Write the next number; True, and this process is stopped, where another has replaced it as the owner."""
    with suppress(OSError):  # a full disk, or a drive that is away for a while
        now = _read(path)
        if now.get("token", me["token"]) != me["token"]:
            print(f"{_in_use(label, now)}; this one stops", file=sys.stderr, flush=True)
            ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN  # as a shell has it in the background
            number = signal.SIGTERM if ignored else signal.SIGINT
            signal.pthread_kill(threading.main_thread().ident, number)  # also out of a wait
            return True
        with open(path, "r+", encoding="utf-8") as file:  # in place: a drive would keep each replaced file
            json.dump(me | {"beat": f"{next(numbers):09}"}, file)
    return False


@contextmanager
def repeating(seconds: float, work: Callable[[], Any]) -> Iterator[None]:
    """In the block, call `work` every so many seconds, by a thread, until it returns True."""
    done = threading.Event()

    def repeat() -> None:
        while not done.wait(seconds) and work() is not True:
            pass

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _read(path: Path) -> dict[str, Any]:
    """The owner's file; {} if it is missing or half written."""
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
        return owner if isinstance(owner, dict) and isinstance(owner.get("pid"), int) else {}
    except (OSError, ValueError):
        return {}


def _machine() -> str:
    """The same for processes that a lock keeps apart: of one machine since it started, and of one container."""
    facts = [platform.node()]
    with suppress(OSError):
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        facts.append(str(Path("/proc/self/ns/pid").stat().st_ino))
    return " ".join(facts)


def _in_use(label: str, owner: dict[str, Any]) -> str:
    who = "process {pid} on {host}, since {since}".format_map({"since": "?", "host": "?"} | owner) if owner else ""
    return f"another process is using {label}" + (f": {who}" if who else "") + "; wait, or choose another folder"
