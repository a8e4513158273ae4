"""Training and generation on the tiny model: what a run leaves, how it resumes, and what the numbers mean."""

import copy
import json
import math
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import contents, settings_read
from safetensors.torch import load_file
from trainings import Killed, killed_at, losses

from helpers import InputError, StoppedError
from helpers.config import Config
from helpers.files import read_json, read_jsonl, write_json, write_jsonl
from helpers.lora_training import checkpoints, journal, stopping
from helpers.lora_training import train as lora_training
from helpers.lora_training.backends import load_trainable
from helpers.lora_training.batches import load_split, planned_steps
from helpers.lora_training.checkpoints import last_checkpoint, take_over
from helpers.lora_training.train import sft_config, train
from helpers.losses import completion_nll
from helpers.machine.hardware import Machine
from helpers.models import loading as models
from helpers.models.loading import load_tokenizer, load_with_adapter
from helpers.models.packaged import tiny_folder
from helpers.prompts.encoding import encode_example
from helpers.run_dir.backup import back_up
from helpers.run_dir.folder import Run, open_run
from helpers.run_dir.layout import ADAPTER, STAGES
from helpers.run_dir.stopping import STARTED, tell_training_to_stop

STEPS = 4  # of the smoke profile, with a checkpoint and a validation at 2 and at 4


def make_run(folder, rows, **overrides):
    """A run folder as 03 leaves it, as far as 04 looks: eight rows to train on and four to validate."""
    run = open_run("smoke", folder, {key.replace("__", "."): value for key, value in overrides.items()})
    write_jsonl(run / "data/train.jsonl", rows[:8])
    write_jsonl(run / "data/validation.jsonl", rows[8:])
    return run


