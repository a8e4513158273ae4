"""The check of exported files, on the tiny model's own: it passes what is right, and sees what is not."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from gguf import GGUFReader
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from helpers import PROJECT_ROOT
from helpers.export import check as export_check
from helpers.export.check import (
    BOUNDS,
    Reference,
    answer_from,
    check_file,
    checks_table,
    choose_file,
    complete,
    llama_server,
    reference,
    token_loss,
)
from helpers.export.files import write_report
from helpers.export.gguf import convert, write_modelfile
from helpers.export.merge import merge
from helpers.files import read_json, read_jsonl, write_json, write_jsonl
from helpers.models.loading import load_base, load_tokenizer
from helpers.models.packaged import tiny_folder
from helpers.report.results import model_card, write_index
from helpers.run_dir import open_run
from helpers.sources.rows import SAMPLE
from helpers.use.server import gguf_file, sides

MODELS = PROJECT_ROOT.parent / "shared" / "models"
# Characters that vocabularies split into bytes.
PIECES = "K⁺ ↓, Na⁺ ↑; HCO₃⁻ ≥ 12, 39 ℃. Калий Низкий, 低钾血症, 低カリウム血症、نقص 👩‍⚕️ 👍🏽 🇩🇪"
QUESTIONS = ["Which nerve is compressed?", "Why is the patient breathless?"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A run of the tiny model with an adapter, its files of every kind, and what the merged folder says."""
    run = open_run("smoke", tmp_path_factory.mktemp("export") / "run", {"generation.max_new_tokens": 8})
    model = get_peft_model(load_base(run.config), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    model.save_pretrained(run / "adapter")
    write_jsonl(run / "data/validation.jsonl", read_jsonl(SAMPLE)[:6])
    merge(run)
    files = {kind: convert(run, kind) for kind in run.config.export.kinds}
    said = reference(run, QUESTIONS, max_new_tokens=6, rows=5, last_tokens=8)
    return SimpleNamespace(run=run, files=files, said=said)


@pytest.fixture(scope="module")
def checks(exported):
    return {kind: check_file(exported.run, file, exported.said) for kind, file in exported.files.items()}


def test_the_merged_model_says_what_files_are_measured_by(exported):
    tokenizer = load_tokenizer(exported.run.config.model)
    assert [len(reply) for reply in exported.said.replies] == [6, 6]
    assert [len(nlls) for nlls in exported.said.nlls] == [8] * 5
    assert {row[-1] for row in exported.said.rows} == {tokenizer.eos_token_id}
    assert [len(row) for row in exported.said.rows] == sorted(len(row) for row in exported.said.rows)


def test_every_kind_of_a_good_export_passes(checks):
    assert list(checks) == ["f16", "q8_0", "q4_k_m"]
    for kind, check in checks.items():
        assert check["passes"], (kind, check)
        assert (check["nll"]["rows"], check["nll"]["tokens"]) == (5, 40)
        assert check["ends"]["stopped"] == 5
        assert check["nll"]["bound"] == BOUNDS[kind]
    assert abs(checks["f16"]["nll"]["difference"]) < 0.01
    assert checks["f16"]["greedy"]["same"] > 0.5


def test_a_file_that_says_something_else_fails(exported):
    other = [[nll + 0.1 for nll in nlls] for nlls in exported.said.nlls]
    check = check_file(exported.run, exported.files["f16"], replace(exported.said, nlls=other))
    assert (check["passes"], check["verdict"]) == (False, "fails")
    assert check["nll"]["difference"] == pytest.approx(-0.1, abs=0.01)


def test_a_file_that_ends_with_another_token_fails(exported, monkeypatch):
    tokenizer = load_tokenizer(exported.run.config.model)
    wrong = SimpleNamespace(eos_token="<wrong>", eos_token_id=tokenizer.convert_tokens_to_ids("<think>"))
    monkeypatch.setattr(export_check, "load_tokenizer", lambda settings: wrong)
    check = check_file(exported.run, exported.files["f16"], exported.said)
    assert check["passes"] is False
    assert check["end_token"] == tokenizer.eos_token
    assert check["ends"]["stopped"] == 0  # forced to say <think>, llama.cpp goes on


def test_a_file_that_does_not_fit_in_memory_is_not_called_passing(exported, monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=1000))
    check = check_file(exported.run, exported.files["f16"], exported.said)
    assert check["passes"] is None
    assert check["verdict"].startswith("not checked: 0.0 GiB to load")


