"""What a GPU decides: compute type, attention, batch, packing, the library that trains; all of it without a GPU."""

import json
import os
import subprocess
import sys
import types
import weakref
from importlib import util

import pytest
import torch
from conftest import fails
from safetensors.torch import load_file

from benchmarks.training import LLAMA_8B, PUBLISHED
from helpers import PROJECT_ROOT, InputError
from helpers.config import Config
from helpers.files import read_json, read_jsonl, write_jsonl
from helpers.lora_training import backends, budget
from helpers.lora_training import train as lora_training
from helpers.lora_training.backends import choose_backend, start_backend
from helpers.lora_training.batches import as_dataset, collator, planned_steps, smaller_batch
from helpers.lora_training.train import train
from helpers.losses import completion_nll
from helpers.machine.hardware import Machine, gpu_settings, gpu_table
from helpers.models.loading import load_base, model_shape
from helpers.models.packaged import tiny_folder
from helpers.prompts.encoding import encode_example
from helpers.run_dir.folder import open_run


def machine(name=None, capability=None, total=None, free=None):
    facts = {"system": "Linux x86_64", "cpu_cores": 8, "memory_gib": 32, "disk_free_gib": 100}
    if name is None:
        return Machine(**facts)
    free = total if free is None else free
    card = {"gpu": name, "gpu_count": 1, "gpu_memory_gib": total, "gpu_free_gib": free}
    return Machine(**facts, **card, compute_capability=capability)


CPU = machine()
T4 = machine("Tesla T4", (7, 5), 14.7)
L4 = machine("NVIDIA L4", (8, 9), 22.0)
A100_40 = machine("NVIDIA A100 40GB", (8, 0), 39.5)
H100 = machine("NVIDIA H100", (9, 0), 79.2)


@pytest.fixture
def on(monkeypatch):
    """Make this machine look like another, Unsloth installed or not."""

    def pretend(other, unsloth=True):
        stage = ("lora_training.backends", "lora_training.train", "lora_training.budget")
        for module in ("machine.hardware", "models.loading", *stage):
            monkeypatch.setattr(sys.modules[f"helpers.{module}"], "describe_machine", lambda: other)
        real = util.find_spec
        monkeypatch.setattr(
            backends.util, "find_spec", lambda name: unsloth or None if name == "unsloth" else real(name)
        )

    return pretend


@pytest.fixture(scope="session")
def encoded(sample_rows, r1_tokenizer):
    rows = sorted(sample_rows, key=lambda row: sum(map(len, row.values())))[:9]
    return [encode_example(r1_tokenizer, row, 512, "native") for row in rows]


# ------------------------------------------------------------------------------------------------- the table of cards


@pytest.mark.parametrize(
    ("card", "dtype", "attention", "four_bit", "packing", "batch", "recompute"),
    [
        (H100, "bfloat16", "varlen", False, True, (4, 1), False),
        (H100.model_copy(update={"gpu_free_gib": 45.0}), "bfloat16", "varlen", True, True, (4, 1), False),
        (A100_40, "bfloat16", "varlen", True, True, (4, 1), False),
        (L4, "bfloat16", "varlen", True, True, (4, 1), True),
        (H100.model_copy(update={"gpu_free_gib": 3.0}), "bfloat16", "varlen", True, True, (4, 1), True),
        (T4, "float16", "sdpa", True, False, (2, 4), True),
        (machine("V100 32GB", (7, 0), 31.7), "float16", "sdpa", True, False, (2, 4), True),
        # A number of its own: as text or in parts, 10.0 would sort below 8.0.
        (machine("B200", (10, 0), 180.0), "bfloat16", "varlen", False, True, (4, 1), False),
    ],
    ids=lambda value: value.gpu if isinstance(value, Machine) else None,
)
def test_a_card_gets_its_column(card, dtype, attention, four_bit, packing, batch, recompute):
    assert (card.compute_dtype, card.fit["attention"]) == (dtype, attention)
    settings = gpu_settings(card)
    assert settings["model.load_in_4bit"] is four_bit
    assert settings["training.packing"] is packing
    assert (settings["training.batch_size"], settings["training.gradient_accumulation"]) == batch
    assert settings["training.gradient_checkpointing"] is recompute


