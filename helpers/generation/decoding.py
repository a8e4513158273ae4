"""Batched decoding with a static KV cache: the tokens of `model.generate`, three to five times as fast.

`model.generate` runs a batch until its longest reply ends, reallocates its KV cache at every step, repeats keys for
every query head that shares them, and on a GPU launches some thousand kernels a step from Python. Here a finished reply
gives its row to the next prompt; the prefix that all prompts share is prefilled once; the KV cache is written in place
and attended by groups of heads; and on CUDA a step is captured as a graph once for each KV length, then replayed.
"""

import logging
import math
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import util
from os.path import commonprefix
from typing import Any

import torch
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.models.llama import modeling_llama

from helpers.config import GenerationSettings
from helpers.generation.sampling import make_sampler, row_keys
from helpers.losses import left_padded
from helpers.prompts.families import end_tokens

# Steps between two reads of the tokens, which wait for a GPU; prompt positions a pass: a CPU's caches hold few (2 x).
GPU, CPU = (16, 16384), (4, 1024)


def can_decode(model: Any) -> bool:
    """Whether `decode` supports this model: a decoder in which every layer attends to all earlier positions."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    return kinds == {"full_attention"} and not getattr(config, "sliding_window", None) and not config.is_encoder_decoder


def decode(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    settings: GenerationSettings,
    seed: int,
    order: Sequence[int],
    done: Callable[[int, list[int]], None],
    look: Callable[[dict[int, int]], None] | None = None,
) -> None:
    """Reply to the prompts (token ids) with the indices in `order`, longest first, `settings.batch_size` at a time.

    `done(index, ids)` is called as each reply ends; its last id is an end token if it ended by itself. `look` gets the
    token counts of unfinished replies by index, now and then. The tokens sampled for a prompt depend on the seed
    and its index alone, not on the batch.
    """
    waiting = deque(sorted(order, key=lambda i: -len(prompts[i])))
    with torch.inference_mode(), quick_layers(model):
        batch = Batch(model, prompts, settings, seed)
        ends = end_tokens(model, tokenizer)
        while waiting or batch.active:
            batch.fill(waiting)
            batch.compact_cache()
            batch.steps()
            for i, reply in batch.pop_finished(ends):
                done(i, reply)
            if look:
                look({i: batch.cursor + 1 - begin for i, _, begin in batch.active.values()})
            if not waiting:
                batch.drop_free_rows()


class LayerCache(CacheLayerMixin):
    """One layer's KV cache, (rows, KV heads, positions, head size); the first `kv_len` positions are attended."""

    def __init__(self, shape: tuple[int, int, int, int], write_pos: Any, dtype: Any) -> None:
        super().__init__()
        self.keys, self.values = (torch.zeros(shape, dtype=dtype, device=write_pos.device) for _ in range(2))
        self.write_pos, self.kv_len, self.is_initialized = write_pos, shape[2], True

    def lazy_initialization(self, *_: Any) -> None:
        """Allocated in __init__."""

    def update(self, key_states: Any, value_states: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
        self.keys.index_copy_(2, self.write_pos, key_states)
        self.values.index_copy_(2, self.write_pos, value_states)
        return self.keys[:, :, : self.kv_len], self.values[:, :, : self.kv_len]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.kv_len, 0

    def get_seq_length(self) -> int:
        return self.kv_len

    def get_max_length(self) -> int:
        return self.keys.shape[2]


class Batch:
    """Rows that are decoded together, all at the same position `cursor` of the KV cache, each with its own start.

    Position ids count a row's own tokens, not cache positions: a prompt may lie anywhere, with masked gaps in it.
    """

    def __init__(self, model: Any, prompts: Sequence[list[int]], settings: GenerationSettings, seed: int) -> None:
        self.model, self.prompts, self.limit, self.seed = model, prompts, settings.max_new_tokens, seed
        self.sample = make_sampler(settings)
        self.cuda = model.device.type == "cuda"
        self.stride, self.prefill = GPU if self.cuda else CPU
        # Attention covers whole blocks of positions. On CUDA every KV length costs a capture: few and large blocks.
        self.block = 256 if self.cuda else 64
        self.prefix = self._prefill_prefix()
        # Enough for any reply whose first position lies in the first block.
        positions = (-(-(max(map(len, prompts)) + self.limit + self.stride) // self.block) + 1) * self.block
        device, config = model.device, model.config.get_text_config()
        size, layers = getattr(config, "head_dim", None), config.num_hidden_layers
        shape = (config.num_key_value_heads, positions, size or config.hidden_size // config.num_attention_heads)
        rows = min(settings.batch_size, len(prompts), _rows_that_fit(2 * layers * math.prod(shape), model))
        self.cursor, self.write_pos = 0, torch.zeros(1, dtype=torch.long, device=device)
        self.layers = [LayerCache((rows, *shape), self.write_pos, model.dtype) for _ in range(layers)]
        # The attention mask is added to the scores: 0 where a row attends.
        self.mask_value = torch.finfo(model.dtype).min
        self.mask = torch.full((rows, 1, 1, positions), self.mask_value, dtype=model.dtype, device=device)
        # (rows, 1) each: the newest token, its position id, the key of the row's random numbers.
        self.tokens, self.position_ids, self.rng_key = (
            torch.zeros(rows, 1, dtype=torch.long, device=device) for _ in range(3)
        )
        self.history = torch.zeros(rows, positions, dtype=torch.long, device=device)
        self.active: dict[int, tuple[int, int, int]] = {}  # row: prompt, its first position, its reply's first
        self.graphs: dict[int, Any] = {}

    def fill(self, waiting: deque[int]) -> None:
        """Prefill waiting prompts into free rows, placed so that they end at the cursor."""
        free = [row for row in range(len(self.tokens)) if row not in self.active]
        while free and waiting:
            width = len(self.prompts[waiting[0]])
            count = max(1, min(len(free), len(waiting), self.prefill // width))
            self._prefill(free[:count], [waiting.popleft() for _ in range(count)])
            free = free[count:]

    def compact_cache(self) -> None:
        """Drop the positions before the first that is in use, once they are a block."""
        spare = min(first for _, first, _ in self.active.values())
        if spare < self.block:
            return
        halves = [(half, 2) for layer in self.layers for half in (layer.keys, layer.values)]
        for part, dim in (*halves, (self.mask, 3), (self.history, 1)):
            kept = part.shape[dim] - spare
            part.narrow(dim, 0, kept).copy_(part.narrow(dim, spare, kept).clone())
        self.mask[..., -spare:] = self.mask_value
        self.active = {row: (i, a - spare, b - spare) for row, (i, a, b) in self.active.items()}
        self._set_cursor(self.cursor - spare)

    def steps(self) -> None:
        """Decode `stride` tokens in every row."""
        for _ in range(self.stride):
            kv_len = (self.cursor // self.block + 1) * self.block
            if self.cuda and kv_len not in self.graphs:
                self.graphs[kv_len] = self._record(kv_len)
            if graph := self.graphs.get(kv_len):
                graph.replay()
            else:
                self._step(kv_len)
            self.cursor += 1

    def pop_finished(self, stops: frozenset[int]) -> list[tuple[int, list[int]]]:
        """Free the rows that ended, by one of `stops` or the limit; return prompt indices and reply ids."""
        recent = self.history[:, self.cursor - self.stride : self.cursor + 1].tolist()  # one transfer
        ended = []
        for row, (i, _, begin) in list(self.active.items()):
            if not stops.isdisjoint(recent[row]) or self.cursor + 1 - begin >= self.limit:
                reply = self.history[row, begin : min(self.cursor + 1, begin + self.limit)].tolist()
                length = next((n for n, token in enumerate(reply, 1) if token in stops), len(reply))
                ended.append((i, reply[:length]))
                del self.active[row]
        return ended

    def drop_free_rows(self) -> None:
        """Shrink the batch once a quarter of its rows is free; on CUDA, where new captures follow, half."""
        if not self.active or len(self.active) > len(self.tokens) * (0.5 if self.cuda else 0.75):
            return
        rows = sorted(self.active)
        where = torch.tensor(rows, device=self.mask.device)
        for layer in self.layers:
            layer.keys, layer.values = layer.keys[where], layer.values[where]
        self.mask, self.history = self.mask[where], self.history[where]
        self.tokens, self.position_ids, self.rng_key = self.tokens[where], self.position_ids[where], self.rng_key[where]
        self.active = {new: self.active[old] for new, old in enumerate(rows)}
        self.graphs.clear()

    def _prefill_prefix(self) -> list[Any]:
        """[(keys, values)] by layer of the prefix that all prompts share."""
        prefix = commonprefix(self.prompts)  # noqa: RUF071 (these are not paths)
        # At least one token of each prompt is left for its own prefill, which gives the first logits.
        ids = torch.tensor([prefix[: min(map(len, self.prompts)) - 1]], device=self.model.device)
        cache = DynamicCache(config=self.model.config)
        if ids.shape[1]:
            self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return [(layer.keys, layer.values) for layer in cache.layers if layer.is_initialized]

    def _prefill(self, rows: list[int], indices: list[int]) -> None:
        device, count = self.mask.device, len(rows)
        shared = self.prefix[0][0].shape[2] if self.prefix else 0
        ids, own = (x.to(device) for x in left_padded([self.prompts[i][shared:] for i in indices], 0))
        mask = torch.cat([torch.ones(count, shared, dtype=own.dtype, device=device), own], dim=1)
        self._set_cursor(max(self.cursor, mask.shape[1]))
        cache = DynamicCache(config=self.model.config)
        for layer, (keys, values) in enumerate(self.prefix):
            cache.update(keys.expand(count, -1, -1, -1), values.expand(count, -1, -1, -1), layer)
        output = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, shared:],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        where, span = torch.tensor(rows, device=device), slice(self.cursor - mask.shape[1], self.cursor)
        for layer, new in zip(self.layers, cache.layers, strict=True):
            layer.keys[where, :, span], layer.values[where, :, span] = new.keys, new.values
        self.mask[where] = self.mask_value
        self.mask[where, 0, 0, span] = (1 - mask).to(self.mask.dtype) * self.mask_value
        self.position_ids[where, 0] = mask.sum(1)
        self.rng_key[where, 0] = row_keys(self.seed, torch.tensor(indices, device=device))
        chosen = self.sample(output.logits[:, -1].float(), self.rng_key[where], self.position_ids[where])
        self.tokens[where, 0] = self.history[where, self.cursor] = chosen
        self.active |= {row: (i, span.start, self.cursor) for row, i in zip(rows, indices, strict=True)}

    def _set_cursor(self, position: int) -> None:
        self.cursor = position
        self.write_pos.fill_(position)

    def _step(self, kv_len: int) -> None:
        self.mask.index_fill_(3, self.write_pos, 0.0)
        for layer in self.layers:
            layer.kv_len = kv_len
        output = self.model(
            input_ids=self.tokens,
            attention_mask=self.mask[..., :kv_len],
            position_ids=self.position_ids,
            past_key_values=Cache(layers=self.layers),
            use_cache=True,
        )
        self.position_ids.add_(1)
        self.tokens.copy_(self.sample(output.logits[:, -1].float(), self.rng_key, self.position_ids)[:, None])
        self.write_pos.add_(1)
        self.history.index_copy_(1, self.write_pos, self.tokens)

    def _record(self, kv_len: int) -> Any:
        """A CUDA graph of one step over `kv_len` positions; None where this GPU's kernels cannot be captured."""
        state = (self.mask, self.tokens, self.position_ids, self.write_pos, self.history)
        before = [part.clone() for part in state]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # lazy initialisation cannot be captured
            self._step(kv_len)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        pool = next((each.pool() for each in self.graphs.values() if each), None)
        try:
            with torch.cuda.graph(graph, pool=pool):
                self._step(kv_len)
        except RuntimeError:  # 4-bit kernels were captured on an H100, and on no other GPU so far
            graph = None
        for part, kept in zip(state, before, strict=True):
            part.copy_(kept)
        return graph


def _rows_that_fit(numbers: int, model: Any) -> int:
    """Rows whose cache, so many `numbers` each, takes 70% of a GPU's free memory; the rest is for reading prompts."""
    if model.device.type != "cuda":
        return sys.maxsize
    free = torch.cuda.mem_get_info(model.device)[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return max(1, int(0.7 * free / (numbers * model.dtype.itemsize)))


@contextmanager
def quick_layers(model: Any) -> Iterator[None]:
    """In the block, layers are set up for one new token a row: grouped attention, and fast products for the device.

    Elsewhere the model computes as it was loaded, so that its losses do not depend on earlier replies.
    """
    attention, llama = model.config._attn_implementation, dict(vars(modeling_llama))
    methods = [(part.__dict__, part.__dict__.get("forward")) for part in model.modules()]
    try:
        model.set_attn_implementation("grouped_sdpa")
        if model.device.type == "cuda":
            _fuse_kernels(model)
        else:
            _thin_products(model)
        yield
    finally:
        model.set_attn_implementation(attention)
        vars(modeling_llama).update(llama)
        for attributes, forward in methods:
            attributes.pop("forward", None)
            if forward is not None:
                attributes["forward"] = forward


def _fuse_kernels(model: Any) -> None:
    """Llama's norms, rotary embeddings and SwiGLU by Liger's kernels, if installed: one launch, not about ten.

    It replaces methods of this model's layers, and names in transformers' module.
    """
    if model.config.model_type == "llama" and util.find_spec("liger_kernel"):
        # It warns of every kind of GPU whose kernels it cannot import.
        logging.getLogger("liger_kernel.backends.registry").setLevel(logging.ERROR)
        from liger_kernel.transformers import apply_liger_kernel_to_llama

        apply_liger_kernel_to_llama(model=model, fused_linear_cross_entropy=False)


def _thin_products(model: Any) -> None:
    """Linear layers on a CPU as (W x')' in place of x W', for one token a row: the same sums.

    Of the 135M model, in float32 on two AMD cores, 2 to 6 rows take half the time, 16 and more up to a quarter less.
    """
    for part in model.modules():
        if type(part) is torch.nn.Linear and part.bias is None:
            part.forward = partial(_thin_product, part)


def _thin_product(layer: Any, x: Any) -> Any:
    if x.dim() != 3 or x.shape[1] > 1 or 6 < x.shape[0] < 16:
        return linear(x, layer.weight)
    return (layer.weight @ x[:, 0].t()).t().contiguous()[:, None]


def _grouped_attention(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: float | None = None, **more: Any
) -> tuple[Any, None]:
    """Attention of one new token a row, with the query heads that share a KV head as positions of one head.

    `query` is (batch, heads, 1, size), `key` and `value` are (batch, KV heads, positions, size).
    """
    batch, heads, length, size = query.shape
    if length > 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **more)
    grouped = query.view(batch, key.shape[1], heads // key.shape[1], size)
    output = scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=scaling)
    return output.reshape(batch, 1, heads, size), None


AttentionInterface.register("grouped_sdpa", _grouped_attention)
AttentionMaskInterface.register("grouped_sdpa", sdpa_mask)
