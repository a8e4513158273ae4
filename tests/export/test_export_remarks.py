"""06's remarks, and the Modelfile of R1 that the notebook prints as prose."""

import re

import nbformat
import numpy as np
import pytest

from helpers import PROJECT_ROOT
from helpers.config import Config
from helpers.export.check import choose_file
from helpers.export.remarks import on_answer, on_checks, on_rounding
from helpers.models.loading import load_tokenizer
from helpers.prompts.chat_template import ollama_template
from helpers.report.drawings import rounding_errors


def check(verdict, difference=0.0, ci95=(-0.01, 0.01), stopped=8, bound=0.2):
    nll = {"difference": difference, "ci95": ci95 and list(ci95), "bound": bound}
    passes = {"passes": True, "fails": False, "not shown to pass": False}.get(verdict)
    return {"passes": passes, "verdict": verdict, "nll": nll, "ends": {"rows": 8, "stopped": stopped}}


FAILS = {
    "its loss is +0.310 nats a token away, beyond 0.2": check("fails", 0.31, (0.25, 0.37)),
    "its loss is -0.310 nats a token away, beyond 0.2": check("fails", -0.31, (-0.37, -0.25)),
    "it stops after 3 of 8 rows only": check("fails", stopped=3),
    "its end-of-sequence token is another one": check("fails"),
    "the interval of its loss reaches beyond 0.2, so more rows could decide either way": check(
        "not shown to pass", 0.15, (0.05, 0.25)
    ),
    "there are too few rows for an interval": check("not shown to pass", ci95=None),
}


@pytest.fixture
def files(tmp_path):
    """Three files, each smaller than the one before."""
    found = {kind: tmp_path / f"model-{kind}.gguf" for kind in ("f16", "q8_0", "q4_k_m")}
    for size, path in zip((9, 5, 3), found.values(), strict=True):
        path.write_bytes(b"x" * size)
    return found


def remark(files, *checks):
    by_kind = dict(zip(files, checks, strict=True))
    return on_checks(by_kind, choose_file(by_kind, files))


@pytest.mark.parametrize("reason", FAILS)
def test_a_four_bit_file_that_does_not_pass_is_named_and_left(files, reason):
    assert remark(files, check("passes"), check("passes"), FAILS[reason]) == (
        f"f16 and q8_0 passed the check. q4_k_m did not: {reason}. The notebook goes on with model-q8_0.gguf, the "
        "smallest that passed."
    )


def test_all_pass_none_passes_none_is_checked(files):
    assert remark(files, *[check("passes")] * 3) == (
        "f16, q8_0 and q4_k_m passed the check. The notebook goes on with model-q4_k_m.gguf, the smallest that passed."
    )
    rounded = dict(zip(files, [check("passes", cost) for cost in (0.0, 0.01, 0.06)], strict=True))
    said = [on_checks(rounded, choose_file(rounded, files), gain) for gain in (0.5, -0.5, None)]
    assert said[0] == f"{said[1]} It costs 0.060 nats a token, 12% of the 0.500 that 05 found gained."
    assert said[1] == said[2]
    assert remark(files, *[check("fails", stopped=0)] * 3).endswith("look for the fault before anyone uses it.")
    doubtful = [check("not shown to pass", 0.15, (0.05, 0.25))] * 3
    assert remark(files, *doubtful).endswith("with model-q4_k_m.gguf, the smallest that was not shown to fail.")
    unknown = {"passes": None, "verdict": "not checked: 15.0 GiB to load, 8.0 GiB of memory free"}
    assert remark(files, *[unknown] * 3) == (
        "Not checked, for want of memory: f16, q8_0 and q4_k_m. The notebook goes on with model-q4_k_m.gguf, the "
        "smallest, though nothing could be checked."
    )


@pytest.mark.parametrize(
    ("reply", "stopped", "words"),
    [
        ("The nerve.</think>The median nerve.", True, "That is the form that training taught"),
        (
            "So.</think>It is.</think>It.",
            True,
            "closes its thought more than once, of which the last counts, and stops",
        ),
        ("The median nerve is the nerve. " * 20, False, "It loops: "),
        ("The nerve", False, "It never closes its thought, so it comes to no answer, and does not stop"),
        ("The nerve</think>The", False, "It closes its thought, and does not stop within the limit"),
        (" ", True, "The reply shows no text"),
    ],
)
def test_an_answer_is_described(reply, stopped, words):
    assert words in on_answer({"reply": reply, "stopped": stopped, "tokens": 9})


def test_blocks_are_said_to_help_only_where_they_do():
    errors = {"8 bits, blocks": 0.005, "4 bits, one scale": 0.38, "4 bits, blocks": 0.1}
    assert on_rounding(errors) == (
        "At 4 bits one scale for the whole slice costs an error of 38.0% of the weights' own spread, and a scale for "
        "each block 10.0%. At 8 bits a scale for each block costs 0.50%."
    )
    assert "do not help" in on_rounding({**errors, "4 bits, one scale": 0.1})


def test_the_modelfile_of_r1_in_the_prose_is_that_of_the_project():
    """The smoke model has R1's template and special tokens."""
    cells = nbformat.read(PROJECT_ROOT / "notebooks/06_export.ipynb", as_version=4).cells
    [shown] = [cell.source for cell in cells if "$turn" in cell.source and cell.cell_type == "markdown"]
    tokenizer = load_tokenizer(Config.resolve("smoke").model)
    head, _, rest = ollama_template(tokenizer).partition('{{- $turn := "" }}')
    assert rest
    assert f'TEMPLATE """{head}' in shown
    assert f'{rest.splitlines()[-1]}"""\n' in shown
    assert f'PARAMETER stop "{tokenizer.eos_token}"' in shown
    settings = Config.resolve("t4").generation
    assert re.findall(r"PARAMETER (?:temperature|top_p) (\S+)", shown) == [
        str(settings.temperature), str(settings.top_p)]  # fmt: skip


def test_the_picture_has_a_panel_for_each_way_of_rounding():
    errors = {way: np.full((4, 8), size) for way, size in (("8 bits, blocks", 0.01), ("4 bits, blocks", 0.2))}
    figure = rounding_errors(errors, spread=0.5)
    assert figure.png().startswith(b"\x89PNG")
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["8 bits, blocks: 2.0%", "4 bits, blocks: 40.0%"]
