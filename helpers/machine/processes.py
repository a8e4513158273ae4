"""Several processes that work together, one a GPU, started by `accelerate launch`.

Importing it takes the variables of another launcher's job out of the environment.
"""

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

# A launcher (accelerate, torchrun) sets LOCAL_RANK too. Without it these are left over from a cluster's job: accelerate
# would wait for processes that do not exist, or this process would leave the adapter to another.
if "LOCAL_RANK" not in os.environ:
    for name in ("WORLD_SIZE", "RANK"):
        os.environ.pop(name, None)

Item, Result = TypeVar("Item"), TypeVar("Result")


def world_size() -> int:
    """Number of processes that work together, one a GPU, from `accelerate launch` or `torchrun`; else 1."""
    return int(os.environ.get("WORLD_SIZE", 1))


def process_rank() -> int:
    """This process's number among those that work together, from 0."""
    return int(os.environ.get("RANK", 0))


def is_main_process() -> bool:
    """Whether this is the process that writes and prints; the only one unless several work together."""
    return process_rank() == 0


def join() -> None:
    """Meet the other processes, and take this one's GPU. They may wait a day for each other, since replies differ."""
    from accelerate import PartialState

    from helpers.machine.hardware import describe_machine

    if world_size() > 1:
        PartialState(cpu=describe_machine().gpu is None, timeout=timedelta(days=1))


def wait_for_all() -> None:
    """Return when all processes have come here."""
    from accelerate import PartialState

    if world_size() > 1:
        PartialState().wait_for_everyone()


def weights_spread() -> bool:
    """Whether each process holds a part of every weight, by accelerate's FSDP, and not the whole model."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def shared_out(items: Sequence[Item], work: Callable[[Sequence[Item]], Sequence[Result]]) -> list[Result]:
    """`work(items)`, one result an item, of which each process does every n-th item; all return all results in order.

    `items` must be the same in all processes. Where weights are spread over the processes (FSDP), all have to take
    part in each forward pass, and each does all of it.
    """
    if world_size() == 1 or weights_spread():
        return list(work(items))
    from accelerate.utils import gather_object

    shares = gather_object([list(work(items[process_rank() :: world_size()]))])
    results: list[Any] = [None] * len(items)
    for rank, share in enumerate(shares):
        results[rank :: world_size()] = share
    return results
