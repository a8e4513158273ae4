"""Publishing: what reaches a stand-in of the hub's HTTP API is the run's files and a card that says what they are."""

import base64
import json
import os
import re
from contextlib import closing
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import stand_in
import torch
from conftest import MACHINE, refusal
from gguf import GGUFWriter
from huggingface_hub import ModelCard
from peft import LoraConfig, get_peft_model
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from helpers.config import Config
from helpers.export.gguf import write_modelfile
from helpers.export.merge import merge
from helpers.files import read_json, write_json, write_text
from helpers.machine import hardware
from helpers.models.packaged import tiny_folder
from helpers.prompts.encoding import build_prompt
from helpers.report.model_card import KINDS, UNKNOWN, model_card, prompt_parts
from helpers.run_dir.folder import Run, note_in_record, open_run
from helpers.sources.hub import hub_dataset, public_name
from helpers.use.publish import NOTICE, push_to_hub

TOKEN = "hf_of_the_test"
ALL = ("adapter", "merged", "gguf")
R1 = "unsloth/DeepSeek-R1-Distill-Llama-8B"
ADAPTER = "adapter/adapter_model.safetensors"


class Handler(stand_in.Handler):
    """The part of the hub's API that pushing goes through; every request is noted before it is answered."""

    def answer(self):
        hub, body, path = self.server, self.body(), self.path.partition("?")[0]
        hub.requests.append(SimpleNamespace(method=self.command, path=path, headers=self.headers, body=body))
        refused = next((answer for part, answer in hub.refusals.items() if part in path), None)
        status, answer = refused or hub.answer(self.command, path, body)
        self.send(status, json.dumps(answer).encode())


class Hub(stand_in.StandIn):
    """Repositories and their commits; `refusals` maps a part of a path to the status and answer to give there."""

    def __init__(self):
        self.requests, self.refusals, self.private, self.commits, self.blobs = [], {}, {}, {}, {}
        super().__init__(Handler)

    def answer(self, method, path, body):
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            known = name in self.private
            self.private.setdefault(name, asked["visibility"] == "private")
            return 409 if known else 200, {"url": f"{self.address}/{name}"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if match := re.fullmatch("/api/models/([^/]+/[^/]+)", path):
            return 200, {"id": match[1], "private": self.private[match[1]]}
        if path.endswith("/preupload/main"):
            large = (".safetensors", ".gguf", "tokenizer.json")
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = {name: "lfs" if name.endswith(large) else "regular" for name in files}
            return 200, {"files": [{"path": n, "uploadMode": m, "shouldIgnore": False} for n, m in modes.items()]}
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {**thing, "actions": {"upload": {"href": f"{self.address}/blobs/{thing['oid']}"}}}
                for thing in json.loads(body)["objects"]
            ]
            return 200, {"transfer": "basic", "objects": objects}
        if method == "PUT" and path.startswith("/blobs/"):
            self.blobs[path.removeprefix("/blobs/")] = body
            return 200, {}
        if match := re.fullmatch("/api/models/(.+)/commit/main", path):
            lines = [json.loads(line) for line in body.splitlines()]
            self.commits.setdefault(match[1], []).append(self.files(lines))
            return 200, {"commitUrl": f"{self.address}/{match[1]}/commit/0", "commitOid": "0"}
        return 404, {"error": f"the stand-in knows no {method} {path}"}

    def files(self, lines):
        """Name to content of a commit's files, those of large ones from what was uploaded before."""
        files = {}
        for line in lines:
            if line["key"] == "file":
                assert line["value"]["encoding"] == "base64"
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "lfsFile":
                files[line["value"]["path"]] = self.blobs[line["value"]["oid"]]
        return files

    def sent(self, name):
        """The files of the only commit that a repository has."""
        [files] = self.commits[name]
        return files