@pytest.fixture(scope="module")
def trained(short_rows, tmp_path_factory):
    """One whole training: the run, what `train` returned, and how long the log was whenever it grew."""
    run = make_run(tmp_path_factory.mktemp("trained") / "run", short_rows)
    grown = []
    with settings_read() as read:
        metrics = train(run, watch=lambda log: grown.append(len(log)))
    log = read_jsonl(run / "training/log.jsonl")
    return SimpleNamespace(run=run, metrics=metrics, grown=grown, log=log, read=read)


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of that run, finished."""
    shutil.copytree(trained.run.path, tmp_path / "run")
    return open_run("auto", tmp_path / "run")


@pytest.fixture
def interrupted(trained, tmp_path):
    """A copy of that run as it was before its adapter was written."""
    shutil.copytree(trained.run.path, tmp_path / "run")
    run = open_run("smoke", tmp_path / "run")
    shutil.rmtree(run / "adapter")
    (run / "training/metrics.json").unlink()
    return run


def validations(log):
    return {row["step"]: row["validation_nll"] for row in log if "validation_nll" in row}


def adapter_weights(run):
    return load_file(run / "adapter/adapter_model.safetensors")


# ---------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("gpu", "capability", "asked", "bf16", "fp16"),
    [
        ("Tesla T4", (7, 5), "auto", False, True),
        ("A100-SXM4-40GB", (8, 0), "auto", True, False),
        ("L4", (8, 9), "auto", True, False),
        ("H100", (9, 0), "auto", True, False),
        ("H100", (9, 0), "float16", False, True),
        ("H100", (9, 0), "float32", False, False),
        (None, None, "auto", False, False),
    ],
)
def test_the_machine_decides_on_half_precision(monkeypatch, trained, gpu, capability, asked, bf16, fp16):
    """A T4 emulates bfloat16 and says that it supports it, and TRL would switch it on by itself."""
    machine = Machine(
        system="Linux x86_64",
        cpu_cores=2,
        memory_gib=12,
        disk_free_gib=50,
        gpu=gpu,
        gpu_count=int(gpu is not None),
        compute_capability=capability,
    )
    for module in (lora_training, models):
        monkeypatch.setattr(module, "describe_machine", lambda: machine)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu is not None)
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True)
    monkeypatch.setattr("transformers.training_args.TrainingArguments._setup_devices", torch.device("cpu"))
    monkeypatch.setattr("transformers.training_args.TrainingArguments.n_gpu", 2 if gpu else 0)
    run = Run(trained.run.path, Config.resolve("smoke", {"model.compute_dtype": asked}))
    arguments = sft_config(run, 4, [], 2, 1)
    assert (arguments.bf16, arguments.fp16, arguments.use_cpu) == (bf16, fp16, gpu is None)
    assert arguments.optim == ("adamw_8bit" if gpu else "adamw_torch")
    assert arguments._n_gpu == (1 if gpu else 0)  # also where the process sees two


def test_trl_neither_cuts_nor_reports_by_itself(trained):
    arguments = sft_config(trained.run, 7, [], 2, 1)
    assert arguments.max_length is None  # its default, 1024, cuts without a word
    assert arguments.report_to == []
    assert (arguments.packing, arguments.padding_free) == (False, False)
    assert arguments.max_steps == 7
    assert arguments.save_steps == 4


@pytest.mark.parametrize(
    ("max_steps", "epochs", "batch", "accumulation", "rows", "devices", "steps"),
    [
        (60, 9, 2, 4, 1, 8, 60),
        (-1, 1, 2, 4, 500, 1, 63),
        (-1, 1, 2, 4, 504, 1, 63),
        (-1, 3, 2, 1, 5, 1, 9),
        (-1, 1.5, 2, 2, 10, 1, 5),
        (-1, 1, 8, 1, 100, 4, 4),
        (-1, 0.1, 2, 1, 8, 1, 1),
    ],
)
def test_planned_steps(max_steps, epochs, batch, accumulation, rows, devices, steps):
    overrides = {"max_steps": max_steps, "epochs": epochs, "batch_size": batch, "gradient_accumulation": accumulation}
    config = Config.resolve("smoke", {f"training.{key}": value for key, value in overrides.items()})
    assert planned_steps(config, rows, devices) == steps


@pytest.mark.parametrize("pad", [None, "<｜end▁of▁sentence｜>"])
def test_a_tokenizer_that_pads_with_its_end_is_given_another_token(r1_tokenizer, tmp_path, pad):
    tokenizer = copy.deepcopy(r1_tokenizer)
    tokenizer.pad_token = pad
    tokenizer.save_pretrained(tmp_path)
    shutil.copy(tiny_folder() / "config.json", tmp_path)
    settings = Config.resolve("smoke", {"model.name": str(tmp_path)}).model
    assert load_tokenizer(settings).pad_token == "<|finetune_right_pad_id|>"


def test_rows_of_another_model_are_refused(trained, tmp_path, short_rows, r1_tokenizer):
    assert len(load_split(trained.run, "train", r1_tokenizer)) == 8
    narrow = make_run(tmp_path / "narrow", short_rows, model__max_length=64)
    with pytest.raises(InputError, match=r"data/train\.jsonl was prepared for another model: run 03_dataset_prep"):
        load_split(narrow, "train", r1_tokenizer)
    (narrow / "data/train.jsonl").unlink()
    with pytest.raises(InputError, match=r"no data/train\.jsonl yet: run 03_dataset_prep first"):
        load_split(narrow, "train", r1_tokenizer)


# ---------------------------------------------------------------------------------------------------------- training


def test_a_training_leaves_its_adapter_its_metrics_and_its_log(trained):
    run, metrics, log = trained.run, trained.metrics, trained.log
    assert read_json(run / "training/metrics.json") == json.loads(json.dumps(metrics))
    assert (metrics["steps"], metrics["resumed_from"], metrics["train_rows"], metrics["validation_rows"]) == (
        4,
        0,
        8,
        4,
    )
    assert 0 < metrics["trainable_parameters"] < metrics["parameters"]
    assert metrics["tokens_per_second"] == pytest.approx(metrics["tokens"] / metrics["seconds"])

    assert list(losses(log)) == [1, 2, 3, 4]
    assert list(validations(log)) == [0, 2, 4]
    assert validations(log)[0] == metrics["validation_nll"]["before"] > 0
    assert validations(log)[4] == metrics["validation_nll"]["after"] != metrics["validation_nll"]["before"]
    assert [len(row["validation_rows"]) for row in log if "validation_nll" in row] == [4, 4, 4]
    assert trained.grown == list(range(1, len(log) + 1))

    assert {path.name for path in run.path.iterdir()} == {"run.yaml", "data", "checkpoints", "training", "adapter"}
    assert {"adapter_config.json", "tokenizer.json", "README.md"} <= {path.name for path in (run / "adapter").iterdir()}
    assert read_json(run / "adapter/adapter_config.json")["base_model_name_or_path"] == "tiny"


def test_training_reads_the_settings_that_the_table_says(trained):
    """But for a name that it puts into the adapter, which cards and `push` take anew, and for when a session ends."""
    listed = STAGES["04_lora_training"].settings
    read = {key for key in trained.read if not key.startswith("session.")} - {"profile", "export.base_model"}
    assert {key for key in read if key not in listed and key.split(".")[0] not in listed} == set()
    assert trained.read >= {"seed", "lora.r", "training.learning_rate", "evaluation.max_validation", "model.max_length"}


def test_every_adapter_has_learnt_something(trained):
    """LoRA's B begins at zero, so an adapter with a zero B is the base model."""
    weights = adapter_weights(trained.run)
    b = {name: weight for name, weight in weights.items() if "lora_B" in name}
    assert len(b) == 2 * 7  # layers, linear layers of each
    assert all(weight.any() for weight in b.values())
    assert {weight.shape[1] for weight in b.values()} == {trained.run.config.lora.r}


