"""Progress of a long step: one line in a notebook or on a terminal, and in a file for the runner outside the kernel."""

import os
import shutil
import sys
import time
from pathlib import Path

from helpers.machine.processes import is_main_process

PROGRESS_FILE = "AI_DOCTOR_PROGRESS"  # set by the runner: the path of a file in which the kernel keeps its line


class Line:
    """Text that changes in place: an output of a notebook, which stays; else, on a `terminal`, its current line."""

    def __init__(self, terminal: bool) -> None:
        self.terminal, self.output, self._shown = terminal, None, ""
        if "IPython" in sys.modules:
            from IPython import display, get_ipython

            if hasattr(get_ipython(), "kernel"):
                self.output = display.display({"text/plain": ""}, raw=True, display_id=True)

    def show(self, text: str) -> None:
        if self.output:
            if text != self._shown:  # the runner tells twice a second, news or not
                self._shown = text
                self.output.update({"text/plain": text}, raw=True)
        elif self.terminal:
            width = shutil.get_terminal_size().columns - 1  # what wraps cannot be written over
            print(f"\r{text[:width]:{width}}\r", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        if not self.output:
            self.show("")


class Progress:
    """`with Progress(total, "questions") as p: p.update(8, "210 tokens/s")`."""

    def __init__(self, total: int, what: str, done: int = 0) -> None:
        self.total, self.what, self.done, self.note = total, what, done, ""
        self._resumed_at = done  # what was done before says nothing about the speed of the rest
        self._started = self._shown = time.monotonic()

    def __enter__(self) -> "Progress":
        self._line = Line(sys.stderr.isatty() and is_main_process())
        self._show()
        return self

    def update(self, step: int = 1, note: str = "") -> None:
        """`step` more are done; shown at most twice a second."""
        self.done, self.note = self.done + step, note or self.note
        if time.monotonic() - self._shown >= 0.5:
            self._shown = time.monotonic()
            self._show()

    def __exit__(self, *_: object) -> None:
        self._show(ended=True)
        self._line.close()

    def _show(self, ended: bool = False) -> None:
        seconds, made = time.monotonic() - self._started, self.done - self._resumed_at
        parts = [f"{self.done}/{self.total} {self.what}", f"{seconds:.0f} s", self.note]
        if made and self.done < self.total and not ended:
            parts.append(f"about {seconds / made * (self.total - self.done):.0f} s left")
        text = " · ".join(filter(None, parts))
        self._line.show(text)
        if os.environ.get(PROGRESS_FILE):
            Path(os.environ[PROGRESS_FILE]).write_text(text, encoding="utf-8")


class StageLines:
    """`run_series(tell=StageLines())`: a line for each finished stage, and one that changes for the running stage.

    Where no line can change, in a log, the running stage has one when it starts.
    """

    def __init__(self) -> None:
        self._ended: list[str] = []
        self._started = ""
        self._line = Line(sys.stdout.isatty() and sys.stderr.isatty())

    def __call__(self, stage: str, state: str, detail: str) -> None:
        line, running = f"{stage:24}{state:10}{detail}".rstrip(), state == "running"
        lines = [*self._ended, line]
        if not running:
            self._ended = lines
        if self._line.output:
            self._line.show("\n".join(lines))
        elif running and self._line.terminal:
            self._line.show(line)
        elif not running or stage != self._started:
            self._line.close()
            print(line, flush=True)
            self._started = stage

    def close(self) -> None:
        """Clear the running stage's line from a terminal."""
        self._line.close()
