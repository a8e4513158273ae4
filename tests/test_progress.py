"""The line that says how far a long step is, and how much longer it will take."""

import json
import random
from types import SimpleNamespace

import nbformat
import pytest
from nbclient import NotebookClient
from transformers import LlamaConfig, LlamaForCausalLM

from helpers import PROJECT_ROOT, generation, progress, remaining
from helpers.config import GenerationSettings
from helpers.generation import generate
from helpers.progress import PROGRESS_FILE, Progress
from helpers.remaining import Remaining

STEP = 16  # tokens in each row between two looks
LIMIT = 1024


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still; `clock.now` sets it."""
    clock = SimpleNamespace(now=100.0)
    for module in (progress, remaining):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
def lines(monkeypatch, tmp_path):
    """All lines that the runner would have read."""
    lines, usual = [], json.dumps

    def dumps(said, **how):
        if isinstance(said, dict) and said.keys() == {"line", "done", "total"}:
            lines.append(said["line"])
        return usual(said, **how)

    monkeypatch.setenv(PROGRESS_FILE, str(tmp_path / "progress.json"))
    monkeypatch.setattr(progress.json, "dumps", dumps)
    return lines


def decoded(clock, lengths, rows, limit=LIMIT, seconds=1.0):
    """What is said after each look, with the seconds from there to the end; `STEP` tokens take `seconds`."""
    told, said = Remaining(len(lengths), limit), []
    waiting, working = list(range(len(lengths)))[::-1], {}
    while waiting or working:
        while waiting and len(working) < rows:
            working[waiting.pop()] = 0
        clock.now += seconds
        for i in list(working):
            working[i] += STEP
            if working[i] >= min(lengths[i], limit):
                told.end(min(lengths[i], limit), lengths[i] <= limit)
                del working[i]
        told.look(working.values())
        said.append((clock.now, told.left()))
    return [(clock.now - at, line) for at, line in said]


def test_without_a_better_estimate_the_rest_goes_on_like_what_is_done(clock, lines):
    with Progress(10, "rows", done=2) as p:
        clock.now += 6
        p.update(2, "loss 1.50")
        clock.now += 0.4  # sooner than anybody sees it
        p.update()
        clock.now += 5.6
        p.update(5)
    assert lines == [
        "2/10 rows · 0 s",
        "4/10 rows · 6 s · loss 1.50 · about 18 s left",  # 3 s each
        "10/10 rows · 12 s · loss 1.50",
        "10/10 rows · 12 s · loss 1.50",
    ]


def test_a_better_estimate_is_asked_for_whenever_somebody_looks_and_not_at_the_end(clock, lines):
    """Also not at the end of what was stopped in the middle."""
    asked = []

    def left():
        asked.append(clock.now)
        return f"at most {len(asked)} s left"

    with Progress(10, "rows", left=left) as p:
        clock.now += 0.3
        p.update()
        clock.now += 0.3
        p.update(0, "5 tokens/s")
    assert lines == [
        "0/10 rows · 0 s · at most 1 s left",
        "1/10 rows · 1 s · 5 tokens/s · at most 2 s left",
        "1/10 rows · 1 s · 5 tokens/s",
    ]
    assert asked == [100.0, 100.6]


def test_on_a_terminal_the_bar_gives_the_same_estimate_and_none_of_its_own(clock, monkeypatch, capsys):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    with Progress(4, "replies", left=lambda: "at most 7 s left") as p:
        clock.now += 1
        p.update(1, "210 tokens/s")
    said = capsys.readouterr().err
    assert "1/4 [00:00, 210 tokens/s · at most 7 s left]" in said
    assert "<" not in said
    assert "it/s" not in said


def test_replies_that_all_run_to_the_limit_are_foreseen_exactly_and_as_a_bound(clock):
    """Ten in rows of four: 4, 4 and 2, each a whole 64 looks, however few the last ones are."""
    for left, line in decoded(clock, [LIMIT + 1] * 10, rows=4)[:-1]:
        assert line == f"at most {left:.0f} s left"
    [first, *_] = decoded(clock, [LIMIT + 1] * 10, rows=4)
    assert first == (3 * 64 - 1, "at most 191 s left")


def test_replies_of_one_length_are_foreseen_exactly_once_the_first_have_ended(clock):
    said = decoded(clock, [160] * 10, rows=4)
    assert len(said) == 30
    # As if to the limit of 1024, which takes 64 looks: what is left of them, and two more rounds.
    assert [line for _, line in said[:9]] == [f"at most {64 - look + 128} s left" for look in range(1, 10)]
    assert [line for _, line in said[9:]] == [f"about {left:.0f} s left" for left, _ in said[9:]]


def test_the_short_ones_that_end_first_do_not_stand_for_all(clock):
    """By hand: eight rows at a token a second; one ended with 16 tokens, one with 32, six go on and have 32."""
    told = Remaining(8, 1000)
    for seconds, working in ((16, 7), (32, 6)):
        clock.now = 100.0 + seconds
        told.end(seconds, True)
        told.look([seconds] * working)
    assert told.speed() == "8 tokens/s"  # (16 + 7 * 32) / 32 = 7.5
    # Longer than 16 are 7 / 8, than 32 6 / 8, than 32 + t 6 / 8 * 0.75^(t / 32); of the six the last is the one with
    # the smallest of the multiples 0.5, 1.5, ... 5.5 of 0.618 modulo 1, 4.5 * 0.618 - 2 = 0.781, 0.545, 0.163, 0.927,
    # 0.309, 0.399: t = 32 * ln 0.163 / ln 0.75 = 201.8. A mean of the two that ended would have said 0 s.
    assert told.left() == "about 202 s left"


@pytest.mark.parametrize(
    "draw",
    [
        lambda chance: chance.expovariate(1 / 300),
        lambda chance: chance.lognormvariate(5.5, 0.6),
        lambda chance: chance.gauss(100, 20) if chance.random() < 0.7 else chance.gauss(800, 100),
        lambda chance: chance.uniform(20, 600),
    ],
    ids=["exponential", "lognormal", "two kinds", "uniform"],
)
def test_replies_of_unequal_length_are_foreseen_within_a_bound(clock, draw):
    """From a third of the time on: within 30% of the whole each time, and within 8% in the mean over ten times."""
    errors = []
    for seed in range(10):
        chance = random.Random(seed)
        said = decoded(clock, [max(1, int(draw(chance))) for _ in range(300)], rows=30)
        for share in (1 / 3, 1 / 2, 3 / 4):
            left, line = said[int(share * len(said))]
            assert line.startswith("about ")
            errors.append((float(line.split()[1]) - left) / len(said))
    assert max(map(abs, errors)) < 0.3
    assert abs(sum(errors) / len(errors)) < 0.08


def test_about_is_not_said_before_a_reply_has_ended_by_itself(clock):
    lengths = [LIMIT + 1] * 12 + [200] + [LIMIT + 1] * 3
    said = [line.rpartition(" s left")[0].rpartition(" ")[0] for _, line in decoded(clock, lengths, rows=4)]
    ended = 3 * 64 + 13  # in the fourth round
    assert said == ["at most"] * (ended - 1) + ["about"] * (len(said) - ended + 1)


def test_a_reply_longer_than_all_that_ended_has_still_time_to_come(clock):
    """Far past them, where the share that is as long is no number any more."""
    told = Remaining(50, 40_000)
    for _ in range(49):
        told.end(1, True)
    clock.now += 30_000
    told.look([30_000])
    assert told.left().startswith("about ")
    assert 0 < float(told.left().split()[1]) <= 10_000 * 50


# 00 -------------------------------------------------------------------------------------------------------------

SERIES_CELL = """
import time
from threading import Thread
from helpers.progress import StageLines
tell = StageLines()
tell("01_setup", "skipped", "finished earlier, inputs unchanged")
for step in range(4):
    line = f"{step // 2}/2 steps · loss 1.50 · about 9 s left"
    hear = Thread(target=tell, args=("04_lora_training", "running", line))
    hear.start()
    hear.join()
    assert tell._shown.count("\\n") == 1
    assert "loss 1.50" in tell._shown