def test_the_tables_columns_are_whole_and_each_can_be_reached():
    columns = gpu_table()
    assert len({tuple(column) for column in columns}) == 1
    for i, column in enumerate(columns):
        capability = tuple(int(part) for part in str(float(column["capability"])).split("."))
        card = machine("card", capability, float(column["free_memory_gib"]) + 1)
        assert card.fit == columns[i]
    assert not any(c["compute_dtype"] == "bfloat16" for c in columns if c["capability"] < 8)
    assert (columns[-1]["capability"], columns[-1]["free_memory_gib"]) == (7, 0)


def test_without_a_card_nothing_is_quantised_or_packed():
    assert CPU.fit == {}
    assert CPU.compute_dtype == "float32"
    assert gpu_settings(CPU)["model.load_in_4bit"] is False
    assert gpu_settings(CPU)["training.packing"] is False


@pytest.mark.parametrize("card", [CPU, T4, H100])
def test_opening_a_folder_settles_every_auto_that_the_table_knows(card, on, unasked, tmp_path):
    on(card)
    config = open_run("full", tmp_path, {"data.source": "sample"}).config
    assert {k: v for k, v in config.flat().items() if k in gpu_settings(card)} == gpu_settings(card)
    assert isinstance(planned_steps(config, 100), int)


def test_a_folder_keeps_what_it_was_made_with_on_another_card(on, unasked, tmp_path):
    on(H100)
    run = open_run("full", tmp_path, {"data.source": "sample"})
    first = run.config
    write_jsonl(run / "data/train.jsonl", [])  # what a stage left behind binds the folder to its settings
    on(L4)
    assert open_run("full", tmp_path, {"data.source": "sample"}).config == first
    assert open_run("auto", tmp_path).config == first
    with pytest.raises(InputError, match=r"training\.batch_size is 4 there, 2 asked"):
        open_run("full", tmp_path, {"data.source": "sample", "training.batch_size": 2})
    forced = open_run("full", tmp_path, {"training.batch_size": 2}, force=True).config
    assert forced == first.from_flat(first.flat(), {"training.batch_size": 2})


def test_the_small_model_is_not_quantised_on_any_card(on, tmp_path):
    on(L4)
    asked = {"data.source": "sample", "model.name": "embedded"}
    assert open_run("full", tmp_path / "auto", asked).config.model.load_in_4bit is False
    assert open_run("full", tmp_path / "asked", {**asked, "model.load_in_4bit": True}).config.model.load_in_4bit is True


def test_what_is_asked_for_goes_before_the_table(on, unasked, tmp_path):
    on(T4)
    config = open_run("full", tmp_path, {"data.source": "sample", "training.batch_size": 6}).config
    assert (config.training.batch_size, config.training.gradient_accumulation) == (6, 4)


# --------------------------------------------------------------------------------------------------------- the backend


@pytest.mark.parametrize(
    ("card", "installed", "asked", "backend"),
    [
        (CPU, False, "auto", "transformers"),
        (CPU, True, "auto", "transformers"),
        (T4, True, "auto", "unsloth"),
        (H100, True, "unsloth", "unsloth"),
        (H100, False, "auto", "transformers"),
        (H100, True, "transformers", "transformers"),
    ],
)
def test_the_backend_depends_on_gpu_installation_and_wish(card, installed, asked, backend, on):
    on(card, unsloth=installed)
    assert choose_backend(Config.resolve("smoke", {"training.backend": asked}), card) == backend


