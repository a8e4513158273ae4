"""How fast the 8B model trains, in how much memory, and whether every way of training it gives the same losses.

    python benchmarks/training.py speed FOLDER FILE.json     four stacks and `full`, side by side
    python benchmarks/training.py parity FOLDER FILE.json    the same rows, seed and adapters, four ways
    python benchmarks/training.py memory FOLDER FILE.json    `t4` in 12 GB and float16, and out of memory
    python benchmarks/training.py make-model FOLDER          the 8B shape with random weights

FOLDER is a model's; random weights show speed and memory as well as real ones. Each variant is a process of its own,
which trains through `helpers.lora_training.train`, as the notebooks do, on rows of the packaged sample (about 350
tokens). Steady tokens a second leave out the first steps, in which kernels are compiled and memory is first taken.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import typer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from helpers.config import Config
from helpers.files import read_json, read_jsonl, write_json, write_jsonl
from helpers.machine.hardware import GIB, describe_machine
from helpers.run_dir.folder import open_run, versions

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
LLAMA_8B = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
PUBLISHED = {
    "model.load_in_4bit": True,
    "training.packing": False,
    "training.batch_size": 2,
    "training.gradient_accumulation": 4,
    "training.gradient_checkpointing": True,
    "training.max_steps": 10,
}
SPEED = {
    "plain, published settings": {**PUBLISHED, "training.backend": "transformers"},
    "plain + Liger, published settings": {**PUBLISHED, "training.backend": "transformers", "liger": True},
    "Unsloth, published settings": {**PUBLISHED, "training.backend": "unsloth", "training.max_steps": 14},
    "full": {"training.max_steps": 24},
    "full, 4-bit": {"training.max_steps": 20, "model.load_in_4bit": True},
}
# One step is one pass over the same 16 rows, so that packs and padded batches have seen the same after each.
ALIKE = {
    "model.load_in_4bit": False,
    "training.max_steps": 20,
    "training.warmup_steps": 0,
    "training.gradient_checkpointing": False,
    "training.scheduler": "constant",
    "rows": 16,
}
PADDED = {**ALIKE, "training.packing": False, "training.batch_size": 4, "training.gradient_accumulation": 4}
PACKED = {**ALIKE, "training.packing": True, "training.batch_size": 8, "training.gradient_accumulation": 1}
PARITY = {
    "plain, padded": {**PADDED, "training.backend": "transformers"},
    "plain, packed": {**PACKED, "training.backend": "transformers"},
    "Unsloth, padded": {**PADDED, "training.backend": "unsloth"},
    "Unsloth, packed": {**PACKED, "training.backend": "unsloth"},
}
# `limit_gb` in units of 10^9 bytes, as cards are sold.
LONG = {"profile": "t4", "long": True, "model.compute_dtype": "float16", "rows": 24}
MEMORY = {
    "t4, float16, 12 GB": {**LONG, "training.max_steps": 20, "limit_gb": 12},
    "t4, 32 rows a batch, 10.5 GB": {
        **LONG,
        "training.max_steps": 2,
        "training.batch_size": 32,
        "training.gradient_accumulation": 1,
        "rows": 64,
        "limit_gb": 10.5,
    },
}


@app.command()
def speed(model: str, out: Path, only: str = "") -> None:
    """Tokens a second, memory, and the share of the card's matrix-product rate."""
    results = run_all(SPEED, model, out, only)
    slowest = results["plain, published settings"]["tokens_per_second"] if "plain, published settings" in results else 0
    for name, row in results.items():
        against = f"{row['tokens_per_second'] / slowest:5.1f} x plain" if slowest else ""
        print(
            f"{name:36} {row['tokens_per_second']:8,.0f} tokens/s {against}  {row['peak_memory_gib']:5.1f} GiB"
            f"  {row['share_of_matmul_rate']:4.0%} of the matmul rate  warm-up {row['warm_up_seconds']:.0f} s"
        )


@app.command()
def parity(model: str, out: Path, only: str = "", adapter: Path | None = None) -> None:
    """First-step losses, 20-step curves, and the loss of one row beside different neighbours.

    The first variant saves its fresh adapter as `adapter`, the others begin with it.
    """
    results = run_all(PARITY, model, out, only, {"adapter": str(adapter or out.with_suffix(".safetensors"))})
    reference = next(iter(results.values()))["losses"]
    for name, row in results.items():
        apart = max(abs(a / b - 1) for a, b in zip(row["losses"], reference, strict=True))
        print(
            f"{name:18} first {row['losses'][0]:.4f} ({row['losses'][0] / reference[0] - 1:+.2%})  last "
            f"{row['losses'][-1]:.4f}  farthest apart {apart:.2%}  neighbours change a row's loss by "
            f"{row.get('neighbours', float('nan')):.1e}"
        )


