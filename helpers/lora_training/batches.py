"""From rows on disk to batches: encoded, packed or padded, and the number of steps."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import RandomSampler, Sampler

from helpers import InputError
from helpers.config import Config
from helpers.files import read_jsonl
from helpers.prompts.encoding import encode_example, encode_text
from helpers.run_dir.folder import Run

Encoded = dict[str, list[int]]


def load_split(run: Run, name: str, tokenizer: Any) -> list[Encoded]:
    """The rows of data/`name`.jsonl as token ids and labels; InputError if one does not fit, which 03 has checked."""
    rows = read_jsonl(run.require(f"data/{name}.jsonl", "03_dataset_prep"))
    model = run.config.model
    encoded = [encode_example(tokenizer, row, model.max_length, model.prompt_style) for row in rows]
    if not encoded or None in encoded:
        raise InputError(f"{run.label}/data/{name}.jsonl was prepared for another model: run 03_dataset_prep again")
    return encoded


def load_corpus(run: Run, split: str, tokenizer: Any) -> list[Encoded]:
    """The passages of data/corpus.jsonl of one split, "train" or "unseen", title first, to be learnt as text.

    [] where `data.corpus` is empty. Passages that the vocabulary cannot spell, or that do not fit, are left out.
    """
    if not run.config.data.corpus:
        return []
    rows = read_jsonl(run.require("data/corpus.jsonl", "03_dataset_prep"))
    texts = [f"{row['title']}\n{row['text']}" for row in rows if row["split"] == split]
    return [each for text in texts if (each := encode_text(tokenizer, text, run.config.model.max_length))]


class ByEpoch(Sampler[int]):
    """The order of a sampler that shuffles, by the seed and the epoch alone: the same after a resume, on each process.

    transformers shuffles groups of like length by the global random state as an epoch begins, which a checkpoint in the
    middle of a later epoch no longer has. `length` is of the dataset: what the sampler does not know comes last.
    """

    def __init__(self, sampler: Any, seed: int, epoch: Callable[[], float | None], length: int) -> None:
        self.sampler, self.seed, self.epoch, self.length = sampler, seed, epoch, length

    def __iter__(self) -> Iterator[int]:
        epoch = int(self.epoch() or 0)
        # Of groups, the first epoch, also after a resume in it, has transformers' own order.
        if epoch > 0 or isinstance(self.sampler, RandomSampler):
            self.sampler.generator = torch.Generator().manual_seed(self.seed + epoch)
        yield from self.sampler
        yield from range(len(self.sampler), self.length)

    def __len__(self) -> int:
        return self.length


class CorpusFirst(Sampler[int]):
    """`total` indices of a dataset whose first `corpus` items are text: those once, then the rows again and again.

    All of it is one epoch to the trainer; each part is shuffled by the seed alone, the same after a resume.
    """

    def __init__(self, corpus: int, length: int, total: int, seed: int) -> None:
        self.corpus, self.rows, self.length, self.seed = corpus, length - corpus, total, seed

    def __iter__(self) -> Iterator[int]:
        order = torch.Generator().manual_seed(self.seed)
        yield from torch.randperm(self.corpus, generator=order).tolist()
        left = self.length - self.corpus
        while left > 0:
            part = (torch.randperm(self.rows, generator=order) + self.corpus).tolist()[:left]
            yield from part
            left -= len(part)

    def __len__(self) -> int:
        return self.length


def as_dataset(config: Config, rows: Sequence[Encoded]) -> Any:
    """The rows as a dataset: one by one, or in packs of up to `model.max_length` tokens.

    Packs hold whole rows (TRL's "bfd"), whose lengths are in `seq_lengths`.
    """
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()  # a second of work
    dataset = Dataset.from_list(list(rows))
    if not config.training.packing:
        return dataset
    from trl import pack_dataset

    return pack_dataset(dataset, config.model.max_length, strategy="bfd")


def filled(dataset: Any, multiple: int, pad: int) -> Any:
    """The dataset, and after it as many rows without a label as make its length a multiple.

    accelerate would fill the last batch of an epoch with rows from its beginning, to give each process as many: on
    several GPUs these would count twice, which they do not on one.
    """
    from datasets import Dataset, concatenate_datasets

    if not (missing := -len(dataset) % multiple):
        return dataset
    row = {"input_ids": [pad, pad], "labels": [-100, -100], "seq_lengths": [2]}
    rows = [{name: row[name] for name in dataset.column_names}] * missing
    return concatenate_datasets([dataset, Dataset.from_list(rows, features=dataset.features)])


def collator(config: Config, pad: int, unsloth: bool) -> Any:
    """A collator that pads rows on the right, or makes packs one row (1, tokens) without padding.

    Position ids restart at 0 with every document, by which transformers limits attention; Unsloth reads
    `packed_seq_lengths`.
    """
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    if not config.training.packing:
        return DataCollatorForLanguageModeling(pad_token_id=pad)

    class PackCollator(DataCollatorForLanguageModeling):
        def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
            batch = super().torch_call(examples)
            if unsloth:
                lengths = [length for example in examples for length in example["seq_lengths"]]
                batch["packed_seq_lengths"] = torch.tensor(lengths, dtype=torch.int32)
            return batch

    return PackCollator(pad_token_id=pad, padding_free=True)


def planned_steps(config: Config, rows: int, devices: int = 1, corpus: int = 0) -> int:
    """Number of optimizer steps for this many rows, or packs of rows, and `corpus` texts before them, taken once.

    `training.max_steps` and `training.epochs` count the rows alone.
    """
    training = config.training
    step_rows = training.batch_size * training.gradient_accumulation * devices
    texts = math.ceil(corpus / step_rows)
    if training.max_steps > 0:
        return texts + training.max_steps
    return texts + math.ceil(math.ceil(rows / step_rows) * training.epochs)


def smaller_batch(batch: int, accumulation: int) -> tuple[int, int]:
    """Divide the micro-batch by its smallest factor and multiply gradient accumulation by it, so that a step has as
    many rows as before. Raises InputError for a micro-batch of one row."""
    if batch == 1:
        raise InputError(
            "out of GPU memory with one row at a time: lower model.max_length or lora.r, or set model.load_in_4bit or "
            "training.gradient_checkpointing to true"
        )
    factor = next(n for n in range(2, batch + 1) if batch % n == 0)
    return batch // factor, accumulation * factor
