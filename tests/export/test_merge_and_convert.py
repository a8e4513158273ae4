"""Stage 06: the merged folder is the base model plus the adapter, file by file, and whole or not there."""

import shutil
import weakref
from types import SimpleNamespace

import huggingface_hub
import pytest
import safetensors.torch
import torch
from conftest import fails, refusal
from huggingface_hub.utils import filter_repo_objects
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers import InputError
from helpers.export import files
from helpers.export import merge as export
from helpers.export.files import check_room
from helpers.export.gguf import convert
from helpers.export.merge import merge
from helpers.files import read_json, write_json
from helpers.models import converter
from helpers.models import loading as models
from helpers.models.loading import PROBE, load_tokenizer, model_shape
from helpers.models.packaged import tiny_folder
from helpers.models.portable import portable_config
from helpers.prompts.encoding import build_prompt
from helpers.run_dir.folder import open_run

INDEX = "model.safetensors.index.json"
ADAPTER = "adapter/adapter_model.safetensors"
IDS = torch.arange(300, 340)[None]
HUB_ID = "organisation/model"
QUESTION = "What is the first-line drug\nfor anaphylaxis?"


def load(folder, **how):
    return AutoModelForCausalLM.from_pretrained(folder, **how).eval()


def make_base(folder, dtype=torch.float32, shard="5GB"):
    shutil.copytree(tiny_folder(), folder)
    (folder / "model.safetensors").unlink()
    load(tiny_folder(), dtype=dtype).save_pretrained(folder, max_shard_size=shard)
    return folder