def test_an_epoch_counts_every_real_token_once(short_rows, tmp_path, r1_tokenizer):
    run = make_run(
        tmp_path / "run", [*short_rows[:5], *short_rows[8:]], training__max_steps=-1, training__gradient_accumulation=2
    )
    write_jsonl(run / "data/train.jsonl", short_rows[:5])
    metrics = train(run)
    assert metrics["steps"] == planned_steps(run.config, 5) == 2
    assert metrics["epochs"] == 1
    assert metrics["tokens"] == sum(len(encode_example(r1_tokenizer, row, 512)["input_ids"]) for row in short_rows[:5])


def test_the_seed_decides_on_the_adapters_and_on_the_order(trained, short_rows, tmp_path):
    """That an equal seed gives an equal training, bit for bit, is shown by those that are stopped and go on."""
    other = make_run(tmp_path / "other", short_rows, seed=1)
    weights = [
        {name: weight for name, weight in load_trainable(run.config).named_parameters() if "lora_A" in name}
        for run in (trained.run, trained.run, other)
    ]
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())
    assert not any(torch.equal(weight, weights[2][name]) for name, weight in weights[0].items())
    assert [sft_config(run, 4, [], 2, 1).seed for run in (trained.run, other)] == [trained.run.config.seed, 1]


@pytest.mark.parametrize(("broken", "said"), [(1, "validation loss at step 0"), (3, "training loss at step 3")])
def test_a_loss_that_is_no_number_ends_the_training_in_one_line(short_rows, tmp_path, monkeypatch, broken, said):
    """transformers would print 0 for it, and write on a checkpoint that can only give the same."""
    name = "completion_nll" if "validation" in said else "completion_loss"
    module = journal if "validation" in said else lora_training
    compute, calls = getattr(module, name), []

    def spoilt(*args, **more):
        calls.append(compute(*args, **more))
        nan = float("nan")
        return calls[-1] if len(calls) < broken else [nan] if isinstance(calls[-1], list) else calls[-1] * nan

    monkeypatch.setattr(module, name, spoilt)
    run = make_run(tmp_path / "run", short_rows, training__validations=1, training__checkpoints=1)
    with pytest.raises(InputError, match=f"{said} is not a number: take a third of training.learning_rate"):
        train(run)
    assert not (run / "adapter").exists()
    assert not list((run / "checkpoints").glob("*"))


def test_a_gradient_that_float16_cannot_hold_is_noted_and_training_goes_on(tmp_path):
    """On a T4 the scaler begins high: it leaves the first steps out until the gradient fits."""
    run, state = open_run("smoke", tmp_path / "run"), SimpleNamespace(global_step=1, num_input_tokens_seen=9)
    journal.TrainingLogCallback(run, [], 0, None).on_log(None, state, None, {"loss": 2, "grad_norm": math.inf})
    assert read_jsonl(run / "training/log.jsonl") == [{"step": 1, "loss": 2.0, "grad_norm": None, "tokens": 9}]


# ------------------------------------------------------------------------------------------------------------ resume


