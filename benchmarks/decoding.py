"""How fast replies are decoded: `model.generate` as it comes against what the notebooks use, in one run.

    python benchmarks/decoding.py MODEL FILE.json [--prompts 40] [--batch 40] [--limit 1024]

MODEL is `embedded` or a model's folder (`benchmarks/training.py make-model` makes one with random weights). Both sides
get the packaged sample's questions, longest first, and choose greedily; the first call of each is not timed. Different
rounding can flip a near-tie, after which two replies are different texts: so where two replies part, the table says how
far apart the two tokens' logits are in a plain forward pass.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
import typer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from helpers.config import Config
from helpers.files import read_jsonl, write_json
from helpers.generation.decoding import decode
from helpers.generation.replies import generate_in_batches
from helpers.machine.hardware import describe_machine
from helpers.models.loading import load_base, load_tokenizer
from helpers.prompts.encoding import encode_prompt
from helpers.run_dir.folder import versions
from helpers.sources.rows import SAMPLE

Replies = dict[int, list[int]]


def main(model: str, out: Path, prompts: int = 40, batch: int = 40, limit: int = 1024) -> None:
    """Decode with every way, print tokens a second and how far the tokens are the same, and write all of it."""
    profile = "full" if torch.cuda.is_available() else "laptop"
    greedy = {"generation.temperature": 0, "generation.batch_size": batch, "generation.max_new_tokens": limit}
    config = Config.resolve(profile, {"model.name": model, "model.load_in_4bit": False, **greedy})
    tokenizer, causal = load_tokenizer(config.model), load_base(config)
    rows = read_jsonl(SAMPLE)
    asked = [encode_prompt(tokenizer, rows[i % len(rows)]["Question"]) for i in range(prompts)]
    order = sorted(range(prompts), key=lambda i: -len(asked[i]))

    def replies_by(way: Callable[..., None], settings: Any) -> Replies:
        replies: Replies = {}
        way(causal, tokenizer, asked, settings, config.seed, order, replies.__setitem__)
        return replies

    ways: dict[str, Callable[..., None]] = {"model.generate": generate_in_batches, "decode": decode}
    if torch.cuda.is_available():
        ways["model.generate, static cache"] = partial(generate_in_batches, cache_implementation="static")
    results, first = {}, None
    for name, way in ways.items():
        replies_by(way, config.generation.model_copy(update={"max_new_tokens": 8}))
        started = time.monotonic()
        replies = replies_by(way, config.generation)
        seconds = time.monotonic() - started
        ended = {i: cut(reply, tokenizer.eos_token_id) for i, reply in replies.items()}
        first = first or ended
        tokens = sum(map(len, first.values()))  # of all ways, so that a chance longer reply makes none faster
        results[name] = {
            "seconds": seconds,
            "tokens_per_second": tokens / seconds,
            **agreement(causal, asked, first, ended),
        }
        print(
            f"{name:30} {tokens / seconds:8,.0f} tokens/s  {results['model.generate']['seconds'] / seconds:5.2f} x  "
            f"{results[name]['same']:4.0%} of tokens the same, largest gap {results[name]['largest_gap']:.1e}",
            flush=True,
        )
        # after each way, so that what was measured is kept when a later one is stopped
        write_json(
            out,
            {
                "hardware": describe_machine().model_dump(),
                "versions": versions(),
                "settings": {"model": model, "prompts": prompts, "batch": batch, "limit": limit},
                "reply_tokens": sorted(map(len, first.values())),
                "results": results,
            },
        )


def cut(reply: list[int], stop: int) -> list[int]:
    """A reply up to its end-of-sequence token."""
    return reply[: reply.index(stop) + 1] if stop in reply else reply


def agreement(model: Any, asked: list[list[int]], ours: Replies, theirs: Replies) -> dict[str, float]:
    """The share of tokens before two replies part, over all, and the largest gap between the logits where they do."""
    same, gaps = 0, [0.0]
    for i, reply in ours.items():
        alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(reply, theirs[i], strict=False)))
        same += alike
        if alike < min(len(reply), len(theirs[i])):
            with torch.inference_mode():
                ids = torch.tensor([asked[i] + reply[:alike]], device=model.device)
                logits = model(input_ids=ids, logits_to_keep=1).logits[0, -1].float()
            gaps.append(abs(logits[reply[alike]] - logits[theirs[i][alike]]).item())
    return {"same": same / sum(map(len, ours.values())), "parted": len(gaps) - 1, "largest_gap": max(gaps)}


if __name__ == "__main__":
    typer.run(main)
