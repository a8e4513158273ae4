"""Stage 04: LoRA fine-tuning with TRL's SFTTrainer on rows that are already encoded, labels and all."""

import gc
import importlib.util
import math
from collections.abc import Callable, Sequence
from statistics import fmean, median
from typing import Any

from datasets import concatenate_datasets
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from transformers import PrinterCallback, Trainer

from helpers import InputError
from helpers.files import atomic_dir, read_jsonl, write_json, write_text
from helpers.lora_training.backends import choose_backend, load_trainable, start_backend
from helpers.lora_training.batches import (
    ByEpoch,
    CorpusFirst,
    Encoded,
    as_dataset,
    collator,
    filled,
    load_corpus,
    load_split,
    planned_steps,
    smaller_batch,
)
from helpers.lora_training.checkpoints import finished, last_checkpoint, only_tensors, take_over
from helpers.lora_training.journal import LogRows, TrainingLogCallback
from helpers.lora_training.stopping import StopCallback
from helpers.losses import causal_model, completion_loss
from helpers.machine.hardware import describe_machine, peak_memory_gib
from helpers.machine.processes import is_main_process, weights_spread, world_size
from helpers.models.loading import compute_dtype, load_tokenizer, save_tokenizer
from helpers.report.model_card import model_card
from helpers.run_dir.folder import Run, alone
from helpers.sources.hub import nameless_base, public_name
from helpers.tracking.wandb_run import tracked

# The embedding layers are not trained; by default PEFT asks the hub whether they might have been resized.
ADAPTER_ONLY = {"save_embedding_layers": False}


def sft_config(run: Run, steps: int, report_to: list[str], batch: int, accumulation: int) -> Any:
    """The run's settings as TRL's SFTConfig. Rows are already encoded, so TRL's own preparation is off."""
    from trl import SFTConfig

    training, machine, dtype = run.config.training, describe_machine(), compute_dtype(run.config)
    automatic = "adamw_8bit" if machine.gpu and not weights_spread() else "adamw_torch"  # the first knows no parts
    arguments = SFTConfig(
        output_dir=str(run / "checkpoints"),
        max_steps=steps,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        gradient_checkpointing=training.gradient_checkpointing,
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.scheduler,
        warmup_steps=training.warmup_steps,
        weight_decay=training.weight_decay,
        optim=automatic if training.optimizer == "auto" else training.optimizer,
        # Explicit, since TRL enables bf16 by default, which a T4 only emulates.
        bf16=dtype == "bfloat16",
        fp16=dtype == "float16",
        use_cpu=machine.gpu is None,
        max_length=None,
        # Both are done in the collator; TRL and Unsloth would otherwise do them again.
        packing=False,
        padding_free=False,
        # Rows of like length in a micro-batch: less padding. Packs are of one length.
        train_sampling_strategy="random" if training.packing else "group_by_length",
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        seed=run.config.seed,
        save_steps=math.ceil(steps / training.checkpoints),
        logging_steps=1,
        logging_nan_inf_filter=False,  # it would print 0 where the loss is not a number
        include_num_input_tokens_seen="non_padding",
        dataloader_pin_memory=machine.gpu is not None,
        disable_tqdm=True,
        report_to=report_to,
        ddp_find_unused_parameters=False,  # every adapter is used in every step
    )
    # One GPU a process. If it sees several, transformers would use DataParallel, which fails with 4-bit weights and
    # packs; `accelerate launch train.py` uses them all.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def trainer_class(unsloth: bool) -> type:
    """TRL's SFTTrainer that also logs throughput, with the model's own loss where TRL's cannot run.

    TRL 1.15 computes its loss in a Triton kernel only: without Triton (a CPU, macOS) it fails at the first step.
    Unsloth has a fused loss in its model.
    """
    from trl import SFTTrainer

    gpu = describe_machine().gpu
    # The kernel reads the head's weights, of which each process may hold a part alone.
    fused = not unsloth and importlib.util.find_spec("triton") and gpu and not weights_spread()
    # Several processes need the forward pass of the wrapper that adds up their gradients.
    alone_on_cpu = not unsloth and gpu is None and world_size() == 1

    class ReasoningTrainer(SFTTrainer):
        journal: TrainingLogCallback
        corpus = 0  # items of the dataset that are text, trained before the rows
        rows: int | None = None  # its other items, without those that fill the last batch; None: all

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            args = self.args
            step_rows = args.per_device_train_batch_size * args.gradient_accumulation_steps * world_size()
            if not self.corpus:
                rows = self.train_dataset.select(range(self.rows or len(self.train_dataset)))
                sampler = super()._get_train_sampler(rows)
                if args.train_sampling_strategy == "random" and world_size() == 1:
                    return sampler  # accelerate shuffles as ByEpoch does
                sampler.batch_size = step_rows  # groups of one step, whatever the number of GPUs
                return ByEpoch(sampler, args.seed, lambda: self.state.epoch, len(self.train_dataset))
            return CorpusFirst(self.corpus, len(self.train_dataset), args.max_steps * step_rows, args.seed)

        def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
            if "loss" in logs:
                logs |= self.journal.lap(int(self.state.num_input_tokens_seen))
            super().log(logs, *args, **kwargs)

        def compute_loss(self, model: Any, inputs: dict[str, Any], **kwargs: Any) -> Any:
            if fused:
                return super().compute_loss(model, inputs, **kwargs)
            if alone_on_cpu:
                return completion_loss(causal_model(model), inputs, kwargs.get("num_items_in_batch"))
            if weights_spread():  # the wrapper would round the loss to bfloat16, of which the log shows three digits
                loss = completion_loss(model, inputs, kwargs.get("num_items_in_batch"))
                return loss * self.accelerator.num_processes  # of which the gradients are the mean
            return Trainer.compute_loss(self, model, inputs, **kwargs)

    return ReasoningTrainer