@pytest.mark.parametrize(("card", "why"), [(CPU, "needs a GPU"), (H100, "is not installed")])
def test_unsloth_where_it_cannot_be_is_one_line(card, why, on):
    on(card, unsloth=False)
    with pytest.raises(InputError, match=why):
        choose_backend(Config.resolve("smoke", {"training.backend": "unsloth"}), card)


@pytest.fixture
def fake_unsloth(monkeypatch):
    """Modules named like Unsloth's, as far as this project touches them."""
    calls = []

    class FastLanguageModel:
        @staticmethod
        def from_pretrained(source, **words):
            calls.append(("load", source, words))
            return "model", "tokenizer"

        @staticmethod
        def get_peft_model(model, **words):
            calls.append(("adapters", model, words))
            return "model with adapters"

    unsloth = types.ModuleType("unsloth")
    unsloth.FastLanguageModel = FastLanguageModel
    utils, dispatch = types.ModuleType("unsloth.utils"), types.ModuleType("unsloth.utils.attention_dispatch")
    dispatch._TORCH_VARLEN_ATTN = None
    utils.attention_dispatch, unsloth.utils, unsloth.calls = dispatch, utils, calls
    for module in (unsloth, utils, dispatch):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    for name in ("UNSLOTH_COMPILE_LOCATION", "UNSLOTH_DISABLE_STATISTICS", "UNSLOTH_CE_LOSS_TARGET_GB"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return unsloth


@pytest.fixture
def torch_2_11(monkeypatch):
    """torch's varlen attention as it is in 2.11."""

    def varlen_attn(query, key, value, cu_q, cu_k, max_q, max_k, *, scale=None, window_size=(-1, -1)):
        return query, scale, window_size

    import torch.nn.attention.varlen

    monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", varlen_attn)


@pytest.mark.parametrize(("card", "gib"), [(T4, "0.5"), (H100, "4")])
def test_unsloth_is_started_with_its_cache_in_the_run_folder(card, gib, on, fake_unsloth, tmp_path):
    on(card)
    assert start_backend(open_run("smoke", tmp_path)) == "unsloth"
    assert os.environ["UNSLOTH_COMPILE_LOCATION"] == str(tmp_path / "unsloth_compiled_cache")
    assert os.environ["UNSLOTH_CE_LOSS_TARGET_GB"] == gib


def test_unsloth_is_lent_the_attention_of_torch_2_11(on, fake_unsloth, torch_2_11, tmp_path):
    on(H100)
    start_backend(open_run("smoke", tmp_path))
    lent = fake_unsloth.utils.attention_dispatch._TORCH_VARLEN_ATTN
    answer = lent("q", "k", "v", 0, 0, 1, 1, scale=0.5, window_size=(-1, 0), enable_gqa=True)
    assert answer == ("q", 0.5, (-1, 0))


@pytest.mark.parametrize(
    ("card", "torch_version", "known"),
    [
        (H100, "this machine's, which knows enable_gqa", None),
        (H100, "2.11", "something of its own"),
        (H100, "2.11", "gone"),
        (T4, "2.11", None),  # which could not run it
    ],
)
def test_where_it_is_of_no_use_it_is_not_lent(card, torch_version, known, on, fake_unsloth, tmp_path, request):
    dispatch = fake_unsloth.utils.attention_dispatch
    dispatch._TORCH_VARLEN_ATTN = known
    if torch_version == "2.11":
        request.getfixturevalue("torch_2_11")
    if known == "gone":
        del dispatch._TORCH_VARLEN_ATTN
    on(card)
    start_backend(open_run("smoke", tmp_path))
    assert getattr(dispatch, "_TORCH_VARLEN_ATTN", "gone") == known


def test_a_machine_without_a_gpu_never_imports_unsloth(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "unsloth", None)  # importing it would raise
    assert start_backend(open_run("smoke", tmp_path)) == "transformers"


def test_what_starts_the_backend_has_not_imported_transformers():
    """Unsloth can replace only what is imported after it."""
    code = "import sys, helpers.lora_training.backends; sys.exit('transformers' in sys.modules or 'trl' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT, check=False).returncode == 0


@pytest.mark.parametrize(
    ("card", "four_bit", "dtype", "recompute", "longest", "embedding"),
    [(H100, False, torch.bfloat16, False, 4 * 2048, "auto"), (T4, True, torch.float16, "unsloth", 2048, True)],
)
def test_unsloth_gets_the_settings(card, four_bit, dtype, recompute, longest, embedding, on, fake_unsloth, tmp_path):
    on(card)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_bytes((tiny_folder() / "config.json").read_bytes())
    config = open_run("full", tmp_path / "run", {"data.source": "sample", "model.name": str(folder)}).config
    assert backends.load_trainable(config) == "model with adapters"
    (_, source, load), (_, model, adapters) = fake_unsloth.calls
    assert (source, model) == (str(folder), "model")
    assert (load["load_in_4bit"], load["dtype"], load["max_seq_length"]) == (four_bit, dtype, longest)
    assert (load["offload_embedding"], load["use_exact_model_name"]) == (embedding, True)
    assert (adapters["r"], adapters["lora_alpha"], adapters["random_state"]) == (16, 16, 3407)
    assert adapters["use_gradient_checkpointing"] == recompute
    assert len(adapters["target_modules"]) == 7


# ------------------------------------------------------------------------------------------------------------- packing


def packing(length=1024):
    return Config.resolve("smoke", {"training.packing": True, "model.max_length": length})


def test_packs_hold_every_row_whole_and_once(encoded):
    dataset = as_dataset(packing(), encoded)
    assert len(dataset) < len(encoded)
    rows = []
    for pack in dataset:
        assert len(pack["input_ids"]) == len(pack["labels"]) == sum(pack["seq_lengths"]) <= 1024
        at = 0
        for length in pack["seq_lengths"]:
            rows.append((pack["input_ids"][at : at + length], pack["labels"][at : at + length]))
            at += length
    assert sorted(rows) == sorted((row["input_ids"], row["labels"]) for row in encoded)


@pytest.mark.parametrize("unsloth", [False, True])
def test_a_batch_of_packs_is_one_row_without_padding(encoded, unsloth, r1_tokenizer):
    dataset = as_dataset(packing(), encoded)
    batch = collator(packing(), r1_tokenizer.pad_token_id, unsloth)(list(dataset))
    assert batch["input_ids"].shape == (1, sum(len(row["input_ids"]) for row in encoded))
    assert "attention_mask" not in batch
    lengths = [length for pack in dataset for length in pack["seq_lengths"]]
    assert batch["position_ids"].tolist() == [[i for length in lengths for i in range(length)]]
    assert ("packed_seq_lengths" in batch) == unsloth
    if unsloth:
        assert batch["packed_seq_lengths"].tolist() == lengths
        assert batch["packed_seq_lengths"].dtype == torch.int32
    # What the loss sees, document by document: the thought, the answer and the end, and nothing of another row.
    trained = [
        r1_tokenizer.decode([t for t in part.tolist() if t != -100]) for part in batch["labels"][0].split(lengths)
    ]
    expected = [r1_tokenizer.decode([t for t in row["labels"] if t != -100]) for row in encoded]
    assert sorted(trained) == sorted(expected)
    assert all(text.endswith(r1_tokenizer.eos_token) and "</think>" in text for text in trained)


@pytest.fixture(scope="session")
def attentive():
    """The tiny model with weights large enough that what it looks at shows."""
    model = load_base(Config.resolve("smoke"))
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "proj" in name:
                weight.normal_(std=0.3)
    return model


def losses_in_pack(model, rows, pad):
    """Each row's loss as it comes out of one forward pass over all rows laid end to end."""
    pack = {
        "input_ids": [t for row in rows for t in row["input_ids"]],
        "labels": [t for row in rows for t in row["labels"]],
        "seq_lengths": [len(row["input_ids"]) for row in rows],
    }
    batch = collator(packing(), pad, unsloth=False)([pack])
    with torch.inference_mode():
        logits = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits[0]
    losses = torch.nn.functional.cross_entropy(logits[:-1], batch["labels"][0, 1:], reduction="none")
    found, at = [], 0
    for row in rows:
        n = len(row["input_ids"])
        kept = batch["labels"][0, at + 1 : at + n] != -100
        found.append(losses[at : at + n - 1][kept].mean().item())
        at += n
    return found


def test_a_rows_loss_does_not_depend_on_its_neighbours_in_the_pack(attentive, encoded, r1_tokenizer):
    pad = r1_tokenizer.pad_token_id
    alone = completion_nll(attentive, encoded[:4], pad)
    assert losses_in_pack(attentive, encoded[:4], pad) == pytest.approx(alone, abs=1e-4)
    mixed = losses_in_pack(attentive, [encoded[7], encoded[2], encoded[5]], pad)
    assert mixed[1] == pytest.approx(alone[2], abs=1e-4)
    # The measurement would notice: without the positions that mark a row's beginning, the neighbour is seen.
    joined = torch.tensor([encoded[7]["input_ids"] + encoded[2]["input_ids"]])
    with torch.inference_mode():
        logits = attentive(input_ids=joined, use_cache=False).logits[0, len(encoded[7]["input_ids"]) :]
    seen = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(encoded[2]["labels"][1:]), ignore_index=-100)
    assert abs(seen.item() - alone[2]) > 1e-3