def test_a_killed_training_goes_on_on_another_machine_as_if_nothing_had_happened(trained, short_rows, tmp_path):
    """From the copy that its session keeps: the end must be that of the undisturbed training, bit for bit."""
    copy = tmp_path / "drive/run"
    run = make_run(tmp_path / "one/run", short_rows, session__backup=str(copy))
    back_up(run.path, str(copy))  # as the series does after 03
    with pytest.raises(Killed):
        train(run, watch=killed_at(3))
    assert last_checkpoint(run) == (run / "checkpoints/checkpoint-2", 2)
    assert not (run / "adapter").exists()
    assert not (run / "training/metrics.json").exists()
    shutil.rmtree(tmp_path / "one")
    assert [path.name for path in (copy / "checkpoints").iterdir()] == ["checkpoint-2"]

    other = open_run("auto", tmp_path / "two/run", {"session.backup": str(copy)})
    metrics = train(other)
    assert_ends_like(trained, other, metrics, resumed_from=2)
    assert metrics["validation_nll"] == trained.metrics["validation_nll"]
    assert metrics["tokens"] == trained.metrics["tokens"]  # and seconds: of the whole training
    assert metrics["tokens_per_second"] == pytest.approx(metrics["tokens"] / metrics["seconds"])
    # The last checkpoints but no more, each whole.
    assert sorted(path.name for path in (copy / "checkpoints").iterdir()) == ["checkpoint-2", "checkpoint-4"]


def assert_ends_like(trained, run, metrics, resumed_from):
    assert (metrics["steps"], metrics["resumed_from"]) == (STEPS, resumed_from)
    log = read_jsonl(run / "training/log.jsonl")
    assert (losses(log), validations(log)) == (losses(trained.log), validations(trained.log))
    assert (run / ADAPTER[0]).read_bytes() == (trained.run / ADAPTER[0]).read_bytes()


def test_rows_come_in_the_same_order_after_two_resumes_in_later_epochs(short_rows, tmp_path):
    """The second is from a checkpoint of a training that was itself resumed."""
    few = {"training__max_steps": 9, "training__checkpoints": 9, "training__validations": 1}
    undisturbed, run = (make_run(tmp_path / name, short_rows, **few) for name in ("undisturbed", "run"))
    train(undisturbed)
    for last in (5, 7):  # four steps an epoch
        with pytest.raises(Killed):
            train(run, watch=killed_at(last))
    train(run)
    before, after = (read_jsonl(folder / "training/log.jsonl") for folder in (undisturbed, run))
    assert [row.get("tokens") for row in after] == [row.get("tokens") for row in before]
    assert losses(after) == losses(before)
    assert (run / ADAPTER[0]).read_bytes() == (undisturbed / ADAPTER[0]).read_bytes()


def test_a_training_ends_by_itself_before_the_session_does(short_rows, tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", short_rows, session__minutes=10)
    clock, steps = SimpleNamespace(now=time.monotonic()), iter(range(STEPS + 1))
    monkeypatch.setattr(stopping, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setenv(STARTED, str(clock.now - 60))  # a minute for the stages before

    def minutes_pass(log):
        clock.now += 150 if "loss" in log[-1] and next(steps) < STEPS else 0

    with pytest.raises(
        StoppedError, match=r"^stopped, since session.minutes = 10 are nearly over: training is saved after step 3 of"
    ):
        train(run, watch=minutes_pass)  # 8.5 minutes after three steps, and the next takes 2.5
    assert last_checkpoint(run)[1] == STEPS - 1
    assert not (run / "adapter").exists()


def test_a_training_that_is_told_to_go_saves_first_and_goes_on(trained, short_rows, tmp_path):
    run = make_run(tmp_path / "run", short_rows)
    told = []

    def take_the_machine(log):
        if STEPS - 2 in losses(log) and not told:  # the third step is under way
            told.append(tell_training_to_stop(run.path))

    with pytest.raises(StoppedError, match=r"^stopped by SIGTERM: training is saved after step 3 of 4"):
        train(run, watch=take_the_machine)
    assert told == [True]
    assert not tell_training_to_stop(run.path)  # nobody trains there now
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert_ends_like(trained, run, train(run), resumed_from=STEPS - 1)


@pytest.mark.parametrize("marker", [None, "", "[]", "{}", '{"training": "another", "files": {}}'])
def test_a_checkpoint_without_its_marker_is_no_checkpoint(interrupted, marker):
    newest = interrupted / "checkpoints/checkpoint-4"
    assert last_checkpoint(interrupted) == (newest, 4)
    (newest / "complete").unlink() if marker is None else (newest / "complete").write_text(marker)
    assert last_checkpoint(interrupted) == (interrupted / "checkpoints/checkpoint-2", 2)
    assert not newest.exists()


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("adapter_model.safetensors", halve),
        ("adapter_model.safetensors", Path.unlink),
        ("optimizer.pt", halve),
        ("trainer_state.json", lambda path: path.write_text("")),
    ],
    ids=["half of the weights", "no weights", "half of the optimizer", "empty state"],
)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(interrupted, name, damage, capsys):
    damage(interrupted / f"checkpoints/checkpoint-4/{name}")
    assert last_checkpoint(interrupted) == (interrupted / "checkpoints/checkpoint-2", 2)
    assert capsys.readouterr().out == (
        "checkpoint-4 is damaged and renamed to damaged-checkpoint-4: training continues from step 2\n"
    )
    assert (interrupted / "checkpoints/damaged-checkpoint-4").is_dir()


