"""Progress of a long step: one line in a notebook or on a terminal, and in a file for the runner outside the kernel."""

import json
import os
import shutil
import sys
import time
from pathlib import Path

from helpers.machine.processes import is_main_process

PROGRESS_FILE = "AI_DOCTOR_PROGRESS"  # set by the runner: the path of a file that the kernel keeps up to date


class Progress:
    """`with Progress(total, "questions") as p: p.update(8, "210 tokens/s")`; in a notebook the last line stays."""

    def __init__(self, total: int, what: str, done: int = 0) -> None:
        self.total, self.what, self.done, self.note = total, what, done, ""
        self._resumed_at = done  # what was done before says nothing about the speed of the rest
        self._ended = False
        self._started = self._shown = time.monotonic()
        self._display, self._terminal = None, False

    def __enter__(self) -> "Progress":
        if _in_notebook():
            from IPython.display import display

            self._display = display({"text/plain": self._line()}, raw=True, display_id=True)
        else:
            self._terminal = sys.stderr.isatty() and is_main_process()
        self._show()
        return self

    def update(self, step: int = 1, note: str = "") -> None:
        """`step` more are done; shown at most twice a second."""
        self.done, self.note = self.done + step, note or self.note
        if time.monotonic() - self._shown >= 0.5:
            self._shown = time.monotonic()
            self._show()

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._show()
        if self._terminal:
            _write_over("")

    def _line(self) -> str:
        seconds, made = time.monotonic() - self._started, self.done - self._resumed_at
        parts = [f"{self.done}/{self.total} {self.what}", f"{seconds:.0f} s", self.note]
        if made and self.done < self.total and not self._ended:
            parts.append(f"about {seconds / made * (self.total - self.done):.0f} s left")
        return " · ".join(filter(None, parts))

    def _show(self) -> None:
        if self._display is not None:
            self._display.update({"text/plain": self._line()}, raw=True)
        if self._terminal:
            _write_over(self._line())
        if os.environ.get(PROGRESS_FILE):
            path = Path(os.environ[PROGRESS_FILE])
            temporary = path.with_name(f".{path.name}.tmp")
            state = {"line": self._line(), "done": self.done, "total": self.total}
            temporary.write_text(json.dumps(state), encoding="utf-8")
            temporary.replace(path)


def _write_over(line: str) -> None:
    """Put `line` in place of the terminal's current one, cut to its width: what wraps cannot be written over."""
    width = shutil.get_terminal_size().columns - 1
    print(f"\r{line[:width]:{width}}\r", end="", file=sys.stderr, flush=True)


class StageLines:
    """`run_series(tell=StageLines())`: a line for each finished stage, and one that changes for the running stage.

    Where no line can change, in a log, the running stage has one when it starts.
    """

    def __init__(self) -> None:
        self._ended: list[str] = []
        self._shown, self._started, self._display = "", "", None
        self._terminal = sys.stdout.isatty() and sys.stderr.isatty()
        if _in_notebook():
            from IPython.display import display

            self._display = display({"text/plain": ""}, raw=True, display_id=True)

    def __call__(self, stage: str, state: str, detail: str) -> None:
        line = f"{stage:24}{state:10}{detail}".rstrip()
        lines = "\n".join([*self._ended, line])
        if state != "running":
            self._ended.append(line)
        if self._display is not None:
            if lines != self._shown:
                self._shown = lines
                self._display.update({"text/plain": lines}, raw=True)
        elif self._terminal and state == "running":
            _write_over(line)
        elif state != "running" or stage != self._started:
            self.close()
            print(line, flush=True)
            self._started = stage

    def close(self) -> None:
        """Clear the running stage's line from a terminal."""
        if self._terminal:
            _write_over("")


def _in_notebook() -> bool:
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    shell = get_ipython()
    return shell is not None and hasattr(shell, "kernel")
