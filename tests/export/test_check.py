"""The check of exported files, on the tiny model's own: it passes what is right, and sees what is not."""

import shutil
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import pytest
from peft import LoraConfig, get_peft_model

from helpers.export import check as export_check
from helpers.export import gguf
from helpers.export.check import (
    BOUNDS,
    answer_from,
    check_file,
    checks_table,
    choose_file,
    complete,
    llama_server,
    reference_outputs,
    token_loss,
)
from helpers.export.files import write_report
from helpers.export.gguf import convert, write_modelfile
from helpers.export.merge import merge
from helpers.files import read_json, read_jsonl, write_json, write_jsonl
from helpers.models.loading import load_base, load_tokenizer
from helpers.prompts.chat_template import chat_template
from helpers.report.model_card import model_card
from helpers.report.results import write_index
from helpers.run_dir.folder import open_run
from helpers.sources.rows import SAMPLE
from helpers.use.server import gguf_file, sides

# Characters that vocabularies split into bytes.
PIECES = "K⁺ ↓; HCO₃⁻ ≥ 12 ℃. Калий, 低カリウム血症、نقص 👩‍⚕️ 🇩🇪"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A run of the tiny model with an adapter, its files of every kind, and what the merged folder says."""
    run = open_run("smoke", tmp_path_factory.mktemp("export") / "run", {"generation.max_new_tokens": 8})
    model = get_peft_model(load_base(run.config), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    model.save_pretrained(run / "adapter")
    write_jsonl(run / "data/validation.jsonl", read_jsonl(SAMPLE)[:6])
    merge(run)
    read = cache(gguf.Reader)  # the vocabulary's head takes seconds
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf, "Reader", read)
        files = {kind: convert(run, kind) for kind in run.config.export.kinds}
    reference = reference_outputs(run, rows=5, last_tokens=4)
    return SimpleNamespace(run=run, files=files, reference=reference, f16=read(files["f16"]))


@pytest.fixture(scope="module")
def checks(exported):
    return {kind: check_file(exported.run, file, exported.reference) for kind, file in exported.files.items()}


def test_the_reference_outputs_are_losses_at_the_end_of_the_shortest_rows(exported):
    tokenizer = load_tokenizer(exported.run.config.model)
    assert [len(nlls) for nlls in exported.reference.nlls] == [4] * 5
    assert {row[-1] for row in exported.reference.rows} == {tokenizer.eos_token_id}
    assert [len(row) for row in exported.reference.rows] == sorted(len(row) for row in exported.reference.rows)


def test_every_kind_of_a_good_export_passes(exported, checks):
    assert list(checks) == ["f16", "q8_0", "q4_k_m"]
    for kind, check in checks.items():
        assert check["passes"], (kind, check)
        assert (check["nll"]["rows"], check["nll"]["tokens"]) == (5, 20)
        assert check["ends"]["stopped"] == 5
        assert check["nll"]["bound"] == BOUNDS[kind]
    assert abs(checks["f16"]["nll"]["difference"]) < 0.01
    rows = checks_table({**checks, "q8_0": {"passes": None, "verdict": "not checked: too large"}})
    assert [row["verdict"] for row in rows] == ["passes", "not checked: too large", "passes"]
    assert (rows[0]["stops at the end"], rows[0]["bound"]) == ("5 of 5", "0.02")
    stored = exported.f16.fields["tokenizer.chat_template"].contents()
    assert stored == chat_template(load_tokenizer(exported.run.config.model))


def test_a_file_that_says_something_else_fails(exported):
    other = [[nll + 0.1 for nll in nlls] for nlls in exported.reference.nlls]
    check = check_file(exported.run, exported.files["f16"], replace(exported.reference, nlls=other))
    assert (check["passes"], check["verdict"]) == (False, "fails")
    assert check["nll"]["difference"] == pytest.approx(-0.1, abs=0.01)


def test_a_file_that_ends_with_another_token_fails(exported, monkeypatch):
    tokenizer = load_tokenizer(exported.run.config.model)
    wrong = SimpleNamespace(eos_token="<wrong>", eos_token_id=tokenizer.convert_tokens_to_ids("<think>"))
    monkeypatch.setattr(export_check, "load_tokenizer", lambda settings: wrong)
    check = check_file(exported.run, exported.files["f16"], exported.reference)
    assert check["passes"] is False
    assert check["end_token"] == tokenizer.eos_token
    assert check["ends"]["stopped"] == 0  # forced to say <think>, llama.cpp goes on
    wrong.eos_token_id = tokenizer.eos_token_id  # of several tokens at which it stops, the file names another
    one = replace(exported.reference, rows=exported.reference.rows[:1], nlls=exported.reference.nlls[:1])
    check = check_file(exported.run, exported.files["f16"], one)
    assert (check["verdict"], check["ends"]["stopped"]) == ("fails", 1)


def test_what_does_not_fit_in_memory_is_not_called_passing(exported, monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=1000, total=1000))
    check = check_file(exported.run, exported.files["f16"], exported.reference)
    assert check["passes"] is None
    assert check["verdict"].startswith("not checked: 0.0 GiB to load")
    reference = reference_outputs(exported.run)
    assert reference is None
    check = check_file(exported.run, exported.files["f16"], reference)
    assert check == {"passes": None, "verdict": "not checked: the merged model does not fit in memory"}


def test_a_difference_within_the_bound_must_be_shown(exported):
    """Rows' losses that scatter: so few rows cannot show it."""
    lower = [[nll - 0.15 + (-1) ** i * 0.1 for nll in nlls] for i, nlls in enumerate(exported.reference.nlls)]
    check = check_file(exported.run, exported.files["f16"], replace(exported.reference, nlls=lower))
    low, high = check["nll"]["ci95"]
    assert -BOUNDS["f16"] < low < BOUNDS["f16"] < high  # one end of the interval lies within the bound
    assert (check["passes"], check["verdict"]) == (False, "not shown to pass")
    few = replace(exported.reference, rows=exported.reference.rows[:4], nlls=exported.reference.nlls[:4])
    check = check_file(exported.run, exported.files["f16"], few)
    assert (check["verdict"], check["nll"]["ci95"]) == ("not shown to pass", None)
    assert checks_table({"f16": check})[0]["NLL minus merged (95% interval)"].endswith("(too few rows for an interval)")