def test_where_every_checkpoint_is_damaged_training_starts_at_the_beginning(interrupted, capsys):
    for step in (2, 4):
        (interrupted / f"checkpoints/checkpoint-{step}/trainer_state.json").write_text("")
    assert last_checkpoint(interrupted) == (None, 0)
    assert capsys.readouterr().out.count(": training continues from step 0\n") == 2
    assert last_checkpoint(interrupted) == (None, 0)
    assert capsys.readouterr().out == ""


def test_a_training_that_only_lacked_its_adapter_trains_no_further(trained, interrupted):
    metrics = train(interrupted)
    assert (metrics["steps"], metrics["resumed_from"]) == (STEPS, STEPS)
    for name in ("tokens", "seconds", "tokens_per_second", "validation_nll", "train_loss"):
        assert metrics[name] == pytest.approx(trained.metrics[name])
    assert read_jsonl(interrupted / "training/log.jsonl") == trained.log
    for name, weight in adapter_weights(trained.run).items():
        assert torch.equal(adapter_weights(interrupted)[name], weight)


def test_checkpoints_whose_log_is_gone_are_one_line(interrupted):
    (interrupted / "training/log.jsonl").unlink()
    with pytest.raises(InputError, match=r"^no .*training/log\.jsonl, so .*checkpoints cannot be continued"):
        train(interrupted)


@pytest.mark.parametrize("change", [{"training.learning_rate": 1e-3}, {"seed": 1}, {"lora.r": 8}, "rows"], ids=str)
def test_what_a_training_of_other_settings_or_rows_left_is_set_aside(copied, short_rows, change, capsys):
    before = contents(copied.path)
    if change == "rows":
        write_jsonl(copied / "data/train.jsonl", short_rows[1:8])
        take_over(copied)
        run = copied
    else:
        run = Run(copied.path, Config.from_flat(copied.config.flat(), change))
        take_over(run)
    assert last_checkpoint(run) == (None, 0)
    assert checkpoints.finished(run) is None
    [aside] = (run / "earlier").iterdir()
    assert capsys.readouterr().out == f"set aside in earlier/{aside.name}: checkpoints, training, adapter\n"
    moved = {name: content for name, content in before.items() if not name.startswith(("data", "run.yaml"))}
    assert contents(aside).items() >= moved.items()
    assert {path.name for path in run.path.iterdir()} == {"run.yaml", "data", "training", "earlier"}
    take_over(run)
    assert len(list((run / "earlier").iterdir())) == 1


def test_a_checkpoint_of_other_settings_among_its_own_is_set_aside(interrupted):
    marker = interrupted / "checkpoints/checkpoint-4/complete"
    made = read_json(marker)
    made["training"]["settings"]["seed"] = 1
    write_json(marker, made)
    assert last_checkpoint(interrupted) == (interrupted / "checkpoints/checkpoint-2", 2)
    assert len(list(interrupted.path.glob("earlier/*/checkpoints/checkpoint-4/complete"))) == 1


# ------------------------------------------------------------------------------------------------------- second uses


def old_note(run):
    """The folder as version 0.1.0 left it."""
    (run / "training/made_from.json").unlink()
    for marker in run.path.glob("checkpoints/*/complete"):
        made = read_json(marker)
        write_json(marker, made | {"training": json.dumps(list(made["training"].values()), sort_keys=True)})


