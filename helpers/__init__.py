"""The code under the ai-doctor notebooks; docs/ARCHITECTURE.md says what lies where."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from helpers.machine.processes import is_main_process

__version__ = "0.1.0"

PROJECT_ROOT = Path(__file__).resolve().parent.parent


LONGEST = 3000  # characters of a message: the names and values in it may be of any length


def printable(text: str) -> str:
    """The text in one line that a terminal only shows: control, invisible and broken characters as escapes."""
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class InputError(ValueError):
    """A wrong input, said in one readable line. The command line prints it and exits with status 2."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


# What a disk says that is full, read-only, out of reach or somebody else's.
MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE)
STOPPED = 75  # exit status, EX_TEMPFAIL of sysexits.h: run it again


class StoppedError(InputError):
    """Work was ended before its time, and saved; the command line exits with `status`."""

    def __init__(self, message: str, status: int = STOPPED) -> None:
        super().__init__(message)
        self.status = status


class StageError(RuntimeError):
    """A notebook stopped with an error; the message is one line, `traceback` the cell and what it raised.

    `status` is what the command line exits with, and 1 alone shows the traceback.
    """

    def __init__(self, message: str, traceback: str = "", status: int = 1) -> None:
        super().__init__(message)
        self.traceback, self.status = traceback, status


@contextmanager
def ends_in_one_line() -> Iterator[None]:
    """In the block, an error ends the process in one line: status 2 for a wrong input, 1 for a failed stage.

    Below a failed stage's line stands its traceback.
    """
    try:
        yield
    except StoppedError as error:
        if is_main_process():
            print(error, file=sys.stderr)
        sys.exit(error.status)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in MACHINE:
            raise
        where = printable(str(error.filename or "the run folder, or the temporary one"))
        print(f"error: {error.strerror}: {where}; what was finished stays", file=sys.stderr)
        sys.exit(2)
    except MemoryError:
        print("error: memory ran out; what was finished stays", file=sys.stderr)
        sys.exit(2)
    except StageError as error:
        print(f"error: {error}", file=sys.stderr)
        if error.traceback and error.status == 1:
            print(f"\n{error.traceback}", file=sys.stderr)
        sys.exit(error.status)
