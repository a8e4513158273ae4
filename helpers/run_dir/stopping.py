"""Stopping on Ctrl+C or SIGTERM: in one line, and after a training has saved."""

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from helpers import STOPPED, StageError
from helpers.files import write_text
from helpers.machine.processes import is_main_process

STARTED = "AI_DOCTOR_STARTED"  # in the environment: time.monotonic() when the series began
SAVING_SECONDS = 25  # clusters mostly send SIGKILL 30 seconds after SIGTERM
TRAINING = ".training"  # in the run folder: the process that trains, and saves when it is sent SIGTERM


@contextmanager
def training_in(path: Path) -> Iterator[None]:
    """In the block, the run folder `path` names this process as the one that trains."""
    write_text(path / TRAINING, str(os.getpid()))
    try:
        yield
    finally:
        (path / TRAINING).unlink(missing_ok=True)


def tell_training_to_stop(path: Path) -> bool:
    """Send SIGTERM to the process that trains in the run folder `path`, which then saves; whether there is one.

    It is this one or its kernel: a killed one's number may be another's by now.
    """
    with suppress(OSError, ValueError, psutil.Error):
        named, me = int((path / TRAINING).read_text(encoding="ascii")), psutil.Process()
        if named in (each.pid for each in (me, *me.children(recursive=True))):
            os.kill(named, signal.SIGTERM)
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
