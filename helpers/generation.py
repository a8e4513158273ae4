"""Generation: whole replies in batches, or replies as a stream."""

import glob
import hashlib
import json
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.config import GenerationSettings
from helpers.decoding import can_decode, decode, grouped_attention
from helpers.files import write_text
from helpers.losses import causal_model, left_padded
from helpers.machine import is_main_process, process_rank, world_size
from helpers.processes import shared_out, wait_for_all
from helpers.progress import Progress
from helpers.prompts.families import end_tokens


@dataclass(frozen=True)
class Reply:
    """`finished`: ended with an end-of-sequence token within the limit; `tokens` counts new ones."""

    text: str
    tokens: int
    finished: bool


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    settings: GenerationSettings,
    seed: int,
    what: str = "replies",
    kept: Path | None = None,
    identity: str = "",
) -> list[Reply]:
    """Replies to the prompts (token ids, as `encode_prompt` returns them), in the same order.

    The longest prompts are decoded first, up to `settings.batch_size` at a time, so that memory runs out at once or
    never. `decoding.decode` is used where it supports the model's attention: then a sample depends on the seed and the
    prompt's place in the list alone. Elsewhere `model.generate` samples batch by batch.

    Each reply is appended to the file `kept` as it ends. A call that was stopped continues from that file if prompts,
    settings, seed and `identity`, which names the model, are the same.

    Several processes share the prompts out: each keeps its replies in a file of its own, and all return all replies.
    """
    causal = causal_model(model)
    ends = end_tokens(causal, tokenizer)
    inputs = [identity, settings.model_dump(mode="json"), seed, prompts]
    replies = _read_kept(kept, inputs) if kept else {}
    missing = sorted((i for i in range(len(prompts)) if i not in replies), key=lambda i: -len(prompts[i]))

    def decode_share(share: Sequence[int]) -> list[list[int]]:
        made, started, decoded = {}, time.monotonic(), 0
        own = kept and (kept if world_size() == 1 else kept.with_name(f"{kept.name}.{process_rank()}"))
        with (
            Progress(len(replies) + len(share), what, done=len(replies)) as progress,
            open(own or os.devnull, "a", encoding="utf-8") as file,
        ):

            def done(i: int, tokens: list[int]) -> None:
                nonlocal decoded
                made[i] = tokens
                decoded += _length(ends, tokens)[0]
                file.write(json.dumps([i, tokens]) + "\n")
                file.flush()

            def look(working: dict[int, int]) -> None:
                rate = (decoded + sum(working.values())) / max(time.monotonic() - started, 1e-3)
                progress.update(len(replies) + len(made) - progress.done, f"{rate:,.0f} tokens/s")

            if share:
                decoder = decode if can_decode(causal) else generate_in_batches
                decoder(causal, tokenizer, prompts, settings, seed, share, done, look)
        return [made[i] for i in share]

    replies |= zip(missing, shared_out(missing, decode_share), strict=True)
    if kept and world_size() > 1:
        _read_kept(kept, inputs)
    return [_reply(tokenizer, ends, replies[i]) for i in range(len(prompts))]


def _read_kept(path: Path, inputs: list[Any]) -> dict[int, list[int]]:
    """The replies for the same inputs in the file, and in those that several processes left beside it.

    They are all in the one file afterwards, without those for other inputs and what a kill or a power cut spoilt.
    """
    first = hashlib.sha256(json.dumps(inputs).encode()).hexdigest()
    lines = _lines(path) if path.is_file() else []
    replies = _whole(lines[1:]) if lines[:1] == [first] else {}
    parts = list(path.parent.glob(f"{glob.escape(path.name)}.*"))
    for part in parts if lines[:1] == [first] else ():  # the processes added to what this file holds
        replies |= _whole(_lines(part))
    wait_for_all()  # have read them
    if is_main_process():
        write_text(path, "".join(line + "\n" for line in [first, *map(json.dumps, replies.items())]))
        for part in parts:
            part.unlink()
    wait_for_all()
    return replies


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]


def _whole(lines: Sequence[str]) -> dict[int, list[int]]:
    """Replies up to the first line that is none."""
    replies = {}
    with suppress(ValueError, TypeError):
        for line in lines:
            i, tokens = json.loads(line)
            replies[i] = tokens
    return replies


