"""Decoding with steps recorded as CUDA graphs, by a stand-in of CUDA that runs a recorded step when it is replayed."""

import contextlib

import pytest
import torch
from transformers import AutoModelForCausalLM

from helpers.config import Config
from helpers.generation import decoding, sampling
from helpers.generation.decoding import decode
from helpers.generation.sampling import make_sampler, row_keys
from helpers.models.packaged import tiny_folder

SETTINGS = Config.resolve(
    "smoke", {"generation.max_new_tokens": 48, "generation.batch_size": 3, "generation.temperature": 1.0}
).generation
PROMPTS = [[5, 6, 7], [8, 9], [10], [11, 12, 13, 14], [15, 16]]


class Graph:
    def pool(self):
        return None


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(tiny_folder()).eval()


def replies(model, tokenizer):
    found = {}
    decode(model, tokenizer, PROMPTS, SETTINGS, 0, range(len(PROMPTS)), found.__setitem__)
    return found


@pytest.fixture(scope="module")
def plain(model, r1_tokenizer):
    return replies(model, r1_tokenizer)


@pytest.mark.parametrize("works", [True, False])
def test_recorded_steps_choose_the_same_tokens_and_a_gpu_that_cannot_record_them_goes_without(
    model, plain, r1_tokenizer, monkeypatch, works
):
    step, recorded, replayed = decoding.Batch._step, [], []

    @contextlib.contextmanager
    def graph(one, pool=None):
        yield
        if not works:
            raise RuntimeError("operation not permitted when stream is capturing")

    def noted(batch, seen):
        recorded.append((batch, seen))
        return step(batch, seen)

    def replay(self):
        replayed.append(self)
        step(*self.step)

    def made():
        one = Graph()
        one.step = recorded[-1]  # the warm-up, which is the step that is recorded next
        return one

    monkeypatch.setattr(Graph, "replay", replay, raising=False)
    monkeypatch.setattr(decoding.Batch, "_step", noted)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: type("Stream", (), {"wait_stream": lambda *_: None})())
    monkeypatch.setattr(torch.cuda, "current_stream", torch.cuda.Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", made)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    made_batch = decoding.Batch.__init__

    def on_cuda(batch, *args):
        made_batch(batch, *args)
        batch.cuda = True

    monkeypatch.setattr(decoding.Batch, "__init__", on_cuda)
    assert replies(model, r1_tokenizer) == plain
    assert bool(replayed) == works


@pytest.mark.parametrize("spread", [0.5, 4.0])  # of the logits: top-p of the first are more than LIKELIEST tokens
@pytest.mark.parametrize(("temperature", "top_p"), [(0.6, 0.95), (1.0, 0.9)])
def test_the_likeliest_tokens_of_a_row_give_the_draw_of_the_whole_vocabulary(monkeypatch, spread, temperature, top_p):
    logits = spread * torch.randn(32, 20_000, generator=torch.Generator().manual_seed(1))
    where = (row_keys(7, torch.arange(32))[:, None], torch.arange(32)[:, None])
    sample = make_sampler(SETTINGS.model_copy(update={"temperature": temperature, "top_p": top_p}))
    drawn = sample(logits, *where)
    monkeypatch.setattr(sampling, "LIKELIEST", 1)  # one is never enough
    assert torch.equal(drawn, sample(logits, *where))
