"""What a machine can do, as a table, and secrets: where they are looked for and that they go nowhere else."""

import os
import sys
import types

import pytest

from helpers import setup, tracking
from helpers.config import Config, profile_table
from helpers.run_dir import Run
from helpers.setup import SECRETS, Machine, choose_profile, describe_machine, export_secrets, secret, wandb_mode

KEY = "hf_0123456789abcdefghijklmnopqrstuv"


def made(gpu=None, memory=None, capability=None, **more) -> Machine:
    facts = {"gpu": gpu, "gpu_count": int(gpu is not None), "gpu_memory_gib": memory, "compute_capability": capability}
    return Machine(system="Linux x86_64", cpu_cores=2, memory_gib=12.7, disk_free_gib=70, **(facts | more))


# Machines --------------------------------------------------------------------------------------------------------

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
    assert choice.profile in profile_table()


@pytest.mark.parametrize("name", TABLE)
def test_the_reason_for_a_profile_holds_the_fact_it_rests_on(name):
    machine = TABLE[name][0]
    why = choose_profile(machine).why
    assert "\n" not in why
    assert (machine.unusable_gpu or (f"{machine.gpu_memory_gib} GiB" if machine.gpu else "no CUDA GPU")) in why


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


# Secrets ---------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_secrets(monkeypatch):
    """An environment without keys, put back as it was afterwards, whatever a test exports."""
    for name in (*SECRETS, "WANDB_MODE"):
        monkeypatch.setenv(name, "")  # noted for the way back, also where it was absent
        monkeypatch.delenv(name)


def colab(monkeypatch, get):
    """Colab's module with this `userdata.get`."""
    module, userdata = types.ModuleType("google.colab"), types.ModuleType("google.colab.userdata")
    userdata.get, module.userdata = get, userdata
    google = sys.modules.get("google") or types.ModuleType("google")
    monkeypatch.setattr(google, "colab", module, raising=False)
    for name, value in (("google", google), ("google.colab", module), ("google.colab.userdata", userdata)):
        monkeypatch.setitem(sys.modules, name, value)


class NotebookAccessError(Exception):
    """What Colab raises when the notebook may not see a secret."""


def test_without_anything_a_secret_is_not_set():
    assert secret("HF_TOKEN") is None
    assert export_secrets() == dict.fromkeys(SECRETS, "not set")
    assert not set(SECRETS) & set(os.environ)


def test_the_environment_comes_first(monkeypatch):
    colab(monkeypatch, lambda name: pytest.fail("Colab was asked"))
    for name in SECRETS:
        monkeypatch.setenv(name, KEY)
    assert secret("HF_TOKEN") == KEY
    assert export_secrets() == dict.fromkeys(SECRETS, "environment")


def test_an_empty_variable_is_no_secret(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "")
    assert secret("HF_TOKEN") is None
    assert export_secrets()["HF_TOKEN"] == "not set"


def test_colabs_secrets_come_next_and_go_where_the_libraries_look(monkeypatch):
    colab(monkeypatch, {"HF_TOKEN": KEY, "WANDB_API_KEY": ""}.get)
    assert export_secrets() == {"HF_TOKEN": "Colab secrets", "WANDB_API_KEY": "not set"}
    assert os.environ["HF_TOKEN"] == KEY
    assert "WANDB_API_KEY" not in os.environ


def test_one_from_each(monkeypatch):
    colab(monkeypatch, {"HF_TOKEN": "from colab", "WANDB_API_KEY": "from colab"}.get)
    monkeypatch.setenv("HF_TOKEN", KEY)
    assert export_secrets() == {"HF_TOKEN": "environment", "WANDB_API_KEY": "Colab secrets"}
    assert os.environ["HF_TOKEN"] == KEY


@pytest.mark.parametrize("error", [NotebookAccessError, TimeoutError, ImportError, AttributeError, KeyError])
def test_a_refusal_of_colabs_means_not_set(monkeypatch, error):
    def get(name):
        raise error(name)

    colab(monkeypatch, get)
    assert export_secrets() == dict.fromkeys(SECRETS, "not set")
    assert wandb_mode("auto") == "offline"


def test_a_secrets_value_is_neither_returned_nor_printed(monkeypatch, capsys):
    colab(monkeypatch, {"WANDB_API_KEY": KEY + "2"}.get)
    monkeypatch.setenv("HF_TOKEN", KEY)
    returned = export_secrets()
    mode = wandb_mode("auto")
    out = capsys.readouterr()
    assert KEY not in f"{returned} {mode} {out.out} {out.err}"
    assert set(returned.values()) == {"environment", "Colab secrets"}


def test_a_secret_is_not_in_the_record_of_a_run(tmp_path, monkeypatch):
    from helpers.run_dir import open_run

    for name in SECRETS:
        monkeypatch.setenv(name, KEY)
    export_secrets()
    open_run("smoke", tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["run.yaml"]
    assert KEY not in (tmp_path / "run.yaml").read_text()


# Weights & Biases ------------------------------------------------------------------------------------------------


def test_wandb_is_online_with_a_key_and_offline_without(monkeypatch):
    assert wandb_mode("auto") == "offline"
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert wandb_mode("auto") == "online"
    monkeypatch.delenv("WANDB_API_KEY")
    colab(monkeypatch, {"WANDB_API_KEY": KEY}.get)
    assert wandb_mode("auto") == "online"


@pytest.mark.parametrize("setting", ["offline", "disabled"])
def test_wandb_stays_as_it_was_asked_for_also_with_a_key(monkeypatch, setting):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert wandb_mode(setting) == setting


@pytest.mark.parametrize("setting", ["auto", "offline", "disabled"])
def test_without_a_key_no_setting_leads_to_a_mode_that_asks_for_one(setting):
    assert wandb_mode(setting) in ("offline", "disabled")


def test_online_without_a_key_is_an_error_and_not_a_question(monkeypatch):
    from helpers import InputError

    with pytest.raises(InputError, match="WANDB_API_KEY"):
        wandb_mode("online")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert wandb_mode("online") == "online"


def test_disabled_tracking_does_not_touch_wandb(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it would raise
    with tracking.tracked(Run(tmp_path, Config.resolve("smoke")), "job") as tracker:
        assert tracker is None
    tracking.log_table(None, "replies", [{"a": 1}])
    assert list(tmp_path.iterdir()) == []


def test_a_tracked_job_gets_settings_mode_and_fingerprint_and_is_finished_after_an_error(tmp_path, monkeypatch):
    from helpers.run_dir import note_in_record, open_run

    calls = []
    fake = types.ModuleType("wandb")
    fake.Settings = dict
    fake.init = lambda **words: (
        calls.append(words) or types.SimpleNamespace(finish=lambda **how: calls.append("finished"))
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    note_in_record(open_run("smoke", tmp_path, {"tracking.wandb": "auto"}), data={"fingerprint": "abc"})
    with (
        pytest.raises(RuntimeError, match="in the job"),
        tracking.tracked(open_run("auto", tmp_path), "training"),
    ):
        raise RuntimeError("in the job")
    started, finished = calls
    assert started["mode"] == "offline"
    assert started["dir"] == tmp_path
    assert started["job_type"] == "training"
    assert started["config"]["lora.r"] == 4
    assert started["config"]["run"]["data"]["fingerprint"] == "abc"
    assert finished == "finished"


def test_the_profile_of_the_design_is_named_for_every_kind_of_machine():
    chosen = {choose_profile(machine).profile for machine, _, _ in TABLE.values()}
    assert chosen == set(profile_table()) - {"smoke"}
    assert setup.GIB == 2**30