def make(folder, base, **lora):
    """A run with an adapter on a base model, whose change is large enough to be seen."""
    run = open_run("smoke", folder / "run", {"model.name": str(base)})
    torch.manual_seed(1)
    settings = {"r": 4, "lora_alpha": 12, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    model = get_peft_model(load(base), LoraConfig(**settings | lora))
    for key, weight in model.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(weight, std=0.05)
    model.save_pretrained(run / "adapter", save_embedding_layers=False)
    return SimpleNamespace(run=run, base=base)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture
def made(base, tmp_path):
    return make(tmp_path, base)


@pytest.fixture
def own(base, tmp_path):
    """With a base model that a test may change."""
    return make(tmp_path, shutil.copytree(base, tmp_path / "base"))


def by_peft(made):
    """The merge that holds the whole model, in float32."""
    model = PeftModel.from_pretrained(load(made.base, dtype=torch.float32), str(made.run / "adapter"))
    return model.merge_and_unload()


def logits(model):
    with torch.inference_mode():
        return model.float()(IDS).logits


def check(made, dtype):
    """The merged folder loads, and is PEFT's merge but for the rounding to `dtype`."""
    folder = merge(made.run)
    assert folder == made.run / "export/merged"
    merged, whole = load(folder), by_peft(made)
    weights, expected = merged.state_dict(), whole.state_dict()
    assert {weight.dtype for weight in weights.values()} == {dtype}
    assert merged.config.dtype == dtype
    assert weights.keys() == expected.keys()
    for key, weight in weights.items():
        torch.testing.assert_close(weight.float(), expected[key], rtol=torch.finfo(dtype).eps, atol=1e-7)
    ours, peft, base = logits(merged), logits(whole), logits(load(made.base))
    assert (ours - peft).abs().max() < (base - peft).abs().max() / 20
    assert (base - peft).abs().max() > 0.1
    return folder


def names(folder):
    return {file.name for file in folder.iterdir()}


def one_line(made):
    line = refusal(merge, made.run)
    assert not (made.run / "export/merged").exists()
    return line


# ------------------------------------------------------------------------------------------------------------ numbers


@pytest.mark.parametrize("lora", [{}, {"use_rslora": True, "target_modules": ["q_proj", "down_proj"]}])
def test_merging_is_what_peft_does(base, tmp_path, lora):
    made = make(tmp_path, base, **lora)
    folder = check(made, torch.float16)
    assert names(folder) == names(made.base)
    for name in ("tokenizer.json", "generation_config.json"):
        assert (folder / name).read_bytes() == (made.base / name).read_bytes()
    written = read_json(made.base / "config.json") | {"dtype": "float16"}
    assert read_json(folder / "config.json") == portable_config(written)
    assert read_json(folder / "tokenizer_config.json")["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_the_merged_folder_asks_as_training_did_and_can_be_a_base_again(made, r1_tokenizer):
    merged = str(merge(made.run))
    messages = [{"role": "user", "content": QUESTION}]
    loaded = AutoTokenizer.from_pretrained(merged)
    asked = loaded.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    again = load_tokenizer(made.run.config.model.model_copy(update={"name": merged}))
    assert asked == build_prompt(r1_tokenizer, QUESTION) == build_prompt(again, QUESTION)
    assert loaded(PROBE)["input_ids"] == again(PROBE)["input_ids"] == r1_tokenizer(PROBE)["input_ids"]


def test_a_model_is_split_into_files_of_our_size(tmp_path, monkeypatch):
    made = make(tmp_path, make_base(tmp_path / "base", torch.bfloat16, "100KB"))
    assert len(list(made.base.glob("*.safetensors"))) > 2
    assert "model.safetensors" in names(merge(made.run))
    limit = 60_000
    monkeypatch.setattr(export, "SHARD", limit)
    folder = check(made, torch.bfloat16)
    index = read_json(folder / INDEX)
    files = {name: load_file(folder / name) for name in dict.fromkeys(index["weight_map"].values())}
    assert list(files) == [f"model-{i:05}-of-{len(files):05}.safetensors" for i in range(1, len(files) + 1)]
    assert {key: name for name, tensors in files.items() for key in tensors} == index["weight_map"]
    sizes = {name: sum(tensor.nbytes for tensor in tensors.values()) for name, tensors in files.items()}
    assert all(size <= limit or len(files[name]) == 1 for name, size in sizes.items())
    assert index["metadata"] == {"total_size": sum(sizes.values())}
    assert names(folder) == {INDEX, *files, *(name for name in names(made.base) if "safetensors" not in name)}


def test_every_tensor_keeps_its_kind(own):
    weights = load_file(own.base / "model.safetensors")
    weights |= {"extra.ids": torch.arange(5), "extra.wide": torch.ones(3, dtype=torch.float64)}
    weights["model.norm.weight"] = weights["model.norm.weight"].bfloat16()
    save_file(weights, own.base / "model.safetensors")
    merged = load_file(merge(own.run) / "model.safetensors")
    assert merged.keys() == weights.keys()
    kinds = {"extra.ids": torch.int64, "model.norm.weight": torch.bfloat16}
    assert {key: tensor.dtype for key, tensor in merged.items()} == {**dict.fromkeys(merged, torch.float16), **kinds}
    assert merged["extra.ids"].tolist() == [0, 1, 2, 3, 4]


# ------------------------------------------------------------------------------------------------------------- memory


def test_no_more_than_one_file_is_in_memory(made, monkeypatch):
    held = []

    def save(tensors, *more, **options):
        assert not any(tensor() is not None for tensor in held)
        held.extend(map(weakref.ref, tensors.values()))
        save_file(tensors, *more, **options)

    monkeypatch.setattr(export, "SHARD", 60_000)
    with monkeypatch.context() as patch:
        patch.setattr(AutoModelForCausalLM, "from_pretrained", fails(AssertionError("the whole model was loaded")))
        patch.setattr(safetensors.torch, "save_file", save)
        merge(made.run)
    assert len(held) == len(load_file(made.base / "model.safetensors"))
    assert len(list((made.run / "export/merged").glob("*.safetensors"))) > 2


# ----------------------------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize("older", [False, True])
def test_a_failure_in_the_middle_leaves_what_was_there(made, monkeypatch, older):
    saved = []

    def save(tensors, target, **options):
        saved.append(target)
        if len(saved) == 3:
            raise OSError(28, "No space left on device")
        save_file(tensors, target, **options)

    monkeypatch.setattr(export, "SHARD", 60_000)
    if older:
        (made.run / "export/merged").mkdir(parents=True)
        (made.run / "export/merged/old").touch()
    monkeypatch.setattr(safetensors.torch, "save_file", save)
    with pytest.raises(OSError, match="No space left"):
        merge(made.run)
    assert [path.name for path in (made.run / "export").rglob("*")] == ["merged", "old"] * older


@pytest.mark.parametrize("sides", ["AB", "B"])
def test_an_adapter_that_the_base_has_no_place_for(made, sides):
    weights = load_file(made.run / ADAPTER)
    stray = "base_model.model.model.layers.7.mlp.up_proj.lora_{}.weight"
    weights |= {stray.format(side): torch.ones(4, 4) for side in sides}
    save_file(weights, made.run / ADAPTER)
    with pytest.raises(RuntimeError, match=stray.format(sides[0])):
        merge(made.run)
    assert list((made.run / "export").iterdir()) == []


def without_adapter(made):
    shutil.rmtree(made.run / "adapter")


def quantised(made):
    config = read_json(made.base / "config.json") | {"quantization_config": {"quant_method": "bitsandbytes"}}
    write_json(made.base / "config.json", config)


def not_in_safetensors(made):
    (made.base / "model.safetensors").rename(made.base / "pytorch_model.bin")


def without_a_shard(made):
    not_in_safetensors(made)
    write_json(made.base / INDEX, {"weight_map": {"model.norm.weight": "gone.safetensors"}})


def cut_off(name):
    """A file, of the run or of its base, that has lost its last byte."""

    def damage(made):
        path = made.run / name if name.startswith("adapter") else made.base / name
        path.write_bytes(path.read_bytes().rstrip()[:-1])

    return damage


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        *(
            (cut_off(name), f"{name} is damaged (")
            for name in (ADAPTER, "adapter/adapter_config.json", "model.safetensors", "config.json")
        ),
        (without_adapter, "run 04_lora_training first"),
        (quantised, "set model.name to the 16-bit model"),
        (not_in_safetensors, "has no model.safetensors; merging needs safetensors"),
        (without_a_shard, "has no gone.safetensors"),
    ],
)
def test_what_cannot_be_merged_is_said_in_one_line(own, damage, said):
    damage(own)
    assert said in one_line(own)