@pytest.mark.parametrize("age", ["new", "old", "old, without checkpoints"])
def test_a_finished_training_is_left_as_it_is_and_says_so(trained, copied, monkeypatch, capsys, age):
    if age != "new":
        old_note(copied)
    if age == "old, without checkpoints":
        shutil.rmtree(copied / "checkpoints")
    before, shown = contents(copied.path), []
    monkeypatch.setattr(lora_training, "load_trainable", lambda config: pytest.fail("a model was loaded"))
    assert train(copied, watch=shown.append) == read_json(copied / "training/metrics.json")
    assert shown == [trained.log]
    said = capsys.readouterr().out
    assert said.startswith("finished already, after 4 steps: nothing is trained.")
    assert "training.max_steps" in said
    assert "--only 04 --force" in said
    assert contents(copied.path) == before
    assert read_json(copied / "training/metrics.json")["tokens"] > 0


def test_more_steps_go_on_from_the_last_checkpoint_by_the_longer_schedule(trained, copied, capsys):
    """Whatever the number of validation rows in the settings is by now: those of the log are measured again."""
    old_note(copied)
    for name in ("evaluation/metrics.json", "export/report.json"):
        write_json(copied / name, {"of": "the shorter training"})
    adapter, metrics = contents(copied / "adapter"), (copied / "training/metrics.json").read_bytes()
    run = open_run("auto", copied.path, {"training.max_steps": 6, "evaluation.max_validation": 3})
    longer = train(run)
    assert (longer["steps"], longer["resumed_from"]) == (6, 4)
    assert longer["tokens"] > trained.metrics["tokens"]
    log = read_jsonl(run / "training/log.jsonl")
    assert log[: len(trained.log)] == trained.log
    assert list(losses(log)) == [1, 2, 3, 4, 5, 6]
    assert {len(row["validation_rows"]) for row in log if "validation_nll" in row} == {4}
    rates = {row["step"]: row["learning_rate"] for row in log if "loss" in row}
    peak, warmup = run.config.training.learning_rate, run.config.training.warmup_steps
    planned = {step: peak * (6 - (step - 1)) / (6 - warmup) for step in (5, 6)}
    assert {step: rates[step] for step in (5, 6)} == pytest.approx(planned)
    [aside] = (run / "earlier").iterdir()
    assert f"set aside in earlier/{aside.name}: adapter, evaluation, export" in capsys.readouterr().out
    assert contents(aside / "adapter") == adapter
    assert (aside / "training/metrics.json").read_bytes() == metrics
    assert not (run / "evaluation").exists()
    assert any(
        not torch.equal(weight, adapter_weights(trained.run)[name]) for name, weight in adapter_weights(run).items()
    )
    assert checkpoints.finished(run) == json.loads(json.dumps(longer))


def test_without_its_checkpoints_a_longer_training_sets_the_shorter_one_aside_and_starts(copied):
    old_note(copied)
    shutil.rmtree(copied / "checkpoints")
    run = open_run("auto", copied.path, {"training.max_steps": 6})
    assert checkpoints.finished(run) is None
    take_over(run)
    assert len(list(copied.path.glob("earlier/*/adapter/adapter_model.safetensors"))) == 1
    assert not (copied / "training/metrics.json").exists()


def test_settings_that_training_does_not_see_keep_the_checkpoints(interrupted):
    run = open_run("smoke", interrupted.path, {"generation.max_new_tokens": 7}, force=True)
    assert last_checkpoint(run) == (run / "checkpoints/checkpoint-4", 4)


# --------------------------------------------------------------------------------------------------------------- nll


def test_the_adapter_switched_off_is_the_base_model(trained, base, r1_tokenizer):
    rows = load_split(trained.run, "validation", r1_tokenizer)
    model = load_with_adapter(trained.run.config, trained.run / "adapter")
    on = completion_nll(model, rows, r1_tokenizer.pad_token_id)
    with model.disable_adapter():
        off = completion_nll(model, rows, r1_tokenizer.pad_token_id)
    assert off == completion_nll(base, rows, r1_tokenizer.pad_token_id)
    assert all(a != b for a, b in zip(on, off, strict=True))
    # The adapter that was saved is the one that the last validation saw, and the first saw the base model.
    measured = [row["validation_rows"] for row in trained.log if "validation_nll" in row]
    assert off == pytest.approx(measured[0], abs=2e-5)
    assert on == pytest.approx(measured[-1], abs=2e-5)
