"""Decoding many prompts side by side, faster than `model.generate`, with the same model and the same tokens.

`model.generate` goes on with a batch until its longest reply has ended, copies its cache at every step, repeats the
keys for every query head that shares them, and on a GPU starts some thousand kernels a step from Python. Here a reply
that has ended gives its row to the next prompt, or is left out; what all prompts begin with is read once; the cache is
written in place and attended by groups of heads; and on CUDA a step is recorded once for each length, then replayed.
"""

import logging
import math
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import util
from itertools import takewhile
from typing import Any

import torch
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    DynamicCache,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.masking_utils import sdpa_mask

from helpers.config import GenerationSettings
from helpers.losses import left_padded
from helpers.prompts.families import end_tokens

STEPS = 16  # between two looks at what was chosen: each look waits for the GPU
PREFILL = 16384  # positions of prompts that go through the model together


def can_decode(model: Any) -> bool:
    """Whether `decode` knows this model's attention: every layer sees all that came before, as in Llama."""
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
    """Reply to the prompts (token ids) that `order` names, longest first, `settings.batch_size` at a time.

    `done` is called for each as its reply ends, with its index and the reply's token ids, of which the last is an
    end token if the reply ended by itself. `look` is told now and then how many tokens each reply has that was begun
    and is not done. What is sampled for a prompt depends on the seed and its index alone, not on what is decoded beside
    it.
    """
    waiting = deque(sorted(order, key=lambda i: -len(prompts[i])))  # a batch has no room for a longer one later
    with torch.inference_mode(), quick_layers(model):
        batch = Batch(model, prompts, settings, seed)
        ends = end_tokens(model, tokenizer)
        while waiting or batch.working:
            batch.fill(waiting)
            batch.make_room()
            batch.steps()
            for i, reply in batch.take_ended(ends):
                done(i, reply)
            if look:
                look({i: batch.at + 1 - begin for i, _, begin in batch.working.values()})
            if not waiting:
                batch.shrink()


