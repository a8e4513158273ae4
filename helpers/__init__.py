"""The code under the ai-doctor notebooks: one module a stage, and the few that all stages share."""

from pathlib import Path

__version__ = "0.1.0"

PROJECT_ROOT = Path(__file__).resolve().parent.parent


class InputError(ValueError):
    """A wrong input, said in one readable line. The command line prints it and exits with status 2."""


STOPPED = 75  # exit status, EX_TEMPFAIL of sysexits.h: run it again


class StoppedError(InputError):
    """Work was ended before its time, and saved; the command line exits with status STOPPED."""


class StageError(RuntimeError):
    """A notebook stopped with an error; the message is one line, `traceback` the cell and what it raised.

    `status` is what the command line exits with, and 1 alone shows the traceback.
    """

    def __init__(self, message: str, traceback: str = "", status: int = 1) -> None:
        super().__init__(message)
        self.traceback, self.status = traceback, status