# ------------------------------------------------------------------------------------------------------------ the hub


def on_the_hub(made, folder):
    run = open_run("smoke", folder, {"model.name": HUB_ID, "model.revision": "v2"})
    shutil.copytree(made.run / "adapter", run / "adapter")
    return SimpleNamespace(run=run, base=made.base)


def test_a_base_from_the_hub(own, tmp_path, unasked, monkeypatch, r1_tokenizer):
    calls = []

    def download(repo, **options):
        calls.append((repo, options.pop("revision"), options))
        return str(own.base)

    monkeypatch.setattr(models, "ask_first", lambda *_: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(export, "load_tokenizer", lambda settings: r1_tokenizer)
    monkeypatch.setattr(models, "model_file", lambda settings, name: str(own.base / name))
    # A whole file goes before an index.
    write_json(own.base / INDEX, {"weight_map": {"model.norm.weight": "another.safetensors"}})
    folder = check(on_the_hub(own, tmp_path / "hub"), torch.float16)
    assert "tokenizer.json" in names(folder)
    assert INDEX not in names(folder)
    [(repo, revision, patterns)] = calls
    assert (repo, revision) == (HUB_ID, "v2")
    wanted = ["config.json", "generation_config.json", INDEX, "model-00001-of-00002.safetensors"]
    others = ["consolidated.safetensors", "original/model.safetensors", "pytorch_model.bin", "README.md"]
    assert list(filter_repo_objects(wanted + others, **patterns)) == wanted


# ---------------------------------------------------------------------------------------------------- room, and failing


@pytest.fixture
def free(monkeypatch):
    """Sets what is free, in bytes; at first plenty."""

    def there(disk=2**50, memory=2**50):
        monkeypatch.setattr(files.shutil, "disk_usage", lambda path: SimpleNamespace(free=disk))
        monkeypatch.setattr(files.psutil, "virtual_memory", lambda: SimpleNamespace(available=memory))

    there()
    return there


def test_what_an_earlier_export_left_goes_only_when_its_successor_is_whole(made, free):
    shape = model_shape(made.run.config.model)
    weights = shape["linear"] + shape["embeddings"]
    free(disk=weights * 5.6)  # merged 2 + f16 2 + q8_0 1.06 + q4_k_m 0.61 = 5.67 bytes a weight
    assert "the export needs 0.0 GiB in" in refusal(check_room, made.run)
    free()
    older = {"merged/model.safetensors": 2, "model-f16.gguf": 2, "model-q8_0.gguf": 34 / 32, "model-q4_k_m.gguf": 0.61}
    (made.run / "export/merged").mkdir(parents=True)
    for name, size in older.items():
        (made.run / "export" / name).write_bytes(bytes(int(size * weights)))
    (made.run / "export/other.gguf").write_bytes(bytes(weights))  # stays
    assert check_room(made.run)["disk_gib"] == pytest.approx(weights * 2 / 2**30)  # the merged folder, beside the older


def test_the_sizes_are_those_of_an_8b_model(made, free, monkeypatch):
    head = 525_336_576
    shape = {"linear": 6_979_321_856, "embeddings": 2 * head, "head": head}  # of Llama-3.1-8B; its q8_0 file: 8.54 GB
    monkeypatch.setattr(files, "model_shape", lambda settings: shape)
    room = check_room(made.run)
    assert room["disk_gib"] * 2**30 / 1e9 == pytest.approx(16.06 + 16.06 + 8.54 + 4.92, rel=0.01)
    assert room["memory_gib"] == pytest.approx(4.4, abs=0.1)  # 4.2 were seen to be taken
    free(memory=3 * 2**30)
    assert (
        refusal(check_room, made.run)
        == "the export needs 4.4 GiB of memory, and 3.0 GiB are free: close other programs"
    )


def test_a_failed_conversion_leaves_the_older_file(made, monkeypatch, tmp_path):
    merge(made.run)
    older = made.run / "export/model-f16.gguf"
    older.write_bytes(b"older")
    with monkeypatch.context() as broken:
        (tmp_path / "convert_hf_to_gguf.py").write_text("raise SystemExit('no such architecture')")
        broken.setattr(converter, "converter_folder", lambda: tmp_path)
        with pytest.raises(RuntimeError, match="the GGUF converter failed: no such architecture"):
            convert(made.run, "f16")
    assert older.read_bytes() == b"older"
    assert names(made.run / "export") == {"merged", "model-f16.gguf"}
    older.unlink()
    with pytest.raises(InputError, match=r"no export/model-f16\.gguf yet"):
        convert(made.run, "q8_0")