class Layer(CacheLayerMixin):
    """One layer's keys and values, (rows, heads, positions, size), of which the first `seen` positions are attended."""

    def __init__(self, shape: tuple[int, int, int, int], write: Any, dtype: Any) -> None:
        super().__init__()
        self.keys, self.values = (torch.zeros(shape, dtype=dtype, device=write.device) for _ in range(2))
        self.write, self.seen, self.is_initialized = write, shape[2], True

    def lazy_initialization(self, key_states: Any, value_states: Any) -> None:
        """Nothing is left to do."""

    def update(self, key_states: Any, value_states: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
        self.keys.index_copy_(2, self.write, key_states)
        self.values.index_copy_(2, self.write, value_states)
        return self.keys[:, :, : self.seen], self.values[:, :, : self.seen]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.seen, 0

    def get_seq_length(self) -> int:
        return self.seen

    def get_max_length(self) -> int:
        return self.keys.shape[2]


class Batch:
    """Replies being written side by side, all at the same position `at` of the cache, each with a beginning of its own.

    A row's keys and values carry its own count of tokens, not the cache's, so that a prompt may lie anywhere, and what
    the mask hides may lie between its tokens.
    """

    def __init__(self, model: Any, prompts: Sequence[list[int]], settings: GenerationSettings, seed: int) -> None:
        self.model, self.prompts, self.limit, self.seed = model, prompts, settings.max_new_tokens, seed
        self.choose = _chooser(settings)
        self.cuda = model.device.type == "cuda"
        # Attention goes over whole blocks of positions. On CUDA each count of them is recorded: few and large ones.
        self.block = 256 if self.cuda else 64
        self.prefix = self._read_prefix()
        # So many that there is room whenever the first position in use lies in the first block.
        positions = (-(-(max(map(len, prompts)) + self.limit + STEPS) // self.block) + 1) * self.block
        device, config = model.device, model.config.get_text_config()
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (config.num_key_value_heads, positions, size)
        most = _rows_that_fit(2 * config.num_hidden_layers * math.prod(shape), model)
        rows = min(settings.batch_size, len(prompts), most)
        self.at, self.write = 0, torch.zeros(1, dtype=torch.long, device=device)
        self.layers = [Layer((rows, *shape), self.write, model.dtype) for _ in range(config.num_hidden_layers)]
        # Added to the attention's scores: 0 where a row may look.
        self.hidden = torch.finfo(model.dtype).min
        self.mask = torch.full((rows, 1, 1, positions), self.hidden, dtype=model.dtype, device=device)
        # Of each row: the newest token, how many came before it, and what its sampling hangs on.
        self.tokens, self.depth, self.key = (torch.zeros(rows, 1, dtype=torch.long, device=device) for _ in range(3))
        self.history = torch.zeros(rows, positions, dtype=torch.long, device=device)
        self.working: dict[int, tuple[int, int, int]] = {}  # row: prompt, its first position, its reply's first
        self.graphs: dict[int, Any] = {}

    def fill(self, waiting: deque[int]) -> None:
        """Let free rows begin with prompts that wait, placed so that they end where the other rows are now."""
        free = [row for row in range(len(self.tokens)) if row not in self.working]
        while free and waiting:
            width = len(self.prompts[waiting[0]])
            count = max(1, min(len(free), len(waiting), PREFILL // width))
            self._begin(free[:count], [waiting.popleft() for _ in range(count)])
            free = free[count:]

    def make_room(self) -> None:
        """Move everything to the left by what lies before the first position in use, where that spares a block."""
        spare = min(first for _, first, _ in self.working.values())
        if spare < self.block:  # then there is room: see how many positions there are
            return
        halves = [(half, 2) for layer in self.layers for half in (layer.keys, layer.values)]
        for part, positions in (*halves, (self.mask, 3), (self.history, 1)):
            kept = part.shape[positions] - spare
            part.narrow(positions, 0, kept).copy_(part.narrow(positions, spare, kept).clone())
        self.mask[..., -spare:] = self.hidden
        self.working = {row: (i, a - spare, b - spare) for row, (i, a, b) in self.working.items()}
        self._go_to(self.at - spare)

    def steps(self) -> None:
        """Go `STEPS` tokens on in every row."""
        for _ in range(STEPS):
            seen = (self.at // self.block + 1) * self.block
            if self.cuda and seen not in self.graphs:
                self.graphs[seen] = self._record(seen)
            if graph := self.graphs.get(seen):
                graph.replay()
            else:
                self._step(seen)
            self.at += 1

    def take_ended(self, stops: frozenset[int]) -> list[tuple[int, list[int]]]:
        """Free the rows whose replies have ended, with one of `stops` or by length; return prompts and replies."""
        recent = self.history[:, self.at - STEPS : self.at + 1].tolist()  # all rows at once, and no more than is new
        ended = []
        for row, (i, _, begin) in list(self.working.items()):
            if not stops.isdisjoint(recent[row]) or self.at + 1 - begin >= self.limit:
                reply = self.history[row, begin : min(self.at + 1, begin + self.limit)].tolist()
                length = next((n for n, token in enumerate(reply, 1) if token in stops), len(reply))
                ended.append((i, reply[:length]))
                del self.working[row]
        return ended

    def shrink(self) -> None:
        """Leave out the rows that are done, once they are a quarter; on CUDA, which has to record anew, half."""
        if not self.working or len(self.working) > len(self.tokens) * (0.5 if self.cuda else 0.75):
            return
        rows = sorted(self.working)
        where = torch.tensor(rows, device=self.mask.device)
        for layer in self.layers:
            layer.keys, layer.values = layer.keys[where], layer.values[where]
        self.mask, self.history = self.mask[where], self.history[where]
        self.tokens, self.depth, self.key = self.tokens[where], self.depth[where], self.key[where]
        self.working = {new: self.working[old] for new, old in enumerate(rows)}
        self.graphs.clear()

    def _read_prefix(self) -> list[Any]:
        """The keys and values of the tokens that all prompts begin with, once: [(keys, values)] by layer."""
        first = self.prompts[0]
        shared = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*self.prompts, strict=False)))
        # Of each prompt at least one token has to go through the model by itself.
        ids = torch.tensor([first[: min(shared, min(map(len, self.prompts)) - 1)]], device=self.model.device)
        cache = DynamicCache(config=self.model.config)
        if ids.shape[1]:
            self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return [(layer.keys, layer.values) for layer in cache.layers if layer.is_initialized]

    def _begin(self, rows: list[int], asked: list[int]) -> None:
        device, count = self.mask.device, len(rows)
        shared = self.prefix[0][0].shape[2] if self.prefix else 0
        ids, own = (x.to(device) for x in left_padded([self.prompts[i][shared:] for i in asked], 0))
        mask = torch.cat([torch.ones(count, shared, dtype=own.dtype, device=device), own], dim=1)
        self._go_to(max(self.at, mask.shape[1]))
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
        where, span = torch.tensor(rows, device=device), slice(self.at - mask.shape[1], self.at)
        for layer, new in zip(self.layers, cache.layers, strict=True):
            layer.keys[where, :, span], layer.values[where, :, span] = new.keys, new.values
        self.mask[where] = self.hidden
        self.mask[where, 0, 0, span] = (1 - mask).to(self.mask.dtype) * self.hidden
        self.depth[where, 0] = mask.sum(1)
        self.key[where, 0] = _mixed(torch.tensor(asked, device=device) + _mixed(torch.tensor(self.seed, device=device)))
        chosen = self.choose(output.logits[:, -1].float(), self.key[where], self.depth[where])
        self.tokens[where, 0] = self.history[where, self.at] = chosen
        self.working |= {row: (i, span.start, self.at) for row, i in zip(rows, asked, strict=True)}

    def _go_to(self, position: int) -> None:
        self.at = position
        self.write.fill_(position)

    def _step(self, seen: int) -> None:
        self.mask.index_fill_(3, self.write, 0.0)
        for layer in self.layers:
            layer.seen = seen
        output = self.model(
            input_ids=self.tokens,
            attention_mask=self.mask[..., :seen],
            position_ids=self.depth,
            past_key_values=Cache(layers=self.layers),
            use_cache=True,
        )
        self.depth.add_(1)
        self.tokens.copy_(self.choose(output.logits[:, -1].float(), self.key, self.depth)[:, None])
        self.write.add_(1)
        self.history.index_copy_(1, self.write, self.tokens)

    def _record(self, seen: int) -> Any:
        """A CUDA graph of one step over `seen` positions; None where this GPU's kernels cannot be recorded."""
        state = (self.mask, self.tokens, self.depth, self.write, self.history)
        before = [part.clone() for part in state]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries set themselves up on the first pass, which cannot be recorded
            self._step(seen)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        pool = next((each.pool() for each in self.graphs.values() if each), None)
        try:
            with torch.cuda.graph(graph, pool=pool):
                self._step(seen)
        except RuntimeError:  # bitsandbytes' 4-bit kernels were recorded on an H100, and on no other GPU so far
            graph = None
        for part, kept in zip(state, before, strict=True):
            part.copy_(kept)
        return graph


def _chooser(settings: GenerationSettings) -> Callable[[Any, Any, Any], Any]:
    """From logits, (rows, vocabulary) in float32, and each row's key and depth, (rows, 1), to token ids, (rows,).

    Sampling adds Gumbel noise to the scores and takes the highest, which draws from their softmax (Gumbel-max). The
    noise is a hash of key, depth and token id, so a row's tokens are the same in whatever company it is decoded.
    """
    if settings.temperature == 0:
        return lambda logits, key, depth: logits.argmax(-1)
    warpers = LogitsProcessorList([TemperatureLogitsWarper(settings.temperature)])
    if settings.top_p < 1:
        warpers.append(TopPLogitsWarper(settings.top_p))

    def choose(logits: Any, key: Any, depth: Any) -> Any:
        each = _mixed(key + depth) + torch.arange(logits.shape[-1], device=logits.device)
        uniform = ((_mixed(each) & 0x7FFFFF) + 0.5) / 2**23  # all of them float32, none 0 or 1
        return (warpers(None, logits) - (-uniform.log()).log()).argmax(-1)

    return choose


def _mixed(x: Any) -> Any:
    """SplitMix64 (Steele, Lea and Flood 2014) of int64 tensors: neighbouring numbers to unrelated ones."""
    x = x * -0x61C8864680B583EB  # its golden gamma, as a signed number; shifts are of the unsigned one
    x = (x ^ ((x >> 30) & (2**34 - 1))) * -0x40A7B892E31B1A47
    x = (x ^ ((x >> 27) & (2**37 - 1))) * -0x6B2FB644ECCEEE15
    return x ^ ((x >> 31) & (2**33 - 1))


def _rows_that_fit(numbers: int, model: Any) -> int:
    """Rows whose cache, so many `numbers` each, takes 70% of a GPU's free memory; the rest is for reading prompts."""
    if model.device.type != "cuda":
        return sys.maxsize
    free = torch.cuda.mem_get_info(model.device)[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return max(1, int(0.7 * free / (numbers * model.dtype.itemsize)))


@contextmanager
def grouped_attention(model: Any) -> Iterator[None]:
    """In the block one new token a row is attended by groups of heads, without a copy of keys for every query head."""
    AttentionInterface.register("grouped_sdpa", _grouped_attention)
    AttentionMaskInterface.register("grouped_sdpa", sdpa_mask)
    before = model.config._attn_implementation
    model.set_attn_implementation("grouped_sdpa")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def quick_layers(model: Any) -> Iterator[None]:
    """In the block a model's layers are set up for one new token a row: by groups of heads, and by the device.

    Only there: elsewhere the model computes as it was loaded, so that its losses do not hang on whether it has replied
    before.
    """
    methods_before = [(part.__dict__, part.__dict__.get("forward")) for part in model.modules()]
    with grouped_attention(model), _fused_kernels(model) if model.device.type == "cuda" else _thin_products(model):
        try:
            yield
        finally:
            for attributes, forward in methods_before:
                attributes.pop("forward", None)
                if forward is not None:
                    attributes["forward"] = forward


@contextmanager
def _fused_kernels(model: Any) -> Iterator[None]:
    """A Llama's norms, rotations and SwiGLU by Liger's kernels, where Liger is installed.

    Each is one kernel in place of about ten, and with one token a row a kernel costs its start.
    """
    if model.config.model_type != "llama" or not util.find_spec("liger_kernel"):
        yield
        return
    # It warns of every kind of card whose kernels it cannot import, before it takes the right ones.
    logging.getLogger("liger_kernel.backends.registry").setLevel(logging.ERROR)
    from liger_kernel.transformers import apply_liger_kernel_to_llama

    # Beside the methods of the layers that are there, it replaces names in transformers' module.
    names = vars(sys.modules["transformers.models.llama.modeling_llama"])
    before = dict(names)
    apply_liger_kernel_to_llama(model=model, fused_linear_cross_entropy=False)
    try:
        yield
    finally:
        names.update(before)


@contextmanager
def _thin_products(model: Any) -> Iterator[None]:
    """Linear layers on a CPU, of a few rows with one token each, as (W x')' in place of x W'.

    The same sums. From 16 rows on, the 135M model's matrices take about a quarter less time so and its head half as
    much (float32, two AMD cores); of 8 rows they take more.
    """
    for part in model.modules():
        if type(part) is torch.nn.Linear and part.bias is None:
            part.forward = partial(_thin_product, part)
    yield


def _thin_product(layer: Any, x: Any) -> Any:
    if x.dim() != 3 or x.shape[1] > 1 or x.shape[0] < 16:
        return linear(x, layer.weight)
    return (layer.weight @ x[:, 0].t()).t().contiguous()[:, None]


def _grouped_attention(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: float | None = None, **more: Any
) -> tuple[Any, None]:
    """Attention of one new token a row: the query heads that share a key are laid out as positions of one head.

    `query` is (batch, heads, 1, size), `key` and `value` are (batch, key heads, positions, size).
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    batch, heads, length, size = query.shape
    if length > 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **more)
    grouped = query.view(batch, key.shape[1], heads // key.shape[1], size)
    output = scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=scaling)
    return output.reshape(batch, 1, heads, size), None