@app.command()
def memory(model: str, out: Path, only: str = "") -> None:
    """The t4 profile with 2,048-token rows and little memory, and what happens where that is too little."""
    results = run_all(MEMORY, model, out, only)
    for name, row in results.items():
        print(
            f"{name:26} {row['peak_memory_gib']:.1f} GiB reserved, {row['steps']} steps of {row['micro_batch']} x "
            f"{row['gradient_accumulation']} rows, losses {row['losses'][0]:.3f} to {row['losses'][-1]:.3f}, "
            f"gradients scaled by {row['scale']}"
        )


@app.command()
def make_model(folder: Path, tokenizer: str = "tiny") -> None:
    """Save the shape of DeepSeek-R1-Distill-Llama-8B with random bfloat16 weights, behind another model's tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from helpers.models.loading import load_tokenizer

    words = load_tokenizer(Config.resolve("smoke", {"model.name": tokenizer}).model)
    config = LlamaConfig(
        **LLAMA_8B,
        max_position_embeddings=131072,
        rms_norm_eps=1e-5,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder, max_shard_size="4GB")
    words.save_pretrained(folder)


@app.command(hidden=True)
def one(settings: str, out: Path) -> None:
    """One variant, in this process; its result as JSON into `out`."""
    options = json.loads(settings)
    overrides = {key: value for key, value in options.items() if "." in key}
    with tempfile.TemporaryDirectory() as folder:
        small = {
            "data.source": "sample",
            "training.validations": 1,
            "training.checkpoints": 1,
            "tracking.wandb": "disabled",
        }
        run = open_run(options.get("profile", "full"), folder, {**small, **overrides})
        rows = sample_rows(run, options)
        write_jsonl(run / "data/train.jsonl", rows[: options.get("rows")])
        write_jsonl(run / "data/validation.jsonl", rows[:4])
        write_json(out, measure(run, options))


def measure(run: Any, options: dict[str, Any]) -> dict[str, Any]:
    from helpers.lora_training import backends
    from helpers.models.loading import model_shape

    if options.get("limit_gb"):  # then this card is to be treated as a T4 with so little memory
        small = {"compute_capability": (7, 5), "gpu_free_gib": options["limit_gb"] * 1e9 / GIB}
        backends.describe_machine = lambda: describe_machine().model_copy(update=small)
    backends.start_backend(run)
    import torch

    from helpers.lora_training import train as lora_training
    from helpers.lora_training.budget import matmul_rate

    rate = matmul_rate()
    torch.cuda.empty_cache()
    if options.get("limit_gb"):
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(options["limit_gb"] * 1e9 / total)
    if options.get("liger"):
        from liger_kernel.transformers import apply_liger_kernel_to_llama

        apply_liger_kernel_to_llama(cross_entropy=False, fused_linear_cross_entropy=False)
    seen = observe(lora_training, options)
    torch.cuda.reset_peak_memory_stats()
    metrics = lora_training.train(run)
    log = [row for row in read_jsonl(run / "training/log.jsonl") if "loss" in row]
    shape = model_shape(run.config.model)
    steady = metrics["steady_tokens_per_second"]
    kept = ("peak_memory_gib", "steps", "micro_batch", "gradient_accumulation", "backend", "compute_dtype", "tokens")
    return {
        **{key: metrics[key] for key in kept},
        "tokens_per_second": steady,
        "all_steps_tokens_per_second": metrics["tokens_per_second"],
        # Two operations a weight forward and two backward: the adapters' own and recomputation do not count as work.
        "share_of_matmul_rate": steady * 4 * (shape["linear"] + shape["head"]) / rate,
        "matmul_tflops": rate / 1e12,
        "warm_up_seconds": metrics["seconds"] - metrics["tokens"] / steady,
        "losses": [row["loss"] for row in log],
        "validation_nll": metrics["validation_nll"],
        **seen,
    }


def observe(lora_training: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Look into the training from outside: adapters and memory after a step, the gradients' scale, a row's neighbours.

    Returns what is filled in as training goes on. It holds no trainer: one that ran out of memory has to go.
    """
    import torch
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file, save_file

    facts: dict[str, Any] = {"allocated_gib": {}}
    load, journal, make = lora_training.load_trainable, lora_training.TrainingLogCallback, lora_training.trainer_class

    def most_so_far(when: str) -> None:
        facts["allocated_gib"][when] = round(torch.cuda.max_memory_allocated() / GIB, 2)

    def load_trainable(config: Any) -> Any:
        model = load(config)
        most_so_far("loaded")
        if options.get("adapter"):
            first = Path(options["adapter"])
            if not first.exists():
                state = get_peft_model_state_dict(model, save_embedding_layers=False)
                save_file({k: v.float().contiguous().cpu() for k, v in state.items()}, first)
            set_peft_model_state_dict(model, load_file(first))
        return model

    class Journal(journal):
        def on_train_begin(self, *args: Any, **more: Any) -> None:
            super().on_train_begin(*args, **more)
            most_so_far("validated")

        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **more: Any) -> None:
            if state.global_step == 1:
                most_so_far("one step")
                sums = [w.detach().abs().sum().item() for name, w in model.named_parameters() if "lora_B" in name]
                facts["b_matrices"], facts["b_not_zero_after_one_step"] = len(sums), sum(s > 0 for s in sums)
            super().on_step_end(args, state, control, model=model, **more)

    def trainer_class(unsloth: bool) -> type:
        class Seen(make(unsloth)):
            def train(self, *args: Any, **kwargs: Any) -> Any:
                batch = next(iter(self.get_train_dataloader()))
                labels = batch["labels"][batch["labels"] != -100]
                facts["first_batch_ends"] = int((labels == self.processing_class.eos_token_id).sum())
                facts["first_batch_labels"] = self.processing_class.decode(labels[:12]) + " ..."
                if options.get("training.packing"):
                    facts["neighbours"] = neighbours(self)
                done = super().train(*args, **kwargs)
                facts["scale"] = self.accelerator.scaler.get_scale() if self.accelerator.scaler else None
                return done

        return Seen

    def neighbours(trainer: Any) -> float:
        """The most that one row's loss changes with what else is in its pack, as a share of it."""
        pack = next(p for p in trainer.train_dataset if len(p["seq_lengths"]) > 2)
        a, b, c = torch.tensor(pack["input_ids"]).split(pack["seq_lengths"])[:3]
        _, lb, _ = torch.tensor(pack["labels"]).split(pack["seq_lengths"])[:3]
        collate = trainer.data_collator
        losses = []
        for before, after in (([], []), ([a], []), ([c], [a]), ([a, c], [])):
            parts = [*before, b, *after]
            labels = [torch.full_like(p, -100) for p in before] + [lb] + [torch.full_like(p, -100) for p in after]
            example = {
                "input_ids": torch.cat(parts).tolist(),
                "labels": torch.cat(labels).tolist(),
                "seq_lengths": [len(p) for p in parts],
            }
            batch = {key: value.cuda() for key, value in collate([example]).items()}
            with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
                losses.append(trainer.model(**batch, use_cache=False).loss.item())
        return max(abs(loss / losses[0] - 1) for loss in losses)

    lora_training.load_trainable, lora_training.TrainingLogCallback = load_trainable, Journal
    lora_training.trainer_class = trainer_class
    return facts