def test_a_file_with_a_broken_matrix_fails(exported, tmp_path):
    """Another token's embedding for each: the file still loads and talks."""
    broken = tmp_path / "model-f16.gguf"
    shutil.copy(exported.files["f16"], broken)
    [embeddings] = [tensor for tensor in exported.f16.tensors if tensor.name == "token_embd.weight"]
    with broken.open("r+b") as file:
        file.seek(embeddings.data_offset)
        file.write(embeddings.data[::-1].tobytes())
    check = check_file(exported.run, broken, exported.reference)
    assert check["passes"] is False, check


def test_the_smallest_file_that_passes_is_used(exported, checks):
    assert choose_file(checks, exported.files).stat().st_size == min(f.stat().st_size for f in exported.files.values())
    failed = {kind: check | {"passes": kind == "q8_0"} for kind, check in checks.items()}
    assert choose_file(failed, exported.files) == exported.files["q8_0"]
    fails = {kind: {"passes": False, "verdict": "fails"} for kind in checks}
    for doubt in ({"passes": None, "verdict": "not checked: small"}, {"passes": False, "verdict": "not shown to pass"}):
        assert choose_file(fails | {"q8_0": doubt}, exported.files) == exported.files["q8_0"]
        small = {"f16": {"passes": None, "verdict": "not checked: small"}, "q8_0": doubt}  # f16 would not fit here
        assert choose_file(fails | small, exported.files) == exported.files["q8_0"]
    assert choose_file(fails, exported.files) == exported.files["f16"]


