"""Asking one question, on the command line too, where it is to pipe well."""

import io
import runpy
import sys

import pytest
from fake_server import Server

from helpers import PROJECT_ROOT, InputError
from helpers.config import Config
from helpers.models.loading import load_base
from helpers.run_dir.folder import Run
from helpers.use.ask import local_answerers

SETTINGS = Config.resolve("smoke").generation


def test_both_sides_are_one_model_with_and_without_its_adapter(tmp_path):
    import torch
    from peft import LoraConfig, get_peft_model

    config = Config.resolve("smoke", {"generation.temperature": 0, "generation.max_new_tokens": 8})
    run = Run(tmp_path, config)
    (run / "run.yaml").write_text("config: {}\n")
    with pytest.raises(InputError, match="has no adapter yet: run 04_lora_training"):
        local_answerers(run, ["tuned"])
    adapted = get_peft_model(load_base(config), LoraConfig(r=4, target_modules="all-linear"))
    torch.manual_seed(0)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    adapted.save_pretrained(str(run / "adapter"))
    answerers = local_answerers(run, ["base", "tuned"])
    replies = {side: "".join(answer("Why?")) for side, answer in answerers.items()}
    assert replies["base"] != replies["tuned"]
    [alone] = local_answerers(run, ["base"]).values()
    assert "".join(alone("Why?")) == replies["base"]


# --------------------------------------------------------------------------------------------------- the command line


def infer(monkeypatch, *words, endpoint="http://127.0.0.1:9/v1"):
    """`python infer.py` in this process; returns its exit status."""
    monkeypatch.setattr(sys, "argv", ["infer.py", *words, "--endpoint", endpoint])
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(PROJECT_ROOT / "infer.py"), run_name="__main__")
    return ended.value.code or 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--compare", "Why?"], "a server has one model"),
        ([], "the question is empty"),
        (["Why?"], "at http://127.0.0.1:9/v1 cannot be reached"),
    ],
)
def test_a_wrong_option_is_one_line_on_standard_error(monkeypatch, capsys, words, told):
    assert infer(monkeypatch, *words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    [line] = [line for line in printed.err.splitlines() if line.startswith("error:")]
    assert told in line


@pytest.mark.parametrize(("text", "note"), [("a</think>b", False), ("<think>Hm", True), ("a</think>b <think> c", True)])
def test_only_the_reply_is_printed_and_a_missing_answer_noted(monkeypatch, capsys, text, note):
    assert infer(monkeypatch, "Why?", endpoint=Server([{"content": text}]).url) == 0
    told = capsys.readouterr()
    assert told.out == f"{text}\n"
    assert "not medical advice" in told.err
    assert ("the thought was never closed" in told.err) == note