tell("04_lora_training", "finished", "7 s")
"""


def test_00_shows_what_a_stage_is_doing_in_one_line_and_keeps_none_of_it(tmp_path):
    """As the runner tells it, from another thread, in a real kernel."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(SERIES_CELL)])
    client = NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(PROJECT_ROOT)}})
    client.execute()
    [output] = notebook.cells[0].outputs
    assert output.data == {
        "text/plain": "01_setup                skipped   finished earlier, inputs unchanged\n"
        "04_lora_training        finished  7 s"
    }
    assert not output.metadata


# While replies are decoded ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(r1_tokenizer):
    """Random weights: no reply ends within a few tokens."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(r1_tokenizer), num_key_value_heads=1, **sizes)).eval()


@pytest.fixture
def ticking(clock, model):
    """Each pass of the model takes a second."""

    def tick(*_):
        clock.now += 1

    handle = model.register_forward_hook(tick)
    yield clock
    handle.remove()


GREEDY = GenerationSettings(temperature=0, top_p=1, max_new_tokens=33, batch_size=2)
PROMPTS = [[5, 6, 7], [8], [9, 10], [11, 12, 13]]


def test_lines_say_how_fast_and_how_long_from_the_first_tokens_on(ticking, lines, model, r1_tokenizer):
    """Four prompts, two at a time: a pass reads both, and 16 more are a look."""
    replies = generate(model, r1_tokenizer, PROMPTS, GREEDY, seed=1)
    assert [reply.tokens for reply in replies] == [33] * 4
    assert lines == [
        "0/4 replies · 0 s",
        "0/4 replies · 17 s · 2 tokens/s · at most 49 s left",  # 17 tokens a row; 16 + 33 to come
        "2/4 replies · 33 s · 2 tokens/s · at most 33 s left",
        "2/4 replies · 50 s · 2 tokens/s · at most 16 s left",
        "4/4 replies · 66 s · 2 tokens/s",
        "4/4 replies · 66 s · 2 tokens/s",
    ]


def test_what_was_kept_says_nothing_of_the_speed(ticking, lines, model, r1_tokenizer, tmp_path):
    kept = tmp_path / "kept.jsonl"
    generate(model, r1_tokenizer, PROMPTS, GREEDY, seed=1, kept=kept)
    kept.write_text("".join(kept.read_text().splitlines(keepends=True)[:3]))
    lines.clear()
    generate(model, r1_tokenizer, PROMPTS, GREEDY, seed=1, kept=kept)
    assert lines == [
        "2/4 replies · 0 s",
        "2/4 replies · 17 s · 2 tokens/s · at most 16 s left",
        "4/4 replies · 33 s · 2 tokens/s",
        "4/4 replies · 33 s · 2 tokens/s",
    ]
    lines.clear()
    generate(model, r1_tokenizer, PROMPTS, GREEDY, seed=1, kept=kept)
    assert set(lines) == {"4/4 replies · 0 s"}


def test_transformers_way_says_it_too(ticking, lines, model, r1_tokenizer, monkeypatch):
    """A pass is a look there. The first reply ends with its second token."""
    ids = iter([[7, 7], [r1_tokenizer.eos_token_id, 7], *[[7, 7]] * 64])
    usual = model.forward

    def chosen(*args, **named):
        output = usual(*args, **named)
        output.logits[range(2), -1, next(ids)] = 1e4
        return output

    monkeypatch.setattr(model, "forward", chosen)
    monkeypatch.setattr(generation, "can_decode", lambda model: False)
    replies = generate(model, r1_tokenizer, PROMPTS, GREEDY, seed=1)
    assert [(reply.tokens, reply.finished) for reply in replies] == [(2, True), *[(33, False)] * 3]
    assert lines[1] == "0/4 replies · 1 s · 2 tokens/s · at most 65 s left"
    assert lines[2].startswith("1/4 replies · 2 s · 2 tokens/s · about ")
    assert [line.split(" ")[0] for line in lines[32:36]] == ["1/4", "1/4", "2/4", "2/4"]
    assert all("about" in line for line in lines[2:-2])
    assert lines[-1] == "4/4 replies · 66 s · 2 tokens/s"