@pytest.fixture(autouse=True)
def alone(monkeypatch, unasked, tmp_path):
    """No login of the caller's, no hub but the stand-in, and a machine without a GPU."""
    monkeypatch.setattr(hardware, "describe_machine", lambda: MACHINE)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)  # whose uploads no Python server reads
    # `make test` says so to keep tests away from the hub; these have one of their own.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    for name in [name for name in os.environ if name.lower().endswith("_proxy") or name.startswith("HF_OIDC")]:
        monkeypatch.delenv(name)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def hub(monkeypatch):
    """A stand-in of the hub, and a token for it."""
    hub = Hub()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.address)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield hub
    hub.close()


def make(folder, tokenizer, settings=None, profile="smoke"):
    """A run with all three forms of a model, small files of random bytes where it does not matter what is in them."""
    run = open_run(profile, folder, settings)
    tokenizer.save_pretrained(run / "adapter")
    write_json(run / "adapter/adapter_config.json", {"base_model_name_or_path": public_name(run.config)})
    write_json(run / "export/merged/config.json", {"model_type": "llama"})
    tokenizer.save_pretrained(run / "export/merged")
    weights = np.frombuffer(os.urandom(2000), np.int8)
    for name in (ADAPTER, "export/merged/model.safetensors"):
        save_file({"weights": weights}, run / name)
    for name in ("export/model-f16.gguf", "export/model-q4_k_m.gguf"):
        with closing(GGUFWriter(run / name, "llama")) as writer:
            writer.add_tensor("weights", weights)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
    write_modelfile(run, tokenizer, run / "export/model-q4_k_m.gguf")
    return run


@pytest.fixture(scope="module")
def tokenizer():
    """One that loads in no time, for cards whose prompt does not matter."""
    letters = Tokenizer(BPE({letter: i for i, letter in enumerate(sorted(ByteLevel.alphabet()))}, []))
    letters.pre_tokenizer, letters.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=letters, bos_token="<s>", eos_token="</s>")
    made.chat_template = "{{ bos_token }}{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
    return made


@pytest.fixture
def run(tmp_path, tokenizer):
    return make(tmp_path / "run", tokenizer)


def measured(run):
    """Figures as 03 and 05 would leave them: a packaged task and MedQA, read from the hub."""
    provenance = {"source": "FreedomIntelligence/medical-o1-reasoning-SFT", "revision": "0a1b2c"}
    splits = {"train": 90, "validation": 9, "test": 1}
    write_json(run / "data/report.json", {"provenance": provenance, "splits": splits})
    nll = {"nll_delta": -0.5, "nll_delta_ci95": [-0.6, -0.4]}
    side = {"nll": 2.5, "closed": 0.5, "finished": 0.75}
    unseen = {"n": 9, "base": {**side, "nll": 3.0}, "tuned": side, "paired": nll, "parts": {}}
    paired = {"delta": 0.125, "delta_ci95": [0.0, 0.25], "detectable": 0.4, "mcnemar_p_holm": 0.6}
    answers = {"ci95": [0.03, 0.65], "truncated": 0.0}
    task = {"n": 8, "chance": 0.25, "paired": paired, "base": {"accuracy": 0.25, **answers}}
    tasks = {
        "sample": {**task, "tuned": {"accuracy": 0.375, **answers}},
        "medqa": {**task, "tuned": {"accuracy": 1 / 3, **answers}},
    }
    write_json(run / "evaluation/metrics.json", {"validation": unseen, "tasks": tasks})
    note_in_record(run, questions={"medqa": "c0ffee"})


def data_of(card):
    return ModelCard(card if isinstance(card, str) else card.decode("utf-8")).data


def one_line(run, *more, **options):
    return refusal(push_to_hub, run, *(more or ("me/model",)), **options)


# ------------------------------------------------------------------------------------------------------ what is sent


def test_the_hub_gets_the_runs_files_in_one_private_commit(run, hub):
    push_to_hub(run, "me/model")
    sent = hub.sent("me/model")
    card = sent.pop("README.md")
    assert sent.keys() > {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "chat_template.jinja"}
    assert sent == {name: (run / "adapter" / name).read_bytes() for name in sent}
    assert data_of(card).library_name == "peft"
    assert hub.private == {"me/model": True}
    posts = [request for request in hub.requests if request.method == "POST"]
    assert {request.headers["Authorization"] for request in posts} == {f"Bearer {TOKEN}"}


