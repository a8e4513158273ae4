"""What a machine can do, as a table."""

import os
import sys
import types

import pytest

from helpers.config import profile_table
from helpers.machine import hardware
from helpers.machine.hardware import GPUS, Machine, choose_profile, describe_machine, with_gpu


def made(gpu=None, memory=None, capability=None, **more) -> Machine:
    facts = {"gpu": gpu, "gpu_count": int(gpu is not None), "gpu_memory_gib": memory, "compute_capability": capability}
    return Machine(system="Linux x86_64", cpu_cores=2, memory_gib=12.7, disk_free_gib=70, **(facts | more))


TABLE = {
    "no GPU": (made(), "laptop", "float32"),
    "T4": (made("Tesla T4", 14.7, (7, 5)), "t4", "float16"),
    "T4, 15 GiB": (made("Tesla T4", 15.0, (7, 5)), "t4", "float16"),
    "V100": (made("Tesla V100-SXM2-16GB", 15.8, (7, 0)), "t4", "float16"),
    "V100, 32 GiB": (made("Tesla V100-SXM2-32GB", 31.7, (7, 0)), "t4", "float16"),
    "P100": (made(unusable_gpu="Tesla P100-PCIE-16GB, compute capability 6.0: no"), "laptop", "float32"),
    "L4": (made("NVIDIA L4", 22.0, (8, 9)), "full", "bfloat16"),
    "A100": (made("NVIDIA A100-SXM4-40GB", 39.6, (8, 0)), "full", "bfloat16"),
    "H100": (made("NVIDIA H100 80GB HBM3", 79.2, (9, 0)), "full", "bfloat16"),
    "two H200": (made("NVIDIA H200", 139.8, (9, 0), gpu_count=2), "full", "bfloat16"),
    "RTX 4060, 8 GiB": (made("NVIDIA GeForce RTX 4060", 7.6, (8, 9)), "laptop", "bfloat16"),
    "RTX 3060, 12 GiB": (made("NVIDIA GeForce RTX 3060", 11.8, (8, 6)), "t4", "bfloat16"),
    "RTX 4080, 16 GiB": (made("NVIDIA GeForce RTX 4080", 15.6, (8, 9)), "t4", "bfloat16"),
}


@pytest.mark.parametrize("name", TABLE)
def test_every_machine_gets_the_profile_and_the_type_that_it_can_do(name):
    machine, profile, dtype = TABLE[name]
    choice = choose_profile(machine)
    assert (choice.profile, machine.compute_dtype) == (profile, dtype)
    assert (machine.unusable_gpu or (f"{machine.gpu_memory_gib} GiB" if machine.gpu else "no CUDA GPU")) in choice.why


def test_this_machine_describes_itself():
    machine = describe_machine()
    assert machine.cpu_cores >= 1
    assert 0.5 < machine.memory_gib < 100_000
    assert machine.disk_free_gib > 0
    assert machine.system.split()[0] in ("Linux", "Darwin", "Windows")
    assert not machine.colab
    gpu = (machine.gpu, machine.gpu_memory_gib, machine.compute_capability)
    assert all(fact is None for fact in gpu) or None not in gpu
    assert (machine.gpu is None) == (machine.gpu_count == 0)
    assert choose_profile(machine).profile in profile_table()


