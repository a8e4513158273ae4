"""What this computer is, and which profile fits it.

Importing it sets how torch, when that is first imported, allocates GPU memory.
"""

import os
import platform
import re
import shutil
import sys
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from pydantic import BaseModel

from helpers import PROJECT_ROOT
from helpers.config import table_columns

# Read by torch when it is first imported. Packs of ever new lengths cut GPU memory into pieces that fit nothing: the 8B
# model came to reserve 78 GiB of an H100 without this, and 43 with it. Windows and WSL do not support it.
if platform.system() == "Linux" and "microsoft" not in platform.release().lower():
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")

GIB = 2**30
CPU_MAX = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds of processor time in a period, and the period
ARCHITECTURE = re.compile(r"\b(sm|compute)_(\d+)(\d)")  # as in torch.cuda.get_arch_list()
# GPUs that these notebooks often run on: about the GiB that PyTorch reports, and compute capability.
GPUS = {
    "P100 (Kaggle)": (15.9, (6, 0)),
    "T4 (Colab, Kaggle)": (14.6, (7, 5)),
    "L4 (Colab)": (22.0, (8, 9)),
    "A100 40 GB": (39.4, (8, 0)),
    "A100 80 GB": (79.1, (8, 0)),
    "H100 80 GB": (79.2, (9, 0)),
}


class Machine(BaseModel):
    """The hardware; memory and disk in GiB, compute capability as (major, minor)."""

    system: str
    cpu_cores: int
    memory_gib: float
    disk_free_gib: float
    gpu: str | None = None
    gpu_count: int = 0
    gpu_memory_gib: float | None = None
    gpu_free_gib: float | None = None
    compute_capability: tuple[int, int] | None = None
    colab: bool = False
    unusable_gpu: str | None = None

    @property
    def compute_dtype(self) -> str:
        """The type to compute in: from gpus.yaml, float32 without a GPU."""
        return self.fit.get("compute_dtype", "float32")

    @property
    def fit(self) -> dict[str, Any]:
        """Defaults for this GPU: the first column of gpus.yaml whose conditions it meets; empty without a GPU."""
        if self.compute_capability is None:
            return {}
        capability = float(f"{self.compute_capability[0]}.{self.compute_capability[1]}")
        free = self.gpu_memory_gib if self.gpu_free_gib is None else self.gpu_free_gib
        columns = gpu_table()
        return next(c for c in columns if capability >= c["capability"] and (free or 0) >= c["free_memory_gib"])


class Choice(NamedTuple):
    """A profile and the reason for it."""

    profile: str
    why: str


def describe_machine() -> Machine:
    """Describe this machine. A GPU that PyTorch cannot use is only in `unusable_gpu`."""
    import torch

    facts: dict[str, Any] = {}
    gpu = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    if gpu and (why_not := _unusable((gpu.major, gpu.minor), torch.cuda.get_arch_list())):
        facts = {"unusable_gpu": f"{gpu.name}, compute capability {gpu.major}.{gpu.minor}: {why_not}"}
    elif gpu:
        facts = {
            "gpu": gpu.name,
            "gpu_count": torch.cuda.device_count(),
            "gpu_memory_gib": round(gpu.total_memory / GIB, 1),
            "gpu_free_gib": round(torch.cuda.mem_get_info(0)[0] / GIB, 1),
            "compute_capability": (gpu.major, gpu.minor),
        }
    return Machine(
        system=f"{platform.system()} {platform.machine()}",
        cpu_cores=cpu_cores(),
        memory_gib=round(psutil.virtual_memory().total / GIB, 1),
        disk_free_gib=round(shutil.disk_usage(PROJECT_ROOT).free / GIB, 1),
        colab="google.colab" in sys.modules,
        **facts,
    )


def cpu_cores() -> int:
    """CPU cores that this process may use, which a container, by a share of time, or a scheduler may limit."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = CPU_MAX.read_text(encoding="utf-8").split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no control groups; "max"
        return cores


def llama_cpp_threads() -> int:
    """Threads for llama.cpp: -1, its own choice, or the cores that this process may use where they are fewer than all.

    Its threads wait for each other busily, and it counts the machine's cores: 8 on two cores wrote 19 tokens/s, where
    2 wrote 63 (SmolLM2, Q4_1).
    """
    cores = cpu_cores()
    return cores if cores < (os.cpu_count() or 1) else -1


def _unusable(capability: tuple[int, int], compiled_for: list[str]) -> str:
    """Why a GPU of this compute capability cannot be used by a PyTorch with these architectures; "" if it can.

    Compiled code (sm_75) runs on its own generation from its minor version on, PTX (compute_75) on all later GPUs.
    """
    if capability < (7, 0):
        return "Triton and Unsloth need 7.0"
    architectures = re.findall(ARCHITECTURE, " ".join(compiled_for))
    for kind, *digits in architectures:
        major, minor = map(int, digits)
        if (major, minor) <= capability and (kind == "compute" or major == capability[0]):
            return ""
    return "this PyTorch has no code for it" if architectures else ""  # AMD's have other names


@cache
def gpu_table() -> list[dict[str, Any]]:
    """The columns of gpus.yaml, each a dict of conditions, choices and dotted settings."""
    return table_columns("gpus.yaml")


def gpu_settings(machine: Machine) -> dict[str, Any]:
    """Values for the settings that are `auto`, by dotted key; without a GPU the most frugal column, unquantised."""
    column = machine.fit or {**gpu_table()[-1], "model.load_in_4bit": False}
    return {key: value for key, value in column.items() if "." in key}


def choose_profile(machine: Machine) -> Choice:
    """The profile that `auto` stands for on this machine, and the reason."""
    if machine.unusable_gpu:
        return Choice("laptop", f"{machine.unusable_gpu}; so the small embedded model trains on the CPU")
    if machine.gpu is None:
        return Choice("laptop", "no CUDA GPU: the small embedded model trains on a CPU in minutes")
    memory, capability = machine.gpu_memory_gib or 0, machine.compute_capability or (0, 0)
    if memory < 11:
        return Choice("laptop", f"{memory} GiB of GPU memory is too little for an 8B model in 4 bit")
    if capability < (8, 0) or memory < 20:
        return Choice(
            "t4",
            f"{machine.gpu} has {memory} GiB and compute capability {capability[0]}.{capability[1]}: "
            f"the published recipe in 4 bit, computing in {machine.compute_dtype}",
        )
    return Choice("full", f"{machine.gpu} has {memory} GiB and native bfloat16: every row of the data")


def with_gpu(machine: Machine, gpu: str | None) -> Machine:
    """The same machine with one of GPUS, all of its memory free, or with none."""
    memory, capability = GPUS[gpu] if gpu else (None, None)
    found = {"gpu": gpu, "gpu_count": int(bool(gpu)), "gpu_memory_gib": memory, "gpu_free_gib": memory}
    if capability and (why_not := _unusable(capability, [])):
        return with_gpu(machine, None).model_copy(update={"unusable_gpu": f"{gpu}: {why_not}"})
    return machine.model_copy(update={**found, "compute_capability": capability, "unusable_gpu": None})


def memory_gib() -> float:
    """Memory in GiB now: reserved on the GPU if there is one, else the process's resident set."""
    import torch

    return (torch.cuda.memory_reserved() if torch.cuda.is_available() else psutil.Process().memory_info().rss) / GIB


def peak_memory_gib() -> float:
    """Peak memory in GiB: reserved on the GPU if there is one, else the process's resident set."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved() / GIB
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts ru_maxrss in bytes, Linux in KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB
