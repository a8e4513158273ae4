"""The log of a training: losses, speed and memory of each step, and the validation loss now and then."""

import math
import time
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from transformers import TrainerCallback

from helpers import InputError
from helpers.files import read_jsonl, write_jsonl
from helpers.lora_training.batches import Encoded
from helpers.lora_training.checkpoints import follow_schedule, mark_complete
from helpers.losses import completion_nll
from helpers.machine.hardware import memory_gib
from helpers.machine.processes import is_main_process, wait_for_all
from helpers.run_dir.folder import Run
from helpers.tracking.progress import Progress

LogRows = list[dict[str, Any]]


class TrainingLogCallback(TrainerCallback):
    """Writes training/log.jsonl after each step, measures the validation loss, and marks checkpoints as complete."""

    def __init__(
        self,
        run: Run,
        validation: Sequence[Encoded],
        pad: int,
        watch: Callable[[LogRows], None] | None,
        texts: Sequence[Encoded] = (),
    ) -> None:
        self.run, self.rows, self.pad, self.watch = run, validation, pad, watch
        self.texts = texts[: run.config.evaluation.max_validation]  # of the corpus, unseen in training
        self.validation = validation[: run.config.evaluation.max_validation]
        self.log: LogRows = []
        self.progress = Progress(0, "steps")
        self.lap_started, self.lap_tokens = time.monotonic(), 0

    def resume(self, step: int) -> None:
        """Keep an interrupted run's log up to `step`; later steps are trained again."""
        log, checkpoints = self.run / "training/log.jsonl", self.run / "checkpoints"
        if not log.is_file():
            raise InputError(f"no {log}, so {checkpoints} cannot be continued: put it back, or delete that folder")
        self.log = [row for row in read_jsonl(log) if row["step"] <= step]
        self.validation = self.rows[: len(self.validations()[0]["validation_rows"])]  # also if the setting has changed
        if self.watch:
            self.watch(self.log)

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **loaded: Any) -> None:
        follow_schedule(loaded["optimizer"], loaded["lr_scheduler"])
        if not self.log:
            self._validate(model, 0)
        self.lap_started, self.lap_tokens = time.monotonic(), int(state.num_input_tokens_seen)
        self.progress = Progress(state.max_steps, "steps", done=state.global_step).__enter__()

    def lap(self, tokens: int) -> dict[str, float]:
        """Tokens a second since the last step, given all real tokens so far, and memory in GiB."""
        now = time.monotonic()
        rate = (tokens - self.lap_tokens) / (now - self.lap_started)
        self.lap_started, self.lap_tokens = now, tokens
        return {"tokens_per_second": rate, "memory_gib": memory_gib()}

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if "loss" in logs:
            kept = ("loss", "learning_rate", "grad_norm", "tokens_per_second", "memory_gib")
            row: dict[str, Any] = {name: float(logs[name]) for name in kept if name in logs}
            self._check(row["loss"], "training", state.global_step)
            if not math.isfinite(row.get("grad_norm", 0.0)):
                row["grad_norm"] = None  # too large for float16: the scaler leaves this step out
            self._add({"step": state.global_step, **row, "tokens": int(state.num_input_tokens_seen)})
            self.progress.update(note=f"loss {row['loss']:.2f}")

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        parts = self.run.config.training.validations
        if state.global_step in {round(state.max_steps * i / parts) for i in range(1, parts + 1)}:
            self._validate(model, state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        wait_for_all()  # each process saves its own random state
        if is_main_process():
            mark_complete(self.run, self.run / f"checkpoints/checkpoint-{state.global_step}")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.progress.__exit__(None, None, None)

    def validations(self) -> LogRows:
        return [row for row in self.log if "validation_nll" in row]

    def _validate(self, model: Any, step: int) -> None:
        started = time.monotonic()
        rows = completion_nll(model, self.validation, self.pad, f"validation rows at step {step}")
        self._check(math.fsum(rows), "validation", step)
        found = {"step": step, "validation_nll": fmean(rows), "validation_rows": [round(nll, 5) for nll in rows]}
        if self.texts:
            found["corpus_nll"] = fmean(completion_nll(model, self.texts, self.pad, f"unseen texts at step {step}"))
        self.lap_started += time.monotonic() - started  # validation does not count as training time
        self._add(found)

    @staticmethod
    def _check(loss: float, what: str, step: int) -> None:
        if not math.isfinite(loss):
            cure = "take a third of training.learning_rate in another run folder (other causes: the end of 04)"
            raise InputError(f"the {what} loss at step {step} is not a number: {cure}")

    def _add(self, row: dict[str, Any]) -> None:
        self.log.append(row)
        if is_main_process():
            write_jsonl(self.run / "training/log.jsonl", self.log)
        if self.watch:
            self.watch(self.log)