def test_a_merged_model_that_does_not_fit_in_memory_is_not_loaded(exported, monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=1000, total=1000))
    said = reference(exported.run, QUESTIONS)
    assert said is None
    check = check_file(exported.run, exported.files["f16"], said)
    assert check == {"passes": None, "verdict": "not checked: the merged model does not fit in memory"}


def test_a_difference_within_the_bound_must_be_shown(exported):
    """Rows' losses that scatter: the mean hardly differs, but so few rows cannot show it."""
    noisy = [[nll + (-1) ** i * 0.1 for nll in nlls] for i, nlls in enumerate(exported.said.nlls)]
    check = check_file(exported.run, exported.files["f16"], replace(exported.said, nlls=noisy))
    low, high = check["nll"]["ci95"]
    assert low < -BOUNDS["f16"] < 0 < BOUNDS["f16"] < high
    assert (check["passes"], check["verdict"]) == (False, "not shown to pass")
    few = replace(exported.said, rows=exported.said.rows[:4], nlls=exported.said.nlls[:4])
    check = check_file(exported.run, exported.files["f16"], few)
    assert (check["verdict"], check["nll"]["ci95"]) == ("not shown to pass", None)
    assert checks_table({"f16": check})[0]["NLL minus merged (95% interval)"].endswith("(too few rows for an interval)")


def test_a_file_with_a_broken_matrix_fails(exported, tmp_path):
    """Another token's embedding for each: the file still loads and talks."""
    broken = tmp_path / "model-f16.gguf"
    shutil.copy(exported.files["f16"], broken)
    reader = GGUFReader(broken, "r+")
    [embeddings] = [tensor for tensor in reader.tensors if tensor.name == "token_embd.weight"]
    embeddings.data[:] = embeddings.data[::-1].copy()
    reader.data.flush()
    check = check_file(exported.run, broken, exported.said)
    assert check["passes"] is False, check


def test_the_smallest_file_that_passes_is_used(exported, checks):
    assert choose_file(checks, exported.files).stat().st_size == min(f.stat().st_size for f in exported.files.values())
    failed = {kind: check | {"passes": kind == "q8_0"} for kind, check in checks.items()}
    assert choose_file(failed, exported.files) == exported.files["q8_0"]
    unknown = {kind: {"passes": None if kind == "q8_0" else False} for kind in checks}
    assert choose_file(unknown, exported.files) == exported.files["q8_0"]
    none = {kind: {"passes": False} for kind in checks}
    assert choose_file(none, exported.files) == exported.files["f16"]


def test_the_table_says_of_each_file_how_it_fared(checks):
    rows = checks_table({**checks, "q8_0": {"passes": None, "verdict": "not checked: too large"}})
    assert [row["verdict"] for row in rows] == ["passes", "not checked: too large", "passes"]
    assert rows[0]["stops at the end"] == "5 of 5"
    assert rows[0]["bound"] == "0.02"


def test_the_report_names_the_file_to_use_and_everything_uses_it(exported, checks):
    run, use = exported.run, exported.files["q8_0"]
    answer = answer_from(run, use, QUESTIONS[0])
    assert 0 < answer["tokens"] <= 8
    modelfile = write_modelfile(run, load_tokenizer(run.config.model), use).read_text(encoding="utf-8")
    assert modelfile.startswith("FROM ./model-q8_0.gguf\n")
    assert "PARAMETER num_ctx 4096\n" in modelfile
    write_report(run, checks, use, answer)
    report = read_json(run / "export/report.json")
    assert [file["name"] for file in report["files"]] == [f"model-{kind}.gguf" for kind in checks]
    assert all(file["passes"] for file in report["files"])
    assert sides(run) == ["tuned"]
    assert gguf_file(run, "tuned") == use


def test_the_card_of_the_files_says_of_each_how_it_fared(exported, checks):
    run, use = exported.run, exported.files["q8_0"]
    failed = checks["q4_k_m"] | {"passes": False, "verdict": "fails"}
    answer = {"question": "Why?", "reply": "So.", "tokens": 2, "stopped": True}
    write_report(
        run, {**checks, "f16": {"passes": None, "verdict": "not checked: small"}, "q4_k_m": failed}, use, answer
    )
    card = (run / "export/README.md").read_text(encoding="utf-8")
    rows = {row.split("`")[1]: row for row in card.splitlines() if row.startswith("| `model-")}
    assert list(rows) == ["model-f16.gguf", "model-q8_0.gguf", "model-q4_k_m.gguf"]
    assert rows["model-f16.gguf"].endswith("| not checked: small |")
    difference = checks["q8_0"]["nll"]["difference"]
    assert f"| {difference:+.4f} (" in rows["model-q8_0.gguf"]
    assert rows["model-q8_0.gguf"].endswith("), 5 rows | 0.03 | passes |")
    assert rows["model-q4_k_m.gguf"].endswith("| 0.2 | fails |")
    assert "llama-server -m model-q8_0.gguf" in card
    assert "## Files" not in (run / "export/merged/README.md").read_text(encoding="utf-8")
    assert "MiB, not checked: small)" in write_index(run).read_text(encoding="utf-8")