@alone
def train(run: Run, watch: Callable[[LogRows], None] | None = None) -> dict[str, Any]:
    """Fine-tune from the newest complete checkpoint, if there is one; writes adapter/ and training/.

    A finished training is left as it is; one with fewer steps is continued. Other results of an earlier training are
    set aside, see `checkpoints.take_over`. `watch` is called with the log whenever it grows. When GPU memory runs out
    the micro-batch is halved, gradient accumulation doubled, and training continues from the last checkpoint. Returns
    the contents of training/metrics.json: losses in nats a completion token; seconds without validation and real
    (non-padding) tokens a second, over all parts of an interrupted training; peak memory in GiB.
    """
    import torch

    if metrics := finished(run):
        if watch:
            watch(read_jsonl(run / "training/log.jsonl"))
        larger = "max_steps" if run.config.training.max_steps > 0 else "epochs"
        print(
            f"finished already, after {metrics['steps']} steps: nothing is trained. A larger training.{larger} "
            "continues from here, `python -m helpers run --only 04 --force` starts again."
        )
        return metrics
    start_backend(run)
    tokenizer = load_tokenizer(run.config.model)
    rows, texts = load_split(run, "train", tokenizer), load_corpus(run, "train", tokenizer)
    validation, unseen = load_split(run, "validation", tokenizer), load_corpus(run, "unseen", tokenizer)
    take_over(run)
    batch, accumulation = run.config.training.batch_size, run.config.training.gradient_accumulation
    with tracked(run, "training") as tracker:
        # Loaded once, also if memory runs out: a second model would not fit beside the first.
        model = load_trainable(run.config)
        state = get_peft_model_state_dict(model, **ADAPTER_ONLY)
        untrained = {name: weight.to("cpu", copy=True) for name, weight in state.items()}
        while True:
            journal = TrainingLogCallback(run, validation, tokenizer.pad_token_id, watch, unseen)
            report_to = ["wandb"] if tracker else []
            try:
                return _train_once(run, model, tokenizer, texts, rows, journal, report_to, batch, accumulation)
            except torch.OutOfMemoryError:
                if world_size() > 1:  # the other processes wait for its gradients
                    raise InputError("out of GPU memory on one of several GPUs: lower training.batch_size") from None
                batch, accumulation = smaller_batch(batch, accumulation)
                print(f"out of GPU memory: continuing with micro-batches of {batch}, {accumulation} to a step")
            # Only here are the failed attempt's activations unreachable.
            model.zero_grad(set_to_none=True)
            gc.collect()
            torch.cuda.empty_cache()
            set_peft_model_state_dict(model, untrained)  # a checkpoint, if there is one, is loaded over it


