"""Generation: whole replies in batches, or replies as a stream."""

import glob
import hashlib
import json
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.generation.streamers import BaseStreamer

from helpers.config import GenerationSettings
from helpers.files import write_text
from helpers.generation.decoding import can_decode, decode, quick_layers
from helpers.losses import causal_model, left_padded
from helpers.machine.processes import is_main_process, process_rank, shared_out, wait_for_all, world_size
from helpers.prompts.families import end_tokens
from helpers.tracking.progress import Progress


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
                decoded += len(tokens)
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
    parts = list(path.parent.glob(f"{glob.escape(path.name)}.*"))
    replies: dict[int, list[int]] = {}
    if path.is_file() and _lines(path)[:1] == [first]:
        for lines in (_lines(path)[1:], *map(_lines, parts)):
            with suppress(ValueError, TypeError):  # up to the first line that is not a reply
                for i, tokens in map(json.loads, lines):
                    replies[i] = tokens
    wait_for_all()  # have read them
    if is_main_process():
        write_text(path, "".join(line + "\n" for line in [first, *map(json.dumps, replies.items())]))
        for part in parts:
            part.unlink()
    wait_for_all()
    return replies


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]


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
    ends = end_tokens(model, tokenizer)
    working: dict[int, list[int]] = {}

    def step(tokens: list[int]) -> None:
        for i, token in zip(batch, tokens, strict=True):
            if i in working:
                working[i].append(token)
                if token in ends:
                    done(i, working.pop(i))
        if look:
            look({i: len(row) for i, row in working.items()})

    order = sorted(order, key=lambda i: -len(prompts[i]))
    torch.manual_seed(seed)
    for start in range(0, len(order), settings.batch_size):
        batch = order[start : start + settings.batch_size]
        working.update((i, []) for i in batch)
        _generate(model, tokenizer, [prompts[i] for i in batch], settings, step, **more)
        for i in list(working):
            done(i, working.pop(i))
        if look:
            look({})


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
    left, arrived, failures = threading.Event(), queue.SimpleQueue(), []

    def step(tokens: list[int]) -> None:
        if left.is_set():
            raise InterruptedError("nobody reads on")
        arrived.put(tokens)

    def work() -> None:
        try:
            # On a CPU, by default most of a step is copying: the KV cache grows by concatenation, and keys and values
            # are repeated for every query head that shares them.
            on_cpu = model.device.type == "cpu"
            how = {"cache_implementation": "static"} if on_cpu else {}
            torch.manual_seed(seed)
            with quick_layers(model) if on_cpu else nullcontext():
                _generate(model, tokenizer, prompts, settings, step, **how)
        except BaseException as error:
            failures.append(error)
        arrived.put(None)

    ends = end_tokens(model, tokenizer)
    rows: list[list[int]] = [[] for _ in prompts]
    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    try:
        while (tokens := arrived.get()) is not None:
            for row, token in zip(rows, tokens, strict=True):
                row.append(token)
            if arrived.empty():  # a slow reader gets several steps at once
                yield [_reply(tokenizer, ends, row) for row in rows]
        yield [_reply(tokenizer, ends, row) for row in rows]
    finally:
        left.set()
        worker.join()
    if failures:
        raise failures[0]


class _Steps(BaseStreamer):
    """Calls `step` with the newest token of each row."""

    def __init__(self, step: Callable[[list[int]], None]) -> None:
        self.step = step

    def put(self, value: Any) -> None:
        if value.dim() == 1:  # the prompts come first, as a matrix
            self.step(value.tolist())

    def end(self) -> None:
        """The call of `model.generate` returns."""


def _generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    settings: GenerationSettings,
    step: Callable[[list[int]], None],
    **more: Any,
) -> None:
    """`model.generate` on the prompts as one batch, padded on the left; temperature 0 means greedy."""
    ids, mask = left_padded(prompts, tokenizer.pad_token_id)
    sampling = (
        # top_k: transformers would leave all but the 50 likeliest out, which neither `decode` nor a server does.
        {"do_sample": True, "temperature": settings.temperature, "top_p": settings.top_p, "top_k": 0}
        if settings.temperature > 0
        else {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    )
    with torch.inference_mode():
        model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            streamer=_Steps(step),
            max_new_tokens=settings.max_new_tokens,
            eos_token_id=sorted(end_tokens(model, tokenizer)),
            pad_token_id=tokenizer.pad_token_id,
            **sampling,
            **more,
        )


def _reply(tokenizer: Any, ends: frozenset[int], row: list[int]) -> Reply:
    """The reply in a row of tokens, which may go on after its end."""
    end = next((i for i, token in enumerate(row) if token in ends), None)
    # Special tokens stay visible, so that a reader sees a turn marker that the model wrote into its reply.
    text = tokenizer.decode(row[:end], skip_special_tokens=False)
    return Reply(text, len(row) if end is None else end + 1, end is not None)
