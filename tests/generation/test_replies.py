"""Replies: their order and their ends, kept ones and streams; decoding against `model.generate`, and sampling."""

import copy
import json
import sys
import threading
from types import ModuleType, SimpleNamespace

import pytest
import torch
from scipy.stats import chisquare
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM
from transformers.models.llama import modeling_llama

from helpers.config import GenerationSettings
from helpers.generation import decoding
from helpers.generation import replies as generation
from helpers.generation.decoding import can_decode, decode
from helpers.generation.replies import generate, stream
from helpers.generation.sampling import make_sampler
from helpers.losses import left_padded

GREEDY = GenerationSettings(temperature=0, top_p=1, max_new_tokens=16, batch_size=1)
WARM = GREEDY.model_copy(update={"temperature": 1.0, "batch_size": 4})


@pytest.fixture(scope="module")
def chatty(r1_tokenizer):
    """A random model that is sure of itself: unlike the tiny one it does not repeat the prompt's last token."""
    torch.manual_seed(1)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(r1_tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.5,
            eos_token_id=r1_tokenizer.eos_token_id,
            pad_token_id=r1_tokenizer.pad_token_id,
        )
    )
    return model.eval()


@pytest.fixture(scope="module")
def prompts(sample_rows, r1_tokenizer):
    """Seven prompts, short and long mixed."""
    questions = [row["Question"][:length] for row, length in zip(sample_rows, [40, 7, 90, 3, 60, 20, 75], strict=False)]
    return [r1_tokenizer(question, add_special_tokens=False)["input_ids"] for question in questions]


@pytest.fixture(scope="module")
def ending(chatty, prompts, r1_tokenizer):
    """The same model, but where its reply to prompts[0] had a sixth token it says that the reply ends."""
    model = copy.deepcopy(chatty)
    with torch.no_grad():
        output = model.generate(torch.tensor([prompts[0]]), do_sample=False, max_new_tokens=6)
        sixth = output[0, -1].item()
        assert sixth not in output[0, len(prompts[0]) : -1]
        head, eos = model.lm_head.weight, r1_tokenizer.eos_token_id
        head[[sixth, eos]] = head[[eos, sixth]].clone()
    return model


def test_replies_come_in_the_order_of_the_prompts(chatty, prompts, r1_tokenizer):
    alone = generate(chatty, r1_tokenizer, prompts, GREEDY, seed=1)
    assert len({reply.text for reply in alone}) == len(prompts)
    for size in (2, 4, 16):
        together = generate(chatty, r1_tokenizer, prompts, GREEDY.model_copy(update={"batch_size": size}), seed=1)
        assert together == alone
    ids = torch.tensor([prompts[3]])
    output = chatty.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=16)
    assert alone[3].text == r1_tokenizer.decode(output[0, len(prompts[3]) :])
    assert generate(chatty, r1_tokenizer, [], GREEDY, seed=1) == []


def test_the_faster_decoding_chooses_the_tokens_of_the_plain_one(chatty, prompts, r1_tokenizer):
    """Prompts padded together, of which the shortest has most positions to be kept from looking at."""
    ids, mask = left_padded(prompts, r1_tokenizer.pad_token_id)
    plain = chatty.generate(input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=16)[:, ids.shape[1] :]
    replies = generate(chatty, r1_tokenizer, prompts, GREEDY.model_copy(update={"batch_size": len(prompts)}), seed=1)
    assert [reply.text for reply in replies] == [r1_tokenizer.decode(row) for row in plain]
    assert chatty.config._attn_implementation == "sdpa"