@pytest.mark.parametrize(
    ("limit", "cores", "threads"),
    [("max 100000", 8, 8), ("200000 100000", 2, 2), ("50000 100000", 1, 1), ("1600000 100000", 8, 8), ("?", 8, 8)],
)
def test_llama_cpp_gets_the_cores_that_a_container_or_a_scheduler_leaves(monkeypatch, tmp_path, limit, cores, threads):
    """On 16 cores, of which a scheduler gives this process 8."""
    (tmp_path / "cpu.max").write_text(limit)
    monkeypatch.setattr(hardware, "CPU_MAX", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    assert (hardware.cpu_cores(), hardware.llama_cpp_threads()) == (cores, threads)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert hardware.llama_cpp_threads() == -1  # all are this process's: its own choice


def test_a_gpu_is_described_by_what_its_driver_says(monkeypatch):
    import torch

    card = types.SimpleNamespace(name="Tesla T4", total_memory=15_828_320_256, major=7, minor=5)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: card)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (14 * 2**30, card.total_memory))
    # A T4 says yes here, since CUDA emulates the type; nobody may ask.
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *args: pytest.fail("asked the emulation"))
    machine = describe_machine()
    assert (machine.gpu, machine.gpu_count, machine.gpu_memory_gib) == ("Tesla T4", 2, 14.7)
    assert (machine.compute_capability, machine.gpu_free_gib) == ((7, 5), 14.0)
    assert machine.compute_dtype == "float16"
    assert choose_profile(machine).profile == "t4"


# What torch.cuda.get_arch_list() holds in PyTorch 2.8 for CUDA 12.8 and 12.6, and in 2.10 for CUDA 13.0.
CUDA_128 = "sm_70 sm_75 sm_80 sm_86 sm_90 sm_100 sm_120"
CUDA_126 = "sm_50 sm_60 sm_70 sm_75 sm_80 sm_86 sm_90"
CUDA_130 = "sm_75 sm_80 sm_86 sm_90 sm_100 sm_120 compute_120"


@pytest.mark.parametrize(
    ("name", "capability", "compiled_for", "why_not"),
    [
        ("Tesla P100-PCIE-16GB", (6, 0), CUDA_128, "Unsloth need 7.0"),  # on Kaggle in 2026: every CUDA call fails
        ("Tesla P100-PCIE-16GB", (6, 0), CUDA_126, "Unsloth need 7.0"),  # PyTorch itself would work
        ("NVIDIA GeForce GTX 1070", (6, 1), CUDA_126, "Unsloth need 7.0"),
        ("Tesla V100-SXM2-16GB", (7, 0), CUDA_128, ""),
        ("Tesla V100-SXM2-16GB", (7, 0), CUDA_130, "no code for it"),
        ("Tesla T4", (7, 5), CUDA_130, ""),
        ("NVIDIA L4", (8, 9), CUDA_130, ""),  # runs what was compiled for 8.6
        ("NVIDIA B300", (10, 3), CUDA_130, ""),
        ("a GPU still to come", (13, 0), CUDA_128, "no code for it"),
        ("a GPU still to come", (13, 0), CUDA_130, ""),  # from PTX
        ("AMD Instinct MI300X", (9, 4), "gfx90a gfx942", ""),
        ("Tesla T4", (7, 5), "", ""),
    ],
)
def test_a_gpu_that_this_pytorch_cannot_use_is_said_and_left_alone(
    monkeypatch, name, capability, compiled_for, why_not
):
    import torch

    major, minor = capability
    card = types.SimpleNamespace(name=name, total_memory=16 * 2**30, major=major, minor=minor)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: card)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (15 * 2**30, card.total_memory))
    monkeypatch.setattr(torch.cuda, "get_arch_list", compiled_for.split)
    machine = describe_machine()
    assert (machine.gpu is None, machine.gpu_count) == (bool(why_not), int(not why_not))
    if why_not:
        assert machine.unusable_gpu.startswith(f"{name}, compute capability {major}.{minor}: ")
        choice = choose_profile(machine)
        assert (choice.profile, machine.compute_dtype) == ("laptop", "float32")
        assert why_not in choice.why


def test_colab_is_recognised(monkeypatch):
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    assert describe_machine().colab


def test_the_gpus_that_01_names_get_the_profile_of_their_kind():
    here = describe_machine()
    found = {gpu: choose_profile(with_gpu(here, gpu)).profile for gpu in GPUS}
    assert [found[gpu] for gpu in GPUS] == ["laptop", "t4", "full", "full", "full", "full"]
    assert with_gpu(with_gpu(here, "L4 (Colab)"), None).gpu is None
    assert "P100" in choose_profile(with_gpu(here, "P100 (Kaggle)")).why
