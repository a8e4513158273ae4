"""The code under the ai-doctor notebooks: one module a stage, and the few that all stages share."""

from pathlib import Path

__version__ = "0.1.0"

PROJECT_ROOT = Path(__file__).resolve().parent.parent


class InputError(ValueError):
    """A wrong input, said in one readable line. The command line prints it and exits with status 2."""


class StageError(RuntimeError):
    """A notebook stopped with an error; the message is one line, `traceback` the cell and what it raised."""

    def __init__(self, message: str, traceback: str = "", input_error: bool = False) -> None:
        super().__init__(message)
        self.traceback, self.input_error = traceback, input_error