def _train_once(
    run: Run,
    model: Any,
    tokenizer: Any,
    texts: Sequence[Encoded],
    rows: Sequence[Encoded],
    journal: TrainingLogCallback,
    report_to: list[str],
    batch: int,
    accumulation: int,
) -> dict[str, Any]:
    checkpoint, done = last_checkpoint(run)
    unsloth = choose_backend(run.config, describe_machine()) == "unsloth"
    dataset, corpus = as_dataset(run.config, rows), 0
    if texts:
        first = as_dataset(run.config, texts)
        dataset, corpus = concatenate_datasets([first, dataset]), len(first)
    items = len(dataset) - corpus
    steps = planned_steps(run.config, items, world_size(), corpus)
    if world_size() > 1:
        dataset = filled(dataset, batch * world_size(), tokenizer.pad_token_id)
    if checkpoint:
        journal.resume(done)
    stop = StopCallback(run)
    trainer = trainer_class(unsloth)(
        model=model,
        args=sft_config(run, steps, report_to, batch, accumulation),
        train_dataset=dataset,
        data_collator=collator(run.config, tokenizer.pad_token_id, unsloth),
        processing_class=tokenizer,
        callbacks=[journal, stop],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.journal, trainer.corpus, trainer.rows = journal, corpus, items
    with stop.listening(), only_tensors(checkpoint):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    save_adapter(run, model, tokenizer)  # before the metrics: an error in them must not lose the adapter
    metrics = _metrics(run, journal, trainer, done, len(rows))
    if is_main_process():
        write_json(run / "training/metrics.json", metrics)
    return metrics


def save_adapter(run: Run, model: Any, tokenizer: Any) -> None:
    """Write adapter/: weights, tokenizer and a first model card. All processes call it, and one writes."""
    trained = {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}
    # Gathered where they are spread over the processes.
    weights = {
        name: weight.full_tensor() if hasattr(weight, "full_tensor") else weight for name, weight in trained.items()
    }
    if not is_main_process():
        return
    config = model.peft_config["default"]
    config.base_model_name_or_path = public_name(run.config)
    if isinstance(config.target_modules, set):  # whose order, and so the file, differs from process to process
        config.target_modules = sorted(config.target_modules)
    if warning := nameless_base(run.config):
        print(warning)
    with atomic_dir(run / "adapter") as folder:
        model.save_pretrained(folder, state_dict=weights, **ADAPTER_ONLY)
        save_tokenizer(tokenizer, run.config.model, folder)
        write_text(folder / "README.md", model_card(run, "adapter"))


def _metrics(run: Run, journal: TrainingLogCallback, trainer: Any, done: int, rows: int) -> dict[str, Any]:
    first, last = journal.validations()[0], journal.validations()[-1]
    losses = [row for row in journal.log if "loss" in row]
    tokens = [row["tokens"] for row in losses]
    laps = zip(losses, [0, *tokens], strict=False)
    seconds = sum((row["tokens"] - before) / row["tokens_per_second"] for row, before in laps)
    trainable, parameters = trainer.model.get_nb_trainable_parameters()  # 4-bit weights count as two a byte
    return {
        "steps": trainer.state.global_step,
        "resumed_from": done,
        "epochs": trainer.state.epoch,
        "train_rows": rows,
        "validation_rows": len(journal.validation),
        "validation_nll": {"before": first["validation_nll"], "after": last["validation_nll"]},
        **({"corpus_nll": {"before": first["corpus_nll"], "after": last["corpus_nll"]}} if journal.texts else {}),
        "train_loss": {"first": losses[0]["loss"], "last": fmean(row["loss"] for row in losses[-5:])},
        "seconds": seconds,
        "tokens": tokens[-1],
        "tokens_per_second": tokens[-1] / seconds,
        # Without the first steps, which compile kernels and allocate memory.
        "steady_tokens_per_second": median(row["tokens_per_second"] for row in losses[min(5, len(losses) // 2) :]),
        "peak_memory_gib": peak_memory_gib(),
        "trainable_parameters": trainable,
        "parameters": parameters,
        "compute_dtype": compute_dtype(run.config),
        "backend": choose_backend(run.config, describe_machine()),
        "micro_batch": trainer.args.per_device_train_batch_size,
        "gradient_accumulation": trainer.args.gradient_accumulation_steps,
    }
