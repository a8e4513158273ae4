"""The code under the ai-doctor notebooks: one module a stage, and the few that all stages share."""

from pathlib import Path

__version__ = "0.1.0"

PROJECT_ROOT = Path(__file__).resolve().parent.parent


class InputError(ValueError):
    """A wrong input, said in one readable line. The command line prints it and exits with status 2."""
