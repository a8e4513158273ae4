"""Sentences for notebook 04 on what a run shows, made from its figures, and the settings in words."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from helpers.config import Config
from helpers.machine.processes import world_size

IN_WORDS = {
    "lora.r": "rank: columns of B, rows of A; more can express more and costs memory",
    "lora.alpha": "the correction is multiplied by alpha / r: twice alpha, twice the correction",
    "lora.dropout": "share of inputs to A set to zero at random, against overfitting",
    "training.backend": "the library that trains",
    "training.learning_rate": "how far a step moves the weights; too high: the loss jumps; too low: it hardly falls",
    "training.packing": "rows end to end in one sequence, so no computing goes into padding",
    "training.batch_size": "rows that go through the model at once; memory grows with it",
    "training.gradient_accumulation": "batches whose gradients are added up before one step",
    "training.max_steps": "optimizer steps; above 0 it wins over epochs",
    "training.epochs": "how often each row is seen, where max_steps is -1",
    "training.warmup_steps": "steps in which the learning rate climbs from 0, while the optimizer's averages are rough",
    "training.weight_decay": "a pull of A and B towards 0 at each step, against large weights",
    "training.scheduler": "how the learning rate falls to 0 after warm-up: long steps first, short ones to settle",
    "training.optimizer": "AdamW; in 8 bits its two averages a weight take a quarter of the memory",
    "training.gradient_checkpointing": "keep few intermediate values and compute them again: less memory, more time",
    "training.validations": "times the validation loss is measured after the first",
    "training.checkpoints": "times all is saved, to go on from after an interruption",
}


def settings_in_words(config: Config) -> dict[str, tuple[str, str]]:
    return {key: (str(value), IN_WORDS[key]) for key, value in config.flat().items() if key in IN_WORDS}


def steps_remark(config: Config, steps: int, units: int, text_units: int = 0) -> str:
    """Steps against epochs, for so many rows, or packs of rows, after `text_units` of a corpus."""
    training = config.training
    what = "packs" if training.packing else "rows"
    together = training.batch_size * training.gradient_accumulation * world_size()
    epoch, drawn = math.ceil(units / together), steps * together - text_units
    seen = what if together > 1 else what.removesuffix("s")
    first = f"Here: a step sees {together} {seen}, so {units:,} {what} make {epoch:,} steps an epoch."
    if text_units:
        before = math.ceil(text_units / together)
        first += f" {text_units:,} {what} of the corpus come first, once, in {before:,} steps of their own."
        steps -= before
    if drawn < units:
        return f"{first} The {steps:,} planned steps end before that: {units - drawn:,} {what} are never seen."
    often = "once" if steps == epoch else f"about {steps / epoch:.1f} times"
    return f"{first} The {steps:,} planned steps see each of them {often}."


def step_remark(before: float, after: float) -> str:
    """What one step by hand did to the loss of its own row."""
    if after < before:
        first = f"Here: one step lowered the loss on its own row by {before - after:.4f} nats a token."
        return f"{first} What counts is the loss on other rows."
    return f"Here: one step raised the loss by {after - before:.4f} nats a token: the learning rate is too high for it."


def curve_remark(log: Sequence[Mapping[str, Any]]) -> str:
    """A loss curve read aloud: the validation loss, and whether it turned.

    Not the training loss: each point is of other rows, and rows of like length, some with a lower loss, come together.
    """
    checks = [(row["step"], row["validation_nll"]) for row in log if "validation_nll" in row]
    if len(checks) < 2:
        return "Here: too little was measured to read a curve."
    (_, start), (_, end) = checks[0], checks[-1]
    best_step, best = min(checks, key=lambda check: check[1])
    if end - best > 0.01 * best:
        turn = "from its start" if best_step == checks[0][0] else f"after step {best_step}"
        held = f"Here: the validation loss starts at {start:.2f}, is lowest at {best:.2f} and ends at {end:.2f}"
        return f"{held}. It rises {turn}, which is overfitting if the training loss goes on falling."
    if start - end > 0.01 * start:
        return f"Here: the validation loss falls from {start:.2f} to {end:.2f} without a turn: unseen rows gain too."
    return f"Here: the validation loss hardly moves, {start:.2f} to {end:.2f}: little was learned that carries over."


def plan_remark(budget: Mapping[str, float], metrics: Mapping[str, Any]) -> str:
    times = metrics["seconds"] / 60 / budget["minutes"]
    time = f"Here: the time came to {times:.2f} times the plan."
    if not 0.5 <= times <= 2:
        time += " The speed was measured just now; another load, or very small batches, make it another."
    more = round(metrics["peak_memory_gib"], 1) - round(budget["memory_gib"], 1)  # as the table has them
    if more > 0.25 * budget["memory_gib"]:
        return (
            f"{time} Memory came to {more:.1f} GiB more: the plan counts weights, adapters and intermediate "
            "values, the process holds Python and its libraries, logits and freed but unreturned memory as well."
        )
    return f"{time} Memory came to {metrics['peak_memory_gib'] / budget['memory_gib']:.1f} times the plan."