def test_the_report_names_the_file_to_use_and_the_cards_say_how_each_fared(exported, checks):
    run, use = exported.run, exported.files["q8_0"]
    answer = answer_from(run, use, "Which nerve is compressed?")
    assert 0 < answer["tokens"] <= 8
    modelfile = write_modelfile(run, load_tokenizer(run.config.model), use).read_text(encoding="utf-8")
    assert modelfile.startswith("FROM ./model-q8_0.gguf\n")
    assert "PARAMETER num_ctx 4096\n" in modelfile
    failed = checks["q4_k_m"] | {"passes": False, "verdict": "fails"}
    write_report(
        run, {**checks, "f16": {"passes": None, "verdict": "not checked: small"}, "q4_k_m": failed}, use, answer
    )
    files = read_json(run / "export/report.json")["files"]
    assert [file["name"] for file in files] == [f"model-{kind}.gguf" for kind in checks]
    assert sides(run) == ["tuned"]
    assert gguf_file(run, "tuned") == use
    card = (run / "export/README.md").read_text(encoding="utf-8")
    rows = {row.split("`")[1]: row for row in card.splitlines() if row.startswith("| `model-")}
    assert rows["model-f16.gguf"].endswith("| not checked: small |")
    assert f"| {checks['q8_0']['nll']['difference']:+.4f} (" in rows["model-q8_0.gguf"]
    assert rows["model-q8_0.gguf"].endswith("), 5 rows | 0.03 | passes |")
    assert rows["model-q4_k_m.gguf"].endswith("| 0.2 | fails |")
    assert "llama-server -m model-q8_0.gguf" in card
    assert "## Files" not in (run / "export/merged/README.md").read_text(encoding="utf-8")
    assert "MiB, not checked: small)" in write_index(run).read_text(encoding="utf-8")
    # A report from before files were checked still makes a card and a page.
    write_json(run / "export/report.json", {"files": [{"name": "model-f16.gguf", "mib": 1.0}]})
    card = model_card(run, "gguf")
    assert "llama-server -m model-q4_k_m.gguf" in card
    assert "## Files" not in card
    assert "(1 MiB)" in write_index(run).read_text(encoding="utf-8")


# ---- Characters that the vocabulary splits


@pytest.fixture(scope="module")
def split_characters(exported, tmp_path_factory):
    """The same model, and a validation row that ends in split characters."""
    run = open_run("smoke", tmp_path_factory.mktemp("split") / "run")
    shutil.copytree(exported.run / "export/merged", run / "export/merged")
    row = {"Question": "Why ↓?", "Complex_CoT": "低钾 ↓.", "Response": PIECES}
    write_jsonl(run / "data/validation.jsonl", [row])
    return SimpleNamespace(run=run, file=exported.files["f16"], tokenizer=load_tokenizer(run.config.model))


def test_every_token_of_every_script_has_llama_cpps_loss(split_characters):
    """All tokens of the row's completion, compared with transformers one by one."""
    run, tokenizer = split_characters.run, split_characters.tokenizer
    reference = reference_outputs(run, rows=1, last_tokens=120)
    [row], [nlls] = reference.rows, reference.nlls
    first = len(row) - len(nlls)
    assert "低钾" in tokenizer.decode(row[first:])
    with llama_server(split_characters.file, 4096) as server:
        ours = [token_loss(server, row[:i], row[i], whole=row[-1]) for i in range(first, len(row))]
    assert ours == pytest.approx(nlls, abs=0.01)


def test_replies_in_split_characters_keep_all_their_tokens(split_characters):
    """The pieces of a character count one by one, also where the reply ends in one."""
    tokenizer = split_characters.tokenizer
    prompt, pieces = tokenizer("A fever").input_ids, tokenizer("低↓", add_special_tokens=False).input_ids
    with llama_server(split_characters.file) as server:
        for piece in pieces:
            reply = complete(server, prompt, 3, forced=piece)
            assert reply["tokens"] == [piece] * 3