def test_packed_and_padded_training_see_the_same_rows_and_losses(sample_rows, tmp_path):
    """One step over all rows, each way: the loss before any learning is the same, and B moves."""
    rows = sorted(sample_rows, key=lambda row: sum(map(len, row.values())))[:6]
    first = {}
    for packed, batch in ((False, 6), (True, 8)):
        settings = {"training.packing": packed, "training.batch_size": batch, "training.max_steps": 1}
        run = open_run(
            "smoke", tmp_path / str(packed), {**settings, "training.validations": 1, "training.warmup_steps": 0}
        )
        write_jsonl(run / "data/train.jsonl", rows)
        write_jsonl(run / "data/validation.jsonl", rows[:2])
        metrics = train(run)
        log = read_jsonl(run / "training/log.jsonl")
        first[packed] = next(row for row in log if "loss" in row)
        assert metrics["backend"] == "transformers"
        weights = load_file(run / "adapter/adapter_model.safetensors")
        assert all(value.abs().sum() > 0 for name, value in weights.items() if "lora_B" in name)
    assert first[True]["loss"] == pytest.approx(first[False]["loss"], rel=1e-4)
    assert first[True]["tokens"] == first[False]["tokens"]
    assert first[True]["tokens_per_second"] > 0
    assert first[True]["memory_gib"] > 0