def test_each_form_has_a_repository_of_its_own(run, hub, capsys):
    push_to_hub(run, "me/model", ALL, private=False)
    assert hub.private == {"me/model": False, "me/model-merged": False, "me/model-GGUF": False}
    gguf, merged = hub.sent("me/model-GGUF"), hub.sent("me/model-merged")
    assert gguf.keys() == {"README.md", "Modelfile", "model-f16.gguf", "model-q4_k_m.gguf"}
    for name in gguf.keys() - {"README.md"}:
        assert gguf[name] == (run / "export" / name).read_bytes()
    assert merged["model.safetensors"] == (run / "export/merged/model.safetensors").read_bytes()
    assert merged["config.json"] == (run / "export/merged/config.json").read_bytes()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-2:] for line in lines] == [[f"{hub.address}/{name}", "(public)"] for name in hub.private]


def test_nothing_else_in_the_folders_is_sent(run, hub):
    strays = (
        "adapter/notes.txt", "adapter/train.jsonl", "export/merged/.model.safetensors.7.tmp", "export/notes.json",
        "export/.model-q4_k_m.gguf.tmp", "data/train.jsonl", "evaluation/predictions.tuned.jsonl",
    )  # fmt: skip
    for name in strays:
        write_text(run / name, "private")
    push_to_hub(run, "me/model", ALL)
    for [files] in hub.commits.values():
        assert b"private" not in files.values()


def test_paths_on_this_machine_are_not_sent(tmp_path, hub, tokenizer):
    secret = tmp_path / "secret"
    write_json(secret / "base-model/config.json", {})
    write_text(secret / "rows.jsonl", (json.dumps({"Question": "Q", "Complex_CoT": "C", "Response": "A"}) + "\n") * 2)
    settings = {"model.name": str(secret / "base-model"), "data.source": str(secret / "rows.jsonl")}
    run = make(tmp_path / "run", tokenizer, settings)
    measured(run)
    adapter = {"base_model_name_or_path": str(secret / "base-model"), "r": 4}
    write_json(run / "adapter/adapter_config.json", adapter)
    write_json(run / "export/merged/config.json", {"_name_or_path": str(secret / "base-model"), "model_type": "llama"})
    push_to_hub(run, "me/model", ALL)
    for [files] in hub.commits.values():
        for name, content in files.items():
            assert str(tmp_path).encode() not in content, name
    sent = json.loads(hub.sent("me/model")["adapter_config.json"])
    assert sent == {**adapter, "base_model_name_or_path": "base-model"}
    assert json.loads(hub.sent("me/model-merged")["config.json"])["_name_or_path"] == "base-model"
    text = hub.sent("me/model")["README.md"]
    assert b"Source: `rows.jsonl`" in text
    assert b"synthetic teaching cases" not in text
    card = data_of(text)
    assert (card.license, card.base_model, card.get("base_model_relation")) == ("other", None, None)
    assert read_json(run / "adapter/adapter_config.json") == adapter


def test_a_dry_run_shows_everything_and_sends_nothing(run, hub, cli, monkeypatch):
    words = ["push", "me/model", "--what", "gguf", "--what", "adapter", "--run-dir", run.path]
    monkeypatch.delenv("HF_TOKEN")
    shown = cli(*words, "--dry-run")
    assert (shown.status, hub.requests) == (0, [])
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    result = cli(*words, "--public")
    assert (result.status, list(hub.commits)) == (0, ["me/model", "me/model-GGUF"])
    assert hub.private == {"me/model": False, "me/model-GGUF": False}
    for name in hub.commits:
        text, files = shown.out[shown.out.index(f"{name} (private)\n") :], hub.sent(name)
        listed = dict(reversed(line.split()) for line in text.partition("README.md:")[0].splitlines()[1:-2])
        assert listed == {file: f"{len(content):,}" for file, content in files.items()}
        assert files["README.md"].decode("utf-8") in text


# ------------------------------------------------------------------------------------------------------ what is wrong