def sample_rows(run: Any, options: dict[str, Any]) -> list[dict[str, str]]:
    """Rows of the packaged sample, again and again; the long ones take in more thoughts while they fit."""
    from helpers.models.loading import load_tokenizer
    from helpers.prompts.encoding import encode_example
    from helpers.sources.rows import SAMPLE

    rows, tokenizer = read_jsonl(SAMPLE), load_tokenizer(run.config.model)
    thoughts = [row["Complex_CoT"] for row in rows]

    def fits(row: dict[str, str]) -> bool:
        return encode_example(tokenizer, row, run.config.model.max_length) is not None

    if options.get("long"):
        for i, row in enumerate(rows):
            for thought in thoughts[i:] + thoughts[:i]:
                longer = {**row, "Complex_CoT": f"{row['Complex_CoT']} {thought}"}
                if not fits(longer):
                    break
                row = longer
            rows[i] = row
    return [row for row in rows if fits(row)] * 4


def run_all(
    variants: dict[str, dict[str, Any]], model: str, out: Path, only: str, more: dict[str, Any] | None = None
) -> dict[str, Any]:
    results = read_json(out)["results"] if out.exists() else {}  # an interrupted benchmark goes on
    for name, settings in variants.items():
        if name in results or only not in name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "result.json"
            options = json.dumps({**settings, "model.name": model, **(more or {})})
            done = subprocess.run([sys.executable, __file__, "one", options, str(file)], capture_output=True, text=True)
            if not file.exists():
                print(f"{name}: failed\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}", file=sys.stderr)
                continue
            results[name] = {**settings, **read_json(file)}
            save(out, results)
            print(f"{name}: done", file=sys.stderr, flush=True)
    return results


def save(out: Path, results: dict[str, Any]) -> None:
    card = describe_machine()
    write_json(out, {"hardware": card.model_dump(), "versions": versions(), "gib": GIB, "results": results})


if __name__ == "__main__":
    app()