# ------------------------------------------------------------------------------------------------------- out of memory


def test_a_smaller_batch_keeps_the_rows_of_a_step():
    assert smaller_batch(8, 1) == (4, 2)
    assert smaller_batch(2, 4) == (1, 8)
    assert smaller_batch(9, 1) == (3, 3)
    assert smaller_batch(5, 2) == (1, 10)
    with pytest.raises(InputError, match="out of GPU memory with one row at a time"):
        smaller_batch(1, 16)


def test_out_of_memory_halves_the_batch_says_so_and_goes_on(sample_rows, tmp_path, monkeypatch, capsys):
    rows = sorted(sample_rows, key=lambda row: sum(map(len, row.values())))[:12]
    run = open_run("smoke", tmp_path, {"training.batch_size": 4})
    write_jsonl(run / "data/train.jsonl", rows[:8])
    write_jsonl(run / "data/validation.jsonl", rows[8:])
    usual, steps, sums, failed, loaded = lora_training.trainer_class, [], [], [], []

    def small_card(unsloth):
        class SmallCard(usual(unsloth)):
            def training_step(self, model, inputs, *args, **kwargs):
                size, adapter = len(inputs["input_ids"]), [w for n, w in model.named_parameters() if "lora_B" in n]
                # The third step is one too many for two rows: one whole checkpoint is there by then.
                if size > 2 or (size == 2 and self.state.global_step == 2):
                    failed.append(weakref.ref(self))
                    for weight in adapter:
                        weight.data.fill_(1.0)  # as far as the failed attempt may have come
                    raise torch.OutOfMemoryError("CUDA out of memory.")
                steps.append((self.state.global_step, size))
                sums.append(sum(weight.abs().sum().item() for weight in adapter))
                return super().training_step(model, inputs, *args, **kwargs)

        return SmallCard

    def load_once(config):
        loaded.append(config)  # on a card there is no room for two models
        return backends.load_trainable(config)

    monkeypatch.setattr(lora_training, "trainer_class", small_card)
    monkeypatch.setattr(lora_training, "load_trainable", load_once)
    metrics = train(run)
    assert len(loaded) == 1
    assert [trainer() for trainer in failed] == [None, None]  # and with them their optimizers and activations
    assert sums[:2] == [0, 0]  # training began again from the beginning ...
    assert 0 < sums[4] < 100  # ... then from the checkpoint
    assert (metrics["micro_batch"], metrics["gradient_accumulation"]) == (1, 4)
    assert (metrics["steps"], metrics["resumed_from"]) == (4, 2)
    assert steps == [(0, 2)] * 2 + [(1, 2)] * 2 + [(2, 1)] * 4 + [(3, 1)] * 4
    said = [line for line in capsys.readouterr().out.splitlines() if "out of GPU memory" in line]
    assert said == [
        "out of GPU memory: continuing with micro-batches of 2, 2 to a step",
        "out of GPU memory: continuing with micro-batches of 1, 4 to a step",
    ]
    log = read_jsonl(run / "training/log.jsonl")
    assert [row["step"] for row in log if "loss" in row] == [1, 2, 3, 4]