def test_a_public_repository_gets_nothing_that_was_meant_to_be_private(run, hub):
    hub.private["me/model"] = False
    assert "exists and is public" in one_line(run)
    assert hub.commits == {}
    for pushes in (1, 2):  # the second goes to the same repository
        push_to_hub(run, "me/model", private=False)
        assert len(hub.commits["me/model"]) == pushes


def test_without_a_token_it_says_how_to_get_one(run, hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    line = one_line(run)
    assert "https://huggingface.co/settings/tokens" in line
    assert "hf auth login" in line
    assert "HF_TOKEN" in line
    assert hub.requests == []


@pytest.mark.parametrize("where", ["/api/repos/create", "/blobs/", "/commit/"])
def test_what_the_hub_refuses_is_one_line(run, hub, where):
    hub.refusals = {where: (403, {"error": "Forbidden: pass a\nwrite token"})}
    if where == "/api/repos/create":  # the library then looks whether the repository exists
        hub.refusals["/api/models/me/model"] = (404, {})
    line = one_line(run)
    assert line.startswith("cannot push to me/model: ")
    assert "403 Forbidden" in line
    assert where == "/blobs/" or "pass a write token" in line
    assert hub.commits == {}


@pytest.mark.parametrize(
    ("path", "answer", "why"),
    [
        ("/api/", (401, {"error": "Invalid password."}), "Invalid password."),
        ("/api/validate-yaml", (400, {"errors": [{"message": '"license" is wrong'}]}), '"license" is wrong'),
    ],
)
def test_a_refused_token_or_card_is_explained(run, hub, path, answer, why):
    hub.refusals = {path: answer}
    assert why in one_line(run)


def test_without_a_network_the_command_ends_with_one_line_and_status_2(run, hub, cli, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    result = cli("push", "me/model", "--run-dir", run.path)
    assert (result.status, result.out) == (2, "")
    [line] = result.err.splitlines()
    assert line.startswith("error: cannot push to me/model: ")
    assert "refused" in line


def test_the_command_takes_the_newest_run_and_names_it(run, hub, cli, monkeypatch):
    monkeypatch.setenv("AI_DOCTOR_RUN_DIR", str(run.path))
    named, newest = cli("push", "me/model", "--dry-run", "--run-dir", run.path), cli("push", "me/model", "--dry-run")
    assert (newest.status, newest.out) == (0, named.out)
    assert (named.err, newest.err) == ("", f"run folder {run.path}\n")


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("adapter", ADAPTER),
        ("adapter", "adapter/tokenizer.json"),
        ("merged", "export/merged/model.safetensors"),
        ("gguf", "export/model-q4_k_m.gguf"),
    ],
)
@pytest.mark.parametrize("dry", [False, True])
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.9])
def test_a_file_that_is_cut_off_is_named_and_not_sent(run, hub, kind, name, dry, kept):
    content = (run / name).read_bytes()
    (run / name).write_bytes(content[: int(kept * len(content))])
    assert one_line(run, "me/model", [kind], dry_run=dry).startswith(f"{run / name} is damaged (")
    assert hub.requests == []


def test_a_name_or_a_form_that_is_none(run, hub):
    for name in ("model", "me/mo del"):
        assert name in one_line(run, name)
    assert one_line(run, "me/model", ["ggfu"]).endswith("did you mean 'gguf'?")
    assert hub.requests == []


@pytest.mark.parametrize(
    ("kind", "lacks", "stage"),
    [
        ("adapter", ADAPTER, "04_lora"),
        ("merged", "export/merged/config.json", "06"),
        ("gguf", "export/Modelfile", "06"),
        ("gguf", "export/model-q4_k_m.gguf", "06"),
    ],
)
def test_a_form_that_the_run_does_not_have(run, hub, kind, lacks, stage):
    (run / lacks).unlink()
    line = one_line(run, "me/model", [kind], dry_run=True)
    assert f"has no {lacks} yet: run {stage}" in line


# ----------------------------------------------------------------------------------------------------------- the card


