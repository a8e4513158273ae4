"""How far a long step is: one line in a notebook, on a terminal, or for the runner that waits outside the kernel."""

import json
import os
import sys
import time
from pathlib import Path
from types import TracebackType

from tqdm import tqdm

from helpers.setup import is_main_process

PROGRESS_FILE = "AI_DOCTOR_PROGRESS"  # set by the runner: a file that the kernel keeps up to date


class Progress:
    """`with Progress(total, "questions") as p: p.update(8, "210 tokens/s")`; the last line stays as a summary."""

    def __init__(self, total: int, what: str, done: int = 0) -> None:
        self.total, self.what, self.done, self.note = total, what, done, ""
        self._from = done  # a resumed step says nothing about the speed of the rest
        self._started = self._shown = time.monotonic()
        self._display = self._bar = None

    def __enter__(self) -> "Progress":
        if _in_notebook():
            from IPython.display import display

            self._display = display({"text/plain": self._line()}, raw=True, display_id=True)
        elif sys.stderr.isatty() and is_main_process():
            self._bar = tqdm(total=self.total, desc=self.what, leave=False, initial=self.done)
        self._report()
        return self

    def update(self, step: int = 1, note: str = "") -> None:
        """`step` more are done; at most twice a second does anybody see it."""
        self.done, self.note = self.done + step, note or self.note
        if self._bar is not None:
            self._bar.update(step)
            self._bar.set_postfix_str(self.note)
        if time.monotonic() - self._shown >= 0.5:
            self._shown = time.monotonic()
            self._show()
            self._report()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._show()
        self._report()
        if self._bar is not None:
            self._bar.close()

    def _line(self) -> str:
        seconds = time.monotonic() - self._started
        note = f" · {self.note}" if self.note else ""
        if self._from < self.done < self.total:
            left = seconds / (self.done - self._from) * (self.total - self.done)
            note += f" · about {left:.0f} s left"
        return f"{self.done}/{self.total} {self.what} · {seconds:.0f} s{note}"

    def _show(self) -> None:
        if self._display is not None:
            self._display.update({"text/plain": self._line()}, raw=True)

    def _report(self) -> None:
        if os.environ.get(PROGRESS_FILE):
            path = Path(os.environ[PROGRESS_FILE])
            temporary = path.with_suffix(".new")
            temporary.write_text(json.dumps({"line": self._line(), "done": self.done, "total": self.total}))
            temporary.replace(path)


def _in_notebook() -> bool:
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    shell = get_ipython()
    return shell is not None and hasattr(shell, "kernel")
