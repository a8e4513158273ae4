"""The training backend: Unsloth on a GPU, or transformers with PEFT, behind the same functions."""

import os
from importlib import util
from typing import Any

from helpers import InputError
from helpers.config import Config
from helpers.machine.hardware import Machine, describe_machine
from helpers.machine.processes import weights_spread
from helpers.models.loading import compute_dtype, from_source, load_base, lora_targets
from helpers.run_dir.folder import Run


def choose_backend(config: Config, machine: Machine) -> str:
    """ "unsloth" with a GPU and Unsloth installed, else "transformers", also under FSDP, as Unsloth's kernels need all
    of a layer's weights in one place; InputError if Unsloth is required."""
    wanted = config.training.backend
    possible = bool(machine.gpu and util.find_spec("unsloth")) and not weights_spread()
    if wanted == "unsloth" and not possible:
        missing = "needs a GPU" if not machine.gpu else "knows no FSDP" if weights_spread() else "is not installed"
        raise InputError(f"training.backend = 'unsloth': Unsloth {missing}; auto or transformers trains without it")
    return "unsloth" if possible and wanted != "transformers" else "transformers"


def start_backend(run: Run) -> str:
    """Import the training backend and return its name; call it before anything imports transformers.

    Unsloth replaces parts of transformers, PEFT and TRL as they are imported, and compiles into the run folder.
    """
    machine = describe_machine()
    backend = choose_backend(run.config, machine)
    if backend == "unsloth":
        os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", str(run / "unsloth_compiled_cache"))
        os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")  # it would call the hub, which may be unreachable
        os.environ.setdefault("UNSLOTH_CE_LOSS_TARGET_GB", str(machine.fit["loss_gib"]))
        import unsloth  # noqa: F401

        if machine.fit["attention"] == "varlen":
            _enable_varlen_attention()
    return backend


def load_trainable(config: Config) -> Any:
    """The base model with fresh LoRA adapters on every linear layer, by either backend of the same rank and type."""
    if choose_backend(config, describe_machine()) == "unsloth":
        return _load_with_unsloth(config)
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    model = load_base(config)
    checkpointing = config.training.gradient_checkpointing
    if config.model.load_in_4bit:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=checkpointing)
    torch.manual_seed(config.seed)  # the adapters' random A matrices
    return get_peft_model(
        model,
        LoraConfig(
            r=config.lora.r,
            lora_alpha=config.lora.alpha,
            lora_dropout=config.lora.dropout,
            target_modules=lora_targets(config.model),
            task_type="CAUSAL_LM",
        ),
    )


def _load_with_unsloth(config: Config) -> Any:
    import torch
    from unsloth import FastLanguageModel

    training = config.training
    model, _ = from_source(
        FastLanguageModel.from_pretrained,
        config.model,
        # Of a micro-batch, not of a row: its packs go through the model as one long row.
        max_seq_length=config.model.max_length * (training.batch_size if training.packing else 1),
        dtype=getattr(torch, compute_dtype(config)),
        load_in_4bit=config.model.load_in_4bit,
        # By default Unsloth loads its own 4-bit copy, quantised differently from the base that 05 compares with.
        use_exact_model_name=True,
        offload_embedding=describe_machine().fit["offload_embedding"],
    )
    return FastLanguageModel.get_peft_model(
        model,
        r=config.lora.r,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=lora_targets(config.model),
        bias="none",
        use_gradient_checkpointing="unsloth" if training.gradient_checkpointing else False,
        random_state=config.seed,
    )


def _enable_varlen_attention() -> None:
    """Let Unsloth use torch's varlen attention for packs with torch 2.11 (Colab), where it would go row by row.

    Unsloth passes `enable_gqa`, new in torch 2.12; the kernel of 2.11 shares keys without it (`benchmarks/training.py
    parity`). Packed training of the 8B model on one H100: 15,380 tokens/s with it, 12,006 without.
    """
    import inspect

    import torch.nn.attention.varlen as torch_varlen
    from unsloth.utils import attention_dispatch

    known = inspect.signature(torch_varlen.varlen_attn).parameters
    if getattr(attention_dispatch, "_TORCH_VARLEN_ATTN", True) or "enable_gqa" in known or "window_size" not in known:
        return

    def varlen_attention(*args: Any, enable_gqa: bool, **more: Any) -> Any:
        return torch_varlen.varlen_attn(*args, **more)

    attention_dispatch._TORCH_VARLEN_ATTN = varlen_attention
