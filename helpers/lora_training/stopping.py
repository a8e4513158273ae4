"""Ending a training early with a checkpoint: when the session's time is over, or the machine is taken back."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from accelerate import PartialState
from transformers import TrainerCallback

from helpers import STOPPED, StoppedError
from helpers.machine.processes import is_main_process
from helpers.run_dir.backup import back_up
from helpers.run_dir.folder import Run
from helpers.run_dir.stopping import STARTED, training_in


class StopCallback(TrainerCallback):
    """Saves and ends the training at the end of a step, in all processes the same: after SIGTERM, as clusters send it,
    and before `session.minutes` since the series, or this training, began, early enough for one more step as long as
    the longest so far and for the checkpoint."""

    def __init__(self, run: Run) -> None:
        minutes = run.config.session.minutes
        self.run, self.signalled, self.reason, self.step = run, False, "", ""
        self.limit = minutes * 60 if minutes else float("inf")
        self.started = float(os.environ.get(STARTED, time.monotonic()))
        self.longest = {"step": 0.0, "save": 0.0}
        self.lap = 0.0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """In the block, SIGTERM makes the training save and end; StoppedError at its end if it did."""
        with ExitStack() as stack:
            if threading.current_thread() is threading.main_thread():  # only there can a signal be caught
                before = signal.signal(signal.SIGTERM, self._terminated)
                stack.callback(signal.signal, signal.SIGTERM, before)
                if is_main_process():
                    stack.enter_context(training_in(self.run.path))
            yield
        if self.reason:
            raise StoppedError(
                f"{self.reason}: training is saved after step {self.step}, and the same command or cell goes on there",
                143 if self.signalled else STOPPED,
            )

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.lap = time.monotonic()

    def _terminated(self, *_: Any) -> None:
        self.signalled = True

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._took("step")
        if state.global_step < state.max_steps and self._wanted():
            control.should_save = control.should_training_stop = True
            self.step = f"{state.global_step} of {state.max_steps}"

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if is_main_process():
            back_up(self.run.path, self.run.config.session.backup)  # after `TrainingLogCallback` has marked it
        self._took("save")

    def _took(self, what: str) -> None:
        now = time.monotonic()
        self.longest[what] = max(self.longest[what], now - self.lap)
        self.lap = now

    def _wanted(self) -> bool:
        if self.signalled:
            self.reason = "stopped by SIGTERM"
        elif time.monotonic() - self.started + self.longest["step"] + self.longest["save"] > self.limit:
            self.reason = f"stopped, since session.minutes = {self.run.config.session.minutes:g} are nearly over"
        together = PartialState()
        if together.num_processes == 1:
            return bool(self.reason)
        asked = torch.tensor(float(bool(self.reason)), device=together.device)
        torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX)
        if asked and not self.reason:
            self.reason = "stopped, since another process was told to"
        return bool(asked)