# ------------------------------------------------------------------------------------------------------ several cards


def test_one_of_several_processes_cannot_go_on_alone(sample_rows, tmp_path, monkeypatch):
    run = open_run("smoke", tmp_path)
    write_jsonl(run / "data/train.jsonl", sample_rows[:4])
    write_jsonl(run / "data/validation.jsonl", sample_rows[4:6])

    monkeypatch.setattr(lora_training, "_train_once", fails(torch.OutOfMemoryError("CUDA out of memory.")))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="out of GPU memory on one of several GPUs"):
        train(run)


# ------------------------------------------------------------------------------------------------------------- budget


@pytest.fixture
def llama_8b(tmp_path):
    folder = tmp_path / "llama"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "tie_word_embeddings": False, **LLAMA_8B}))
    return str(folder)


def test_the_shape_of_the_8b_model_is_read_off_its_configuration(llama_8b):
    shape = model_shape(Config.resolve("full", {"model.name": llama_8b}).model)
    norms = (2 * 32 + 1) * 4096
    assert shape["linear"] + shape["embeddings"] + norms == 8_030_261_248  # what the published checkpoint holds
    assert shape["lora_per_rank"] * 16 == 41_943_040


def test_the_shape_agrees_with_a_loaded_model():
    config = Config.resolve("smoke")
    shape, model = model_shape(config.model), load_base(config)
    norms = sum(p.numel() for name, p in model.named_parameters() if "norm" in name)
    assert shape["linear"] + shape["embeddings"] + norms == model.num_parameters()


