"""The line that says how far a long step is, and how much longer it will take."""

from contextlib import closing
from types import SimpleNamespace

import nbformat
import pytest
from nbclient import NotebookClient
from transformers import LlamaConfig, LlamaForCausalLM

from helpers import PROJECT_ROOT
from helpers.config import GenerationSettings
from helpers.generation import replies as generation
from helpers.generation.decoding import GPU
from helpers.generation.replies import generate
from helpers.tracking import progress
from helpers.tracking.progress import PROGRESS_FILE, Progress, StageLines


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still; `clock.now` sets it."""
    clock = SimpleNamespace(now=100.0)
    for module in (progress, generation):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
def lines(monkeypatch, tmp_path):
    """All lines that the runner would have read."""
    lines = []
    file = SimpleNamespace(write_text=lambda line, encoding: lines.append(line))
    monkeypatch.setenv(PROGRESS_FILE, str(tmp_path / "progress"))
    monkeypatch.setattr(progress, "Path", lambda name: file)
    return lines


def test_the_rest_is_expected_to_go_on_like_what_is_done(clock, lines):
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


def test_on_a_terminal_each_line_is_written_over_the_one_before_and_the_last_goes(monkeypatch, capsys, clock):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "41")
    with Progress(4, "replies", done=1) as p:
        clock.now += 2
        p.update(1, "210 tokens/s")
    lines = capsys.readouterr().err.split("\r")
    assert [line.rstrip() for line in lines[1::2]] == [
        "1/4 replies · 0 s",
        "2/4 replies · 2 s · 210 tokens/s · about",  # as much as fits
        "2/4 replies · 2 s · 210 tokens/s",
        "",
    ]
    assert {len(line) for line in lines[1::2]} == {40}
    assert not any(lines[::2])


# 00 -------------------------------------------------------------------------------------------------------------

SERIES_CELL = """
import time
from threading import Thread
from helpers.tracking.progress import StageLines
tell, shown = StageLines(), []
show = tell._line.show
tell._line.show = lambda text: [shown.append(text), show(text)]
tell("01_setup", "skipped", "finished earlier, inputs unchanged")
for step in range(4):
    line = f"{step // 2}/2 steps · loss 1.50 · about 9 s left"
    hear = Thread(target=tell, args=("04_lora_training", "running", line))
    hear.start()
    hear.join()
    assert shown[-1].count("\\n") == 1
    assert "loss 1.50" in shown[-1]
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


TOLD = [
    ("03_dataset_prep", "running", "changed: seed"),
    ("03_dataset_prep", "running", "1/9 rows · 0 s"),
    ("03_dataset_prep", "moved", "set aside in earlier/now: data"),
    ("03_dataset_prep", "running", "9/9 rows · 8 s"),
    ("03_dataset_prep", "finished", "8 s"),
    ("04_lora_training", "running", "1/2 steps · [1] 0 s"),
]
ENDED = [
    "03_dataset_prep         moved     set aside in earlier/now: data",
    "03_dataset_prep         finished  8 s",
]


@pytest.mark.parametrize("terminal", [True, False])
def test_on_the_command_line_only_a_terminal_hears_more_than_a_stages_start_and_end(monkeypatch, capsys, terminal):
    for stream in (progress.sys.stdout, progress.sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: terminal, raising=False)
    monkeypatch.setenv("COLUMNS", "61")
    with closing(StageLines()) as tell:
        for words in TOLD:
            tell(*words)
    out, err = capsys.readouterr()
    running = [f"{stage:24}running   {detail}" for stage, _, detail in (TOLD[0], TOLD[-1])]
    if not terminal:
        assert (out.splitlines(), err) == ([running[0], *ENDED, running[1]], "")
        return
    assert out.splitlines() == ENDED
    shown = [line.rstrip() for line in err.split("\r")[1::2]]
    more = [f"03_dataset_prep         running   {rows} rows · {s} s" for rows, s in (("1/9", 0), ("9/9", 8))]
    assert shown == [running[0], more[0], "", more[1], "", running[1], ""]


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


def test_lines_say_how_fast_from_the_first_tokens_on(ticking, lines, model, r1_tokenizer, monkeypatch):
    """Four prompts, two at a time: a pass reads both, and 16 more are a look, as on a GPU."""
    monkeypatch.setattr("helpers.generation.decoding.CPU", GPU)
    replies = generate(model, r1_tokenizer, PROMPTS, GREEDY, seed=1)
    assert [reply.tokens for reply in replies] == [33] * 4
    assert lines == [
        "0/4 replies · 0 s",
        "0/4 replies · 17 s · 2 tokens/s",  # 17 tokens a row
        "2/4 replies · 33 s · 2 tokens/s · about 33 s left",
        "2/4 replies · 50 s · 2 tokens/s · about 50 s left",
        "4/4 replies · 66 s · 2 tokens/s",
        "4/4 replies · 66 s · 2 tokens/s",
    ]


def test_what_was_kept_says_nothing_of_the_speed(ticking, lines, model, r1_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("helpers.generation.decoding.CPU", GPU)
    kept = tmp_path / "kept.jsonl"
    generate(model, r1_tokenizer, PROMPTS, GREEDY, seed=1, kept=kept)
    kept.write_text("".join(kept.read_text().splitlines(keepends=True)[:3]))
    lines.clear()
    generate(model, r1_tokenizer, PROMPTS, GREEDY, seed=1, kept=kept)
    assert lines == [
        "2/4 replies · 0 s",
        "2/4 replies · 17 s · 2 tokens/s",
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
    assert lines[1] == "0/4 replies · 1 s · 2 tokens/s"
    assert lines[2] == "1/4 replies · 2 s · 2 tokens/s · about 6 s left"
    assert [line.split(" ")[0] for line in lines[32:36]] == ["1/4", "1/4", "2/4", "2/4"]
    assert lines[-1] == "4/4 replies · 66 s · 2 tokens/s"
