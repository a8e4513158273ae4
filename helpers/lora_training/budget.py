"""Estimate of the time and memory that a training takes."""

import time
from collections.abc import Sequence
from statistics import median
from typing import Any

from helpers.config import Config
from helpers.lora_training.batches import Encoded, planned_steps
from helpers.machine.hardware import GIB, describe_machine
from helpers.machine.processes import world_size
from helpers.models.loading import compute_dtype, model_shape

# Share of the machine's matrix-product rate that a large enough micro-batch reaches: on an H100 between 0.52 and 0.61
# in benchmarks/results/training-h100.json, on two CPU cores 130 tokens/s of the embedded model beside 135 GFLOP/s.
REACHED = 0.58
# Minimum seconds that a GPU takes for a layer of a micro-batch, however few its tokens: Unsloth's two rows of 350
# tokens took 0.385 s for 32 layers (same file), of which 0.07 s is arithmetic.
LAYER_SECONDS = 0.01
# Compiling kernels in a GPU's first steps took 11 and 17 s with Unsloth (benchmarks/results/plan-h100.json).
WARM_UP_SECONDS = 15


def matmul_rate() -> float:
    """Floating-point operations a second of a large matrix product in the compute type, measured."""
    import torch

    machine = describe_machine()
    size, device = (8192, "cuda") if machine.gpu else (2048, "cpu")
    a, b = (torch.randn(size, size, device=device, dtype=getattr(torch, machine.compute_dtype)) for _ in range(2))
    seconds = []
    for _ in range(6):
        started = time.monotonic()
        product = a @ b
        product[0, 0].item()  # waits for the GPU
        seconds.append(time.monotonic() - started)
    return 2 * size**3 / median(seconds[1:])


def training_budget(
    config: Config, rows: Sequence[Encoded], units: int, rate: float, texts: Sequence[Encoded] = (), text_units: int = 0
) -> dict[str, float]:
    """Steps, tokens, minutes and GiB that training on `rows` should take, at `rate` operations a second.

    `units` is the number of rows or, where they are packed, of packs; `texts`, those of `data.corpus`, and `text_units`
    come before them, once. A token costs 2 operations a weight forward and 2 backward, since the frozen weights get no
    gradient of their own, and 2 more where activations are recomputed (Kaplan et al. 2020, section 2.1). A GPU's
    arithmetic hides the minimum time of a layer, except where it waits for activations to be recomputed, and its first
    steps compile kernels. Memory is weights, adapters with their gradients and optimizer states, and activations: per
    token and layer six vectors of the hidden size, two of the keys' and two of the MLP's, or one vector where they are
    recomputed.
    """
    training, shape = config.training, model_shape(config.model)
    dtype = compute_dtype(config)
    width = 4 if dtype == "float32" else 2
    devices = world_size()
    steps = planned_steps(config, units, devices, text_units)
    batches = steps * training.gradient_accumulation
    row_tokens, text_tokens = (sum(len(each["input_ids"]) for each in part) for part in (rows, texts))
    places = training.batch_size * batches - text_units / devices  # of rows, on each device
    tokens = text_tokens / devices + row_tokens / units * places
    recomputed = training.gradient_checkpointing
    longest = config.model.max_length if training.packing else max(len(each["input_ids"]) for each in [*rows, *texts])
    activations = width * (6 * shape["hidden"] + 2 * shape["keys"] + 2 * shape["intermediate"])
    kept = width * shape["hidden"] * shape["layers"] + activations if recomputed else activations * shape["layers"]
    linear = shape["linear"] * (0.516 if config.model.load_in_4bit else width)  # NF4 with its doubly quantised scales
    adapters = config.lora.r * shape["lora_per_rank"] * (4 + 4 + (8 if dtype == "float32" else 2))
    memory = linear + shape["embeddings"] * width + adapters + training.batch_size * longest * kept
    operations = (6 if recomputed else 4) * (shape["linear"] + shape["head"])
    arithmetic = tokens * operations / (rate * REACHED)
    on_gpu = bool(describe_machine().gpu)
    least, warm_up = batches * shape["layers"] * LAYER_SECONDS * on_gpu, WARM_UP_SECONDS * on_gpu
    return {
        "steps": steps,
        "tokens": round(tokens),
        "minutes": (warm_up + (arithmetic + least if recomputed else max(arithmetic, least))) / 60,
        "memory_gib": memory / GIB,
    }


def budget_table(budget: dict[str, float], metrics: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {
        "optimizer steps": (f"{budget['steps']:,}", f"{metrics['steps']:,}"),
        "tokens": (f"{budget['tokens']:,}", f"{metrics['tokens']:,}"),
        "minutes": (f"{budget['minutes']:.1f}", f"{metrics['seconds'] / 60:.1f}"),
        "memory, GiB": (f"{budget['memory_gib']:.1f}", f"{metrics['peak_memory_gib']:.1f}"),
    }