def test_every_form_says_what_it_is_made_of_and_what_was_measured(tmp_path, hub, tokenizer, capsys):
    run = make(tmp_path / "run", tokenizer, {"data.source": "hub", "model.name": R1})
    measured(run)
    push_to_hub(run, "me/model", ALL)
    cards = [data_of(hub.sent(name)["README.md"]) for name in hub.commits]
    assert [card.base_model for card in cards] == [R1, R1, "me/model-merged"]
    assert [card.get("base_model_relation") for card in cards] == ["adapter", "finetune", "quantized"]
    assert [card.library_name for card in cards] == ["peft", "transformers", "gguf"]
    for name, card in zip(hub.commits, cards, strict=True):
        assert card.datasets == ["FreedomIntelligence/medical-o1-reasoning-SFT"]
        assert (card.license, card.language, card.pipeline_tag) == ("llama3.1", "en", "text-generation")
        assert {"medical", "reasoning", "sft"} < set(card.tags)
        assert card.metrics == ["accuracy"]
        text = hub.sent(name)["README.md"].decode("utf-8")
        assert "| Completion NLL, 9 unseen rows (nats a token, lower is better) | 3.000 | 2.500 | " in text
        assert "| Accuracy, sample (n=8, chance 25%) | 25.0% | 37.5% | " in text
        assert "| Accuracy, medqa (n=8, chance 25%) | 25.0% | 33.3% | " in text
    text = hub.sent("me/model")["README.md"].decode("utf-8")
    for words in ("MIT for DeepSeek's weights", "Llama 3.1 Community License", "Built with Llama", "CC BY 4.0"):
        assert words in text
    assert {hub.sent(name)["NOTICE"] for name in hub.commits} == {NOTICE.encode("utf-8")}
    said = capsys.readouterr().out
    assert "a copy of it beside the model, and a name that begins with Llama: https://www.llama.com/" in said
    push_to_hub(run, "me/Llama-model", dry_run=True)
    assert "a copy of it beside the model: https://www.llama.com/" in capsys.readouterr().out
    alone = data_of(model_card(run, "gguf", "me/model-GGUF"))
    assert (alone.base_model, alone.get("base_model_relation")) == (R1, "finetune")


def test_a_users_questions_that_bear_a_benchmarks_name_are_not_that_benchmark(run):
    measured(run)
    note_in_record(run, questions={})
    card = model_card(open_run("auto", run.path), "adapter", "me/model")
    assert "GBaker" not in card
    assert f"| evaluation questions | `medqa (a file)` | {UNKNOWN[1]} |" in card


def test_a_base_in_a_folder_is_named_by_the_setting_and_under_its_licence(tmp_path, hub, tokenizer, capsys):
    folder = tmp_path / "kaggle/2"
    write_json(folder / "config.json", {"model_type": "llama"})
    run = make(tmp_path / "run", tokenizer, {"model.name": str(folder)})
    card = model_card(run, "adapter", "me/model")
    assert "A LoRA adapter for `kaggle`" in card
    assert "base_model" not in data_of(card).to_dict()
    push_to_hub(run, "me/model", dry_run=True)
    assert "set export.base_model to its hub id" in capsys.readouterr().out
    run = make(tmp_path / "named", tokenizer, {"model.name": str(folder), "export.base_model": R1})
    push_to_hub(run, "me/named")
    assert "export.base_model" not in capsys.readouterr().out
    card = hub.sent("me/named")["README.md"].decode("utf-8")
    assert (data_of(card).base_model, data_of(card).license) == (R1, "llama3.1")
    assert f'AutoModelForCausalLM.from_pretrained("{R1}"' in card
    assert "Built with Llama" in card
    assert str(tmp_path) not in card


@pytest.mark.parametrize(
    ("settings", "config", "code", "words"),
    [
        ({"data.source": "hub"}, None, "en", "The training rows are in English."),  # a folder from before data.config
        ({"data.source": "FreedomIntelligence/Medical-R1-Distill-Data-Chinese"}, "zh", "zh", "rows are in Chinese."),
        ({"data.source": "a/b"}, "default", None, "wrong while sounding sure. What"),
    ],
)
def test_a_card_names_the_language_of_the_training_rows_where_it_is_known(run, settings, config, code, words):
    run = Run(run.path, Config.resolve("smoke", settings))
    measured(run)
    report = read_json(run / "data/report.json")
    write_json(run / "data/report.json", {**report, "provenance": {**report["provenance"], "config": config}})
    card = model_card(run, "adapter", "me/model")
    assert (data_of(card).to_dict().get("language"), "English" in card) == (code, code == "en")
    assert words in " ".join(card.split())
    assert data_of(card).datasets == [hub_dataset(settings["data.source"])]