def test_a_gpus_kernels_go_when_decoding_is_over(chatty, monkeypatch):
    """With a stand-in for Liger, which needs a GPU: it replaces the same names and methods."""
    norm, before = chatty.model.norm, vars(modeling_llama).copy()
    applied = []

    def apply_liger_kernel_to_llama(model, fused_linear_cross_entropy):
        assert not fused_linear_cross_entropy
        applied.append(model)
        modeling_llama.apply_rotary_pos_emb = modeling_llama.LlamaRMSNorm = None
        model.model.norm.forward = None

    stand_in = ModuleType("liger_kernel.transformers")
    stand_in.apply_liger_kernel_to_llama = apply_liger_kernel_to_llama
    monkeypatch.setitem(sys.modules, "liger_kernel", ModuleType("liger_kernel"))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", stand_in)
    monkeypatch.setattr(decoding.util, "find_spec", lambda name: name == "liger_kernel")
    with decoding.quick_layers(chatty):
        assert not applied  # on a CPU
    monkeypatch.setattr(type(chatty), "device", torch.device("cuda"))
    with decoding.quick_layers(chatty):
        assert norm.forward is None
    assert applied == [chatty]
    assert vars(modeling_llama) == before
    assert not any("forward" in vars(part) for part in chatty.modules())
    monkeypatch.setattr(decoding.util, "find_spec", lambda name: None)
    with decoding.quick_layers(chatty):
        assert len(applied) == 1


@pytest.mark.parametrize(("rows", "length"), [(3, 1), (9, 1), (16, 1), (20, 1), (16, 4)])
def test_a_cpus_products_are_those_of_the_plain_layers(chatty, rows, length):
    head = chatty.lm_head
    x = torch.randn(rows, length, head.in_features)
    plain = head(x)
    with decoding.quick_layers(chatty):
        assert "forward" in vars(head)
        thin = head(x)
    assert thin.is_contiguous()
    torch.testing.assert_close(thin, plain)
    assert not any("forward" in vars(part) for part in chatty.modules())


def test_rows_that_end_make_room_for_others_and_no_token_changes(chatty, prompts, r1_tokenizer, monkeypatch):
    """Replies of many lengths, so that rows are filled again, moved along the cache, and left out at the end."""

    def plainly(model, prompt):
        ids = torch.tensor([prompt])
        output = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=160)
        return output[0, len(prompt) :].tolist()

    replies = [plainly(chatty, prompt) for prompt in prompts]
    ends = {token: {reply.index(token) for reply in replies if token in reply} for token in set().union(*replies)}
    last = max(ends, key=lambda token: len(ends[token]))
    assert len(ends[last]) >= 3
    model, eos = copy.deepcopy(chatty), r1_tokenizer.eos_token_id
    with torch.no_grad():
        model.lm_head.weight[[last, eos]] = model.lm_head.weight[[eos, last]].clone()
    moves = {"compact_cache": 0, "drop_free_rows": 0}

    def counted(name, usual):
        def method(self):
            before = (self.cursor, len(self.tokens))
            usual(self)
            moves[name] += (self.cursor, len(self.tokens)) != before

        return method

    for name in moves:
        monkeypatch.setattr(decoding.Batch, name, counted(name, getattr(decoding.Batch, name)))
    settings = GREEDY.model_copy(update={"batch_size": 5, "max_new_tokens": 160})
    expected = [plainly(model, prompt) for prompt in prompts] * 3
    together = generate(model, r1_tokenizer, prompts * 3, settings, seed=1)
    assert [r.text for r in together] == [r1_tokenizer.decode([t for t in reply if t != eos]) for reply in expected]
    assert [r.finished for r in together] == [eos in reply for reply in expected]
    assert min(moves.values()) > 0


def test_what_all_prompts_begin_with_is_read_once(chatty, prompts, r1_tokenizer):
    widths = []
    handle = chatty.register_forward_pre_hook(
        lambda _, __, named: widths.append(named["input_ids"].shape), with_kwargs=True
    )
    shared = prompts[2]
    try:
        together = generate(chatty, r1_tokenizer, [shared + p for p in prompts], GREEDY, seed=1)
    finally:
        handle.remove()
    assert widths[0][0] == 1
    assert widths[0][1] >= len(shared)
    assert sum(rows * width for rows, width in widths[1:] if width > 1) < len(prompts) * len(shared)
    for prompt, reply in zip(prompts, together, strict=True):
        assert generate(chatty, r1_tokenizer, [shared + prompt], GREEDY, seed=1) == [reply]
    same = generate(chatty, r1_tokenizer, [shared, shared], GREEDY, seed=1)
    assert same == generate(chatty, r1_tokenizer, [shared], GREEDY, seed=1) * 2