def test_a_report_from_before_files_were_checked_still_makes_a_card_and_a_page(exported):
    run = exported.run
    write_json(run / "export/report.json", {"files": [{"name": "model-f16.gguf", "mib": 1.0}]})
    card = model_card(run, "gguf")
    assert "llama-server -m model-q4_k_m.gguf" in card
    assert "## Files" not in card
    assert "(1 MiB)" in write_index(run).read_text(encoding="utf-8")


# ---- Characters that the vocabulary splits


@pytest.fixture(scope="module", params=["tiny", "r1-distill-llama-8b"])
def split_characters(request, tmp_path_factory):
    """A random model behind a tokenizer, as a GGUF file, and validation rows that end in split characters."""
    source = tiny_folder() if request.param == "tiny" else MODELS / request.param
    if not source.is_dir():
        pytest.skip("the real models' files in ../shared/models are not here")
    folder = tmp_path_factory.mktemp("split")
    base = folder / "base"
    base.mkdir()
    for file in ("tokenizer.json", "chat_template.jinja"):
        if (source / file).is_file():
            shutil.copy(source / file, base / file)
    config = read_json(source / "tokenizer_config.json")
    write_json(base / "tokenizer_config.json", config | {"tokenizer_class": "PreTrainedTokenizerFast"})
    small = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    small |= {"num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": True, "max_position_embeddings": 4096}
    config = read_json(source / "config.json")
    config.pop("quantization_config", None)
    write_json(base / "config.json", config | small)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base), dtype=torch.float16)
    model.save_pretrained(base)
    run = open_run("smoke", folder / "run", {"model.name": str(base), "generation.max_new_tokens": 8})
    shutil.copytree(base, run / "export/merged")
    row = {"Question": "Why ↓?", "Response": PIECES}
    thoughts = ["Potassium ↓.", "低钾。", "K⁺ ↓.", "Калий ↓.", "So ↓."]
    write_jsonl(run / "data/validation.jsonl", [row | {"Complex_CoT": thought} for thought in thoughts])
    tokenizer = load_tokenizer(run.config.model)
    return SimpleNamespace(run=run, file=convert(run, "f16"), tokenizer=tokenizer, thoughts=thoughts)


def test_every_token_of_every_script_has_llama_cpps_loss(split_characters):
    """Of one row all tokens of its completion, compared with transformers one by one."""
    run, tokenizer = split_characters.run, split_characters.tokenizer
    said = reference(run, [], rows=1, last_tokens=120)
    [row], [nlls] = said.rows, said.nlls
    first = len(row) - len(nlls)
    assert any(thought in tokenizer.decode(row[first:]) for thought in split_characters.thoughts)
    with llama_server(split_characters.file, 4096) as server:
        ours = [token_loss(server, row[:i], row[i], whole=row[-1]) for i in range(first, len(row))]
    assert ours == pytest.approx(nlls, abs=0.01)


def test_rows_that_end_in_split_characters_go_through_the_check(split_characters):
    run = split_characters.run
    said = reference(run, ["Why is K⁺ ↓?"], max_new_tokens=4, rows=5, last_tokens=6)
    check = check_file(run, split_characters.file, said)
    assert check["nll"]["tokens"] == 30
    assert check["verdict"] == "passes"


def test_replies_in_split_characters_keep_all_their_tokens(split_characters):
    """Greedy agreement compares ids: the pieces of a character count one by one, also where the reply ends in one."""
    tokenizer = split_characters.tokenizer
    prompt, pieces = tokenizer("A fever").input_ids, tokenizer("低↓", add_special_tokens=False).input_ids
    with llama_server(split_characters.file) as server:
        for piece in pieces:
            reply = complete(server, prompt, 3, forced=piece)
            assert reply.tokens == [piece] * 3
        alike = Reference([prompt], [reply.tokens], [], [])
        free = complete(server, prompt, 3)
        assert export_check._greedy_agreement(server, alike)["same"] == float(free.tokens == alike.replies[0])