def generate_in_batches(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    settings: GenerationSettings,
    seed: int,
    order: Sequence[int],
    done: Callable[[int, list[int]], None],
    look: Callable[[dict[int, int]], None] | None = None,
    **more: Any,
) -> None:
    """As `decoding.decode`, by `model.generate`, with samples that depend on the batch.

    `more` is passed to `model.generate`. A row whose reply has ended waits for the longest reply of its batch.
    """
    import torch
    from transformers.generation.streamers import BaseStreamer

    class Rows(BaseStreamer):
        def __init__(self, batch: Sequence[int]) -> None:
            self.batch, self.working = batch, {i: [] for i in batch}

        def put(self, value: Any) -> None:
            if value.dim() == 1:  # the prompts come first, as a matrix
                for i, token in zip(self.batch, value.tolist(), strict=True):
                    if i in self.working:
                        self.working[i].append(token)
                        if token in ends:
                            done(i, self.working.pop(i))
                self.look()

        def end(self) -> None:
            for i in list(self.working):
                done(i, self.working.pop(i))
            self.look()

        def look(self) -> None:
            if look:
                look({i: len(tokens) for i, tokens in self.working.items()})

    ends = end_tokens(model, tokenizer)
    order = sorted(order, key=lambda i: -len(prompts[i]))
    torch.manual_seed(seed)
    with torch.inference_mode():
        for start in range(0, len(order), settings.batch_size):
            batch = order[start : start + settings.batch_size]
            ids, mask = left_padded([prompts[i] for i in batch], tokenizer.pad_token_id)
            model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                streamer=Rows(batch),
                **generation_arguments(model, tokenizer, settings),
                **more,
            )


def stream(model: Any, tokenizer: Any, prompt: list[int], settings: GenerationSettings, seed: int) -> Iterator[str]:
    """Yield one reply piece by piece as it is decoded. Leaving the loop early stops the model."""
    shown = ""
    for [reply] in stream_together(model, tokenizer, [prompt], settings, seed):
        # A character whose last bytes are still missing decodes to U+FFFD: it waits for them.
        text = reply.text if reply.finished else reply.text.rstrip("\ufffd")
        if len(text) > len(shown):
            yield text[len(shown) :]
            shown = text
    if len(reply.text) > len(shown):
        yield reply.text[len(shown) :]


def stream_together(
    model: Any, tokenizer: Any, prompts: Sequence[list[int]], settings: GenerationSettings, seed: int
) -> Iterator[list[Reply]]:
    """Decode the prompts as one batch; yield their replies so far after each step, until all have ended."""
    import torch
    from transformers import StoppingCriteria, StoppingCriteriaList
    from transformers.generation.streamers import BaseStreamer

    left, arrived, failures = threading.Event(), queue.SimpleQueue(), []

    class Feed(BaseStreamer):
        def put(self, value: Any) -> None:
            if value.dim() == 1:  # the prompts come first, as a matrix
                arrived.put(value.tolist())

        def end(self) -> None:
            arrived.put(None)

    class Abandoned(StoppingCriteria):
        def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
            return torch.full((len(input_ids),), left.is_set(), device=input_ids.device)

    ids, mask = left_padded(prompts, tokenizer.pad_token_id)
    ends = end_tokens(model, tokenizer)

    def work() -> None:
        try:
            torch.manual_seed(seed)
            with torch.inference_mode(), _decoding(model) as how:
                model.generate(
                    input_ids=ids.to(model.device),
                    attention_mask=mask.to(model.device),
                    streamer=Feed(),
                    stopping_criteria=StoppingCriteriaList([Abandoned()]),
                    **generation_arguments(model, tokenizer, settings),
                    **how,
                )
        except BaseException as error:
            failures.append(error)
            arrived.put(None)

    rows: list[list[int]] = [[] for _ in prompts]
    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    try:
        step = arrived.get()
        while step is not None:
            for row, token in zip(rows, step, strict=True):
                row.append(token)
            if arrived.empty():  # a slow reader gets several steps at once
                yield [_reply(tokenizer, ends, row) for row in rows]
            step = arrived.get()
        yield [_reply(tokenizer, ends, row) for row in rows]
    finally:
        left.set()
        worker.join()
    if failures:
        raise failures[0]


def generation_arguments(model: Any, tokenizer: Any, settings: GenerationSettings) -> dict[str, Any]:
    """The settings as `model.generate` takes them; temperature 0 means greedy."""
    sampling = (
        # top_k: transformers would leave all but the 50 likeliest out, which neither `decode` nor a server does.
        {"do_sample": True, "temperature": settings.temperature, "top_p": settings.top_p, "top_k": 0}
        if settings.temperature > 0
        else {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    )
    return {
        "max_new_tokens": settings.max_new_tokens,
        "eos_token_id": sorted(end_tokens(model, tokenizer)),
        "pad_token_id": tokenizer.pad_token_id,
        **sampling,
    }


@contextmanager
def _decoding(model: Any) -> Iterator[dict[str, Any]]:
    """Further arguments of `model.generate` for the block.

    On a CPU its defaults spend most of a step copying: the KV cache grows by concatenation, and keys and values are
    repeated for every query head that shares them.
    """
    if model.device.type != "cpu":
        yield {}
        return
    with grouped_attention(model):
        yield {"cache_implementation": "static"}


def _length(ends: frozenset[int], row: list[int]) -> tuple[int, bool]:
    """The number of tokens up to and including the first of `ends`, and whether there is one."""
    end = next((i for i, token in enumerate(row, 1) if token in ends), None)
    return end or len(row), end is not None


def _reply(tokenizer: Any, ends: frozenset[int], row: list[int]) -> Reply:
    tokens, finished = _length(ends, row)
    # Special tokens stay visible, so that a reader sees a turn marker that the model wrote into its reply.
    return Reply(tokenizer.decode(row[: tokens - finished], skip_special_tokens=False), tokens, finished)