def test_a_model_that_does_not_see_everything_goes_through_transformers(r1_tokenizer, prompts):
    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    near = MistralConfig(
        vocab_size=len(r1_tokenizer), num_key_value_heads=2, sliding_window=8, initializer_range=0.5, **sizes
    )
    model = MistralForCausalLM(near).eval()
    assert not can_decode(model)
    [reply] = generate(model, r1_tokenizer, prompts[2:3], GREEDY, seed=1)
    ids = torch.tensor([prompts[2]])
    output = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=16)
    assert reply.text == r1_tokenizer.decode(output[0, len(prompts[2]) :])


def test_prompts_are_padded_on_the_left():
    ids, mask = left_padded([[5, 6, 7], [8]], pad=0)
    assert ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]


def test_a_reply_ends_at_the_end_of_sequence_token_and_says_so(chatty, ending, prompts, r1_tokenizer):
    whole = generate(chatty, r1_tokenizer, prompts[:1], GREEDY, seed=1)[0]
    assert (whole.tokens, whole.finished) == (16, False)
    for size in (1, 4):
        replies = generate(ending, r1_tokenizer, prompts, GREEDY.model_copy(update={"batch_size": size}), seed=1)
        assert (replies[0].tokens, replies[0].finished) == (6, True)
        assert replies[0].text
        assert whole.text.startswith(replies[0].text)
        assert r1_tokenizer.eos_token not in replies[0].text
        assert r1_tokenizer.pad_token not in replies[0].text
        assert not all(reply.finished for reply in replies)
        assert all(reply.tokens == 16 for reply in replies if not reply.finished)
    for limit, finished in ((5, False), (6, True)):
        cut = GREEDY.model_copy(update={"max_new_tokens": limit})
        [reply] = generate(ending, r1_tokenizer, prompts[:1], cut, seed=1)
        assert (reply.text, reply.tokens, reply.finished) == (replies[0].text, limit, finished)
    made = {}  # what is kept and counted ends there too
    decode(ending, r1_tokenizer, prompts, GREEDY, 1, [0], made.__setitem__)
    assert made[0].index(r1_tokenizer.eos_token_id) == len(made[0]) - 1


def test_sampling_depends_on_the_seed_and_the_place_and_not_on_the_company(base, prompts, r1_tokenizer):
    first, again, other = (generate(base, r1_tokenizer, prompts, WARM, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    for size in (1, 7):
        assert generate(base, r1_tokenizer, prompts, WARM.model_copy(update={"batch_size": size}), seed=1) == first
    twice = generate(base, r1_tokenizer, prompts[:1] * 2, WARM, seed=1)
    assert twice[0] == first[0]
    assert twice[0] != twice[1]


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (1.0, 0.8)])
def test_tokens_are_drawn_from_the_distribution_that_the_settings_ask_for(temperature, top_p):
    logits, draws = torch.tensor([2.0, 1.5, 1.0, 0.0, -1.0]), 20_000
    settings = GREEDY.model_copy(update={"temperature": temperature, "top_p": top_p})
    depth, key = torch.arange(draws)[:, None], torch.full((draws, 1), 12345)
    drawn = make_sampler(settings)(logits.expand(draws, -1), key, depth)
    expected = (logits / temperature).softmax(0)
    order = expected.sort(descending=True)
    kept = order.indices[: int((order.values.cumsum(0) < top_p).sum()) + 1]  # the fewest that make up top_p
    expected = torch.zeros(5).index_copy(0, kept, expected[kept])
    counts = torch.bincount(drawn, minlength=5)
    assert counts[expected == 0].sum() == 0
    seen = expected > 0
    share = expected[seen] / expected.sum()
    assert chisquare(counts[seen], share.double() / share.double().sum() * draws).pvalue > 0.001
    other = make_sampler(settings)(logits.expand(draws, -1), key + 1, depth.flip(0))
    assert (drawn == other).double().mean() == pytest.approx((share**2).sum().item(), abs=0.02)  # as if independent