@pytest.mark.parametrize(
    ("profile", "settings", "base", "licence"),
    [
        ("laptop", {}, "HuggingFaceTB/SmolLM2-135M-Instruct", ("apache-2.0", None)),
        ("smoke", {"model.name": "a/b"}, "a/b", ("other", "https://huggingface.co/a/b")),
    ],
)
def test_a_card_names_the_base_and_its_licence(tmp_path, tokenizer, profile, settings, base, licence):
    card = data_of(model_card(make(tmp_path / "run", tokenizer, settings, profile), "adapter", "me/model"))
    assert (card.base_model, card.license, card.get("license_link")) == (base, *licence)


def test_each_form_has_a_card_in_its_folder(run):
    for kind, form in KINDS.items():
        write_text(run / form.folder / "README.md", model_card(run, kind))
        text = (run / form.folder / "README.md").read_text(encoding="utf-8")
        assert (data_of(text).library_name, data_of(text).language) == (form.library, "en")
        assert "Not for clinical use" in text
        assert data_of(text).metrics is None  # not evaluated yet


# --------------------------------------------------------------------------------------------------------- how to use


def code(card, language):
    return re.findall(f"```{language}\n(.*?)```", card, re.DOTALL)


def test_the_prompt_of_the_card_is_that_of_training(tmp_path, smollm_tokenizer):
    run = open_run("laptop", tmp_path / "run", {"model.prompt_style": "plain"})
    parts = {name: json.loads(text) for name, text in prompt_parts(run).items()}
    prompt = build_prompt(smollm_tokenizer, parts["question"], "plain")
    assert parts["before"] + parts["question"] + parts["after"] == parts["whole"] == prompt  # it has no first token


def test_the_pythons_of_the_cards_run(tmp_path, capsys, r1_tokenizer):
    """As they stand, but for the addresses: the run's folders instead of repositories."""
    run = open_run("smoke", tmp_path / "run")
    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_pretrained(tiny_folder())
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    adapted.save_pretrained(run / "adapter", save_embedding_layers=False)
    r1_tokenizer.save_pretrained(run / "adapter")
    merge(run)
    for kind, folder in {"adapter": "adapter", "merged": "export/merged"}.items():
        [snippet] = code(model_card(run, kind, f"me/{kind}"), "python")
        assert f'"me/{kind}"' in snippet
        snippet = snippet.replace(f"me/{kind}", str(run / folder)).replace('"tiny"', repr(tiny_folder().as_posix()))
        made = {}
        exec(snippet, made)
        assert made["prompt"] == build_prompt(r1_tokenizer, made["question"])
        assert made["output"].shape[1] - made["inputs"]["input_ids"].shape[1] == run.config.generation.max_new_tokens
        assert "\n" in capsys.readouterr().out


def test_the_request_of_the_gguf_card_is_the_prompt_of_training(tmp_path, r1_tokenizer):
    run = make(tmp_path / "run", r1_tokenizer)
    ollama, llama_cpp = code(model_card(run, "gguf", "me/model-GGUF"), "sh")
    assert "hf download me/model-GGUF --local-dir model-GGUF" in ollama
    request = json.loads(re.search("<<'END'\n(.*)\nEND\n", llama_cpp)[1])
    prompt = r1_tokenizer.bos_token + request.pop("prompt")
    assert prompt == build_prompt(r1_tokenizer, json.loads(prompt_parts(run)["question"]))
    settings = run.config.generation
    sampling = {"temperature": settings.temperature, "top_p": 1.0, "top_k": 0, "min_p": 0}
    assert request == {"n_predict": settings.max_new_tokens, **sampling}
    assert (run / re.search(r"-m (\S+)", llama_cpp)[1].replace("model", "export/model", 1)).is_file()
