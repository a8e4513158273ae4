"""Nothing in a folder of somebody else's is unpickled or run: models, adapters, checkpoints, code of their own."""

import os
import shutil

import pytest
import torch
from conftest import refusal

from helpers.config import Config
from helpers.export.merge import merge
from helpers.files import read_json, write_json, write_jsonl
from helpers.knowledge.dense import FusedIndex
from helpers.lora_training.checkpoints import last_checkpoint, mark_complete
from helpers.lora_training.train import train
from helpers.models.loading import check_model, load_base, load_tokenizer, load_with_adapter
from helpers.models.packaged import tiny_folder
from helpers.run_dir.folder import open_run
from helpers.run_dir.layout import ADAPTER
from helpers.use.ask import local_answerers


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def sprung(tmp_path):
    """What a trap makes: it must not be there at the end."""
    yield tmp_path / "sprung"
    assert not (tmp_path / "sprung").exists()


@pytest.fixture
def base(tmp_path):
    shutil.copytree(tiny_folder(), tmp_path / "base")
    return tmp_path / "base"


def trap(path, sprung):
    torch.save({"model.norm.weight": Trap(sprung)}, path)


def test_the_trap_works(tmp_path):
    trap(tmp_path / "x.bin", tmp_path / "made")
    torch.load(tmp_path / "x.bin", weights_only=False)
    assert (tmp_path / "made").is_dir()


def embedder(base):
    return FusedIndex(base.parent / "index.sqlite", str(base))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth"])
def test_a_model_folder_with_pickles_alone_is_refused(base, sprung, name):
    (base / "model.safetensors").unlink()
    trap(base / name, sprung)
    config = Config.resolve("smoke", {"model.name": str(base)})
    for call in (check_model, load_base):
        assert refusal(call, config) == f"{base} has no weights in safetensors, and others (.bin, .pt) are not opened"
    embed = embedder(base).embed
    assert "no file named model.safetensors" in refusal(embed, ["fever"])


def test_a_pickle_beside_the_weights_stays_shut(base, sprung):
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt"):
        trap(base / name, sprung)
    load_base(Config.resolve("smoke", {"model.name": str(base)}))


@pytest.mark.parametrize("kind", ["llama", "of_their_own"])
def test_code_that_a_model_brings_is_not_run_nor_asked_about(base, sprung, kind, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # what transformers would ask
    (base / "code.py").write_text(f"import os\nos.mkdir({str(sprung)!r})\nclass Theirs:\n    pass\n")
    classes = dict.fromkeys(("AutoConfig", "AutoModelForCausalLM", "AutoModel"), "code.Theirs")
    for name, more in (
        ("config.json", {"model_type": kind, "auto_map": classes}),
        ("tokenizer_config.json", {"tokenizer_class": "Theirs", "auto_map": {"AutoTokenizer": ["code.Theirs"] * 2}}),
    ):
        write_json(base / name, read_json(base / name) | more)
    config = Config.resolve("smoke", {"model.name": str(base)})
    assert load_tokenizer(config.model).eos_token_id is not None
    if kind == "llama":  # known here: the library's own classes are taken
        check_model(config)
        load_base(config)
    else:
        for call in (check_model, load_base):
            assert "needs code of its own (auto_map), which is not run" in refusal(call, config)
        refusal(embedder(base).embed, ["fever"])


def test_an_adapter_in_a_pickle_is_refused_wherever_it_is_used(tiny_run, tmp_path, sprung):
    shutil.copytree(tiny_run.run.path, tmp_path / "run")
    run = open_run("auto", tmp_path / "run")
    trap(run / "adapter/adapter_model.bin", sprung)
    load_with_adapter(run.config, run / "adapter")  # it stays shut beside the weights
    (run / ADAPTER[0]).unlink()
    for call in (
        lambda: load_with_adapter(run.config, run / "adapter"),
        lambda: local_answerers(run, ["tuned"]),
        lambda: merge(run),
    ):
        assert "adapter_model.safetensors" in refusal(call)


@pytest.fixture(scope="module")
def checkpointed(tmp_path_factory, sample_rows):
    """A training that was stopped after its first checkpoint."""
    run = open_run("smoke", tmp_path_factory.mktemp("stopped") / "run", {"training.max_steps": 2})
    rows = sorted(sample_rows, key=lambda row: sum(map(len, row.values())))[:6]
    write_jsonl(run / "data/train.jsonl", rows[:4])
    write_jsonl(run / "data/validation.jsonl", rows[4:])
    train(run)
    for name in ("adapter", "checkpoints/checkpoint-2"):
        shutil.rmtree(run / name)
    return run


@pytest.mark.parametrize("name", ["optimizer.pt", "adapter_model.bin"])
def test_a_pickle_in_a_checkpoint_stays_shut(checkpointed, tmp_path, sprung, name):
    """Also where its marker is right, as somebody who plants it would see to."""
    shutil.copytree(checkpointed.path, tmp_path / "run")
    run = open_run("auto", tmp_path / "run")
    newest = run / "checkpoints/checkpoint-1"
    trap(newest / name, sprung)
    if name == "adapter_model.bin":
        (newest / "adapter_model.safetensors").unlink()
    (newest / "complete").unlink()
    mark_complete(run, newest)
    assert last_checkpoint(run) == (newest, 1)
    assert f"{newest} holds a pickle" in refusal(train, run)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
@pytest.mark.parametrize("size", [0, 100])
def test_an_adapter_that_is_cut_off_is_one_line(tiny_run, tmp_path, name, size):
    shutil.copytree(tiny_run.run / "adapter", tmp_path / "adapter")
    (tmp_path / "adapter" / name).write_bytes((tmp_path / "adapter" / name).read_bytes()[:size])
    message = refusal(load_with_adapter, tiny_run.run.config, tmp_path / "adapter")
    assert message.startswith(f"cannot load the adapter {tmp_path}/adapter: ")