def test_the_order_that_prompts_are_named_in_changes_no_reply(base, prompts, r1_tokenizer):
    """Shortest first too, where a longer prompt joins shorter ones that are being replied to."""
    settings, found = GREEDY.model_copy(update={"batch_size": 2}), []
    for order in (sorted(range(len(prompts)), key=lambda i: len(prompts[i])), range(len(prompts))):
        replies = {}
        decoding.decode(base, r1_tokenizer, prompts, settings, 0, order, replies.__setitem__)
        found.append(replies)
    assert found[0] == found[1]


def test_transformers_leaves_no_token_out_that_the_settings_leave_in(base, r1_tokenizer):
    """Of a model that knows nothing all tokens are as likely: its own default would draw from 50 of them."""
    drawn, settings = {}, WARM.model_copy(update={"temperature": 1.0, "max_new_tokens": 1, "batch_size": 200})
    generation.generate_in_batches(base, r1_tokenizer, [[5]] * 200, settings, 0, range(200), drawn.__setitem__)
    assert len({tokens[0] for tokens in drawn.values()}) > 100


@pytest.mark.parametrize("settings", [GREEDY, WARM], ids=["greedy", "sampled"])
def test_replies_that_were_kept_are_not_made_again(chatty, prompts, r1_tokenizer, tmp_path, settings, monkeypatch):
    kept = tmp_path / "kept.jsonl"
    whole = generate(chatty, r1_tokenizer, prompts, settings, 1, kept=kept, identity="a")
    lines = kept.read_text().splitlines(keepends=True)
    assert len(lines) == 1 + len(prompts)
    kept.write_text("".join(lines[:4]) + lines[4][:7])  # killed in the middle of writing the fourth
    asked = []
    usual = generation.decode

    def noted(model, tokenizer, prompts, settings, seed, order, *told):
        asked.extend(order)
        usual(model, tokenizer, prompts, settings, seed, order, *told)

    monkeypatch.setattr(generation, "decode", noted)
    assert generate(chatty, r1_tokenizer, prompts, settings, 1, kept=kept, identity="a") == whole
    assert sorted(asked) == sorted(set(range(len(prompts))) - {json.loads(line)[0] for line in lines[1:4]})
    asked.clear()
    assert generate(chatty, r1_tokenizer, prompts, settings, 1, kept=kept, identity="a") == whole
    assert asked == []
    for change in ({"identity": "b"}, {"seed": 2}, {"prompts": prompts[:3]}):
        generate(**{"model": chatty, "tokenizer": r1_tokenizer, "prompts": prompts, "settings": settings, "seed": 1,
                    "kept": kept, "identity": "a"} | change)  # fmt: skip
        assert len(asked) == len(change.get("prompts", prompts))
        asked.clear()


def test_a_stream_is_the_reply_in_pieces(chatty, ending, prompts, r1_tokenizer):
    for model in (chatty, ending):
        for prompt in prompts[:3]:
            pieces = list(stream(model, r1_tokenizer, prompt, GREEDY, seed=1))
            [reply] = generate(model, r1_tokenizer, [prompt], GREEDY, seed=1)
            assert "".join(pieces) == reply.text
            assert len(pieces) > 1
            assert all(pieces)


def test_leaving_a_stream_stops_the_model(chatty, prompts, r1_tokenizer):
    steps = []
    handle = chatty.register_forward_hook(lambda *_: steps.append(1))
    before = threading.active_count()
    try:
        for _piece in stream(chatty, r1_tokenizer, prompts[0], GREEDY.model_copy(update={"max_new_tokens": 1900}), 1):
            break
    finally:
        handle.remove()
    assert threading.active_count() == before
    assert 0 < len(steps) < 1000


def test_a_failure_inside_a_stream_reaches_the_reader(r1_tokenizer):
    def generate(**_):
        raise RuntimeError("out of memory")

    ends = SimpleNamespace(eos_token_id=None)
    model = SimpleNamespace(device=torch.device("meta"), generate=generate, generation_config=ends)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(stream(model, r1_tokenizer, [1, 2], GREEDY, seed=1))
