"""How fast engines decode on one GPU, in 16 and in 4 bit, for batches of several sizes and replies that end unequally.

    python benchmarks/engines.py MODEL FILE.json [--load-in-4bit] [--engine unsloth] [--batches 8,32,96]

MODEL is a folder with the shape of the 8B model (`benchmarks/training.py make-model`). Its weights are random, so the
end-of-sequence token gets a bias that ends a reply after about `--mean` tokens, at most `--limit`. Each engine samples
by itself: lengths differ between them by chance, and tokens a second count what each has made. There are two prompts a
place, so that an engine which refills its places shows it. An engine that fails leaves its error in the file.
"""

import gc
import math
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import typer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from helpers.config import Config
from helpers.files import read_jsonl, write_json
from helpers.prompts.encoding import encode_prompt
from helpers.run_dir.folder import versions
from helpers.sources.rows import SAMPLE

Way = Callable[[list[list[int]], Any], list[int]]


def main(
    model: str,
    out: Path,
    load_in_4bit: bool = False,
    engine: str = "transformers",
    batches: str = "8,32,96",
    only: str = "",
    mean: int = 200,
    limit: int = 512,
) -> None:
    """Measure every way of `engine`, print tokens a second, and write all of it after each."""
    settings = {"model.name": model, "model.load_in_4bit": load_in_4bit, "model.compute_dtype": "bfloat16"}
    settings |= {"generation.temperature": 1, "generation.top_p": 1, "generation.max_new_tokens": limit}
    config = Config.resolve("full", settings)
    load = unsloth_ways if engine == "unsloth" else transformers_ways
    tokenizer, ways = load(config, math.log(128256 * math.exp(1.28**2 / 2) / mean))
    rows = read_jsonl(SAMPLE)
    results: list[dict[str, Any]] = []
    for batch in map(int, batches.split(",")):
        asked = [encode_prompt(tokenizer, rows[i % len(rows)]["Question"]) for i in range(2 * batch)]
        asked.sort(key=len, reverse=True)
        for name, way in ways.items():
            if only and name not in only.split(","):
                continue
            found: dict[str, Any] = {"way": name, "batch": batch, "load_in_4bit": load_in_4bit}
            try:
                sized = config.generation.model_copy(update={"batch_size": batch})
                way(asked, sized)  # compiles, records, takes memory
                torch.cuda.reset_peak_memory_stats()
                started = time.monotonic()
                lengths = way(asked, sized)
                seconds = time.monotonic() - started
                found |= {"seconds": seconds, "tokens_per_second": sum(lengths) / seconds, "tokens": sum(lengths)}
                found |= {"replies": len(lengths), "peak_gib": torch.cuda.max_memory_allocated() / 2**30}
            except Exception as error:
                found["error"] = f"{type(error).__name__}: {error}"[:500]
            gc.collect()
            torch.cuda.empty_cache()
            results.append(found)
            print(
                {key: round(value, 1) if isinstance(value, float) else value for key, value in found.items()},
                flush=True,
            )
            hardware = {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
            write_json(out, {"hardware": hardware, "versions": versions(), "settings": settings | {"mean": mean},
                             "results": results})  # fmt: skip


def ending(head: torch.nn.Linear, end: int, bias: float) -> torch.nn.Linear:
    """The output layer with a bias for the token that ends a reply."""
    head.bias = torch.nn.Parameter(torch.zeros(head.out_features, dtype=head.weight.dtype, device=head.weight.device))
    head.bias.data[end] = bias
    return head


def sampling(tokenizer: Any, settings: Any) -> dict[str, Any]:
    """Arguments of transformers' generation: from all tokens, at temperature 1."""
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return {"max_new_tokens": settings.max_new_tokens, "do_sample": True, "temperature": 1.0, "top_k": 0, **ends}


def transformers_ways(config: Config, bias: float) -> tuple[Any, dict[str, Way]]:
    """`model.generate`, our decoder, and transformers' continuous batching with and without its settings."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    from helpers.generation.decoding import decode
    from helpers.generation.replies import generate_in_batches
    from helpers.models.loading import load_base, load_tokenizer

    tokenizer, model = load_tokenizer(config.model), load_base(config).eval()
    end = tokenizer.eos_token_id
    ending(model.lm_head, end, bias)
    serving: dict[str, Any] = {}

    def ours(way: Callable[..., None], asked: list[list[int]], settings: Any) -> list[int]:
        if serving.pop("config", None):
            model.destroy_cached_continuous_batching_manager()
        replies: dict[int, list[int]] = {}
        way(model, tokenizer, asked, settings, 0, range(len(asked)), replies.__setitem__)
        return [reply.index(end) + 1 if end in reply else len(reply) for reply in replies.values()]

    def continuous(asked: list[list[int]], settings: Any, **more: Any) -> list[int]:
        how = GenerationConfig(**sampling(tokenizer, settings))
        batching = ContinuousBatchingConfig(max_requests_per_batch=settings.batch_size, **more)
        if serving.get("config") != (settings.batch_size, more):  # started once for both calls: that takes 40 s
            model.destroy_cached_continuous_batching_manager()
            serving["config"] = settings.batch_size, more
        found = model.generate_batch(asked, how, continuous_batching_config=batching, persistent_manager=True)
        if len(found) < len(asked):
            raise RuntimeError(f"{len(found)} of {len(asked)} replies came back")
        return [len(each.generated_tokens) for each in found.values()]

    return tokenizer, {
        "model.generate": partial(ours, generate_in_batches),
        "decode": partial(ours, decode),
        "generate_batch": continuous,
        "generate_batch with CUDA graphs": partial(continuous, use_cuda_graph=True, use_async_batching=True),
    }


def unsloth_ways(config: Config, bias: float) -> tuple[Any, dict[str, Way]]:
    """Unsloth's own inference, batch by batch."""
    from unsloth import FastLanguageModel

    from helpers.losses import left_padded
    from helpers.models.loading import load_tokenizer

    model, _ = FastLanguageModel.from_pretrained(
        config.model.name, max_seq_length=2048, load_in_4bit=config.model.load_in_4bit, dtype=torch.bfloat16
    )
    FastLanguageModel.for_inference(model)
    tokenizer = load_tokenizer(config.model)
    end = tokenizer.eos_token_id
    ending(model.lm_head, end, bias)

    def batched(asked: list[list[int]], settings: Any) -> list[int]:
        lengths = []
        for start in range(0, len(asked), settings.batch_size):
            ids, mask = left_padded(asked[start : start + settings.batch_size], tokenizer.pad_token_id)
            made = model.generate(
                input_ids=ids.cuda(),
                attention_mask=mask.cuda(),
                **sampling(tokenizer, settings),
            )[:, ids.shape[1] :].tolist()
            lengths += [row.index(end) + 1 if end in row else len(row) for row in made]
        return lengths

    return tokenizer, {"Unsloth": batched}


if __name__ == "__main__":
    typer.run(main)