@pytest.mark.parametrize(
    ("overrides", "length", "rate", "tokens_per_second", "peak"),
    [
        # Measured on one H100 (benchmarks/results/training-h100.json).
        ({}, 344, 776e12, 14_232, 43.4),
        ({"model.load_in_4bit": True}, 344, 753e12, 14_103, 33.9),
        (PUBLISHED, 344, 768e12, 1_786, 7.1),
        # Measured there before this project began: rows of 500 tokens, the second sixteen at a time, in bfloat16.
        (PUBLISHED, 500, 800e12, 2_203, 6.4),
        ({**PUBLISHED, "model.load_in_4bit": False, "training.batch_size": 16}, 500, 800e12, 7_000, 17.4),
    ],
    ids=["full", "full in 4 bit", "published settings", "longer rows", "larger batches"],
)
def test_the_budget_is_near_what_was_measured(overrides, length, rate, tokens_per_second, peak, on, llama_8b, tmp_path):
    on(H100)
    overrides = {"model.name": llama_8b, "data.source": "sample", **overrides, "training.max_steps": -1}
    config = open_run("full", tmp_path / "run", overrides).config
    rows = [{"input_ids": [1] * length, "labels": [1] * length}] * 4000
    units = 4000 * length // 2048 if config.training.packing else 4000
    plan = budget.training_budget(config, rows, units, rate)
    assert plan["tokens"] / (plan["minutes"] * 60) == pytest.approx(tokens_per_second, rel=0.2)
    assert plan["memory_gib"] == pytest.approx(peak, rel=0.25)
    assert plan["tokens"] == pytest.approx(4000 * length, rel=0.01)


@pytest.mark.parametrize(("variant", "four_bit", "epochs"), [("full", False, 8), ("full 4-bit", True, 4)])
def test_the_plan_of_a_short_training_counts_the_first_steps(variant, four_bit, epochs, on, llama_8b, tmp_path):
    on(H100)
    found = read_json(PROJECT_ROOT / "benchmarks/results/plan-h100.json")["results"][variant]
    overrides = {"model.name": llama_8b, "model.load_in_4bit": four_bit, "training.epochs": epochs}
    config = open_run("full", tmp_path / "run", {"data.source": "sample", **overrides}).config
    rows = [{"input_ids": [1] * 773, "labels": [1] * 773}] * 159  # in 63 packs
    plan = budget.training_budget(config, rows, 63, found["matmul_tflops"] * 1e12)
    assert plan["steps"] == found["happened"]["steps"]
    assert plan["minutes"] * 60 == pytest.approx(found["happened"]["seconds"], rel=0.15)


def test_the_plan_counts_the_corpus_once_and_what_it_takes():
    settings = {"training.batch_size": 2, "training.gradient_accumulation": 3, "training.packing": False}
    config = Config.resolve("smoke", {**settings, "training.max_steps": -1, "training.epochs": 2})
    rows, texts = ([{"input_ids": [1] * length}] * n for length, n in ((10, 60), (100, 30)))
    alone, both = (budget.training_budget(config, rows, 60, 1e11, *more) for more in ((), (texts, 30)))
    assert (alone["steps"], both["steps"]) == (20, 25)
    assert (alone["tokens"], both["tokens"]) == (1200, 1200 + 3000)
    assert both["minutes"] == pytest.approx(alone["minutes"] * 4200 / 1200)
    assert both["memory_gib"] > alone["memory_gib"]


def test_the_machines_rate_is_measured():
    assert 1e9 < budget.matmul_rate() < 1e16


def test_plan_and_outcome_stand_side_by_side():
    metrics = {"steps": 3, "tokens": 1000, "seconds": 90.0, "peak_memory_gib": 1.26}
    table = budget.budget_table({"steps": 3, "tokens": 1200, "minutes": 1.04, "memory_gib": 1.0}, metrics)
    assert table["tokens"] == ("1,200", "1,000")
    assert table["minutes"] == ("1.0", "1.5")
    assert table["memory, GiB"] == ("1.0", "1.3")
