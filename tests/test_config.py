"""The table of hyperparameters, and every way to ask for something that is not in it."""

from importlib import resources
from typing import get_args

import pytest
import yaml
from conftest import refusal

from helpers import InputError
from helpers.config import CORPUS, FILE, Config, TrainingSettings, marked, nearest, parse_assignment, read_overrides
from helpers.run_dir.folder import open_run

TABLE = yaml.safe_load(resources.files("helpers").joinpath("profiles.yaml").read_text(encoding="utf-8"))
PROFILES = ["smoke", "laptop", "t4", "full"]
KEYS = [key for key in TABLE if key != "profiles"]


# The table -------------------------------------------------------------------------------------------------------


def test_no_row_of_the_table_is_there_twice():
    text = resources.files("helpers").joinpath("profiles.yaml").read_text(encoding="utf-8")
    keys = [line.partition(":")[0] for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert sorted(keys) == sorted(TABLE)  # YAML itself takes the last of two without a word


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_resolves_and_has_exactly_the_fields_of_config(profile):
    config = Config.resolve(profile)
    assert config.profile == profile
    assert set(config.flat()) == {"profile", *KEYS}
    expected = {key: TABLE[key][PROFILES.index(profile)] for key in KEYS}
    assert {key: config.flat()[key] for key in KEYS} == expected


def test_flat_settings_make_the_same_config_again():
    config = Config.resolve("laptop", {"lora.r": 8, "evaluation.questions": ["sample"]})
    assert Config.from_flat(config.flat()) == config


def test_every_optimizer_that_can_be_asked_for_is_one_that_the_trainer_knows():
    from transformers.training_args import OptimizerNames

    offered = get_args(TrainingSettings.model_fields["optimizer"].annotation)
    assert set(offered) - {"auto"} <= {name.value for name in OptimizerNames}


def test_the_settings_that_name_files_are_marked():
    assert marked(FILE) == ["data.source", "evaluation.questions"]
    assert marked(CORPUS) == ["data.corpus", "retrieval.sources", "retrieval.synonyms"]


# Overrides -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "given", "value"),
    [
        ("training.max_steps", "20", 20),
        ("training.learning_rate", "1e-4", 1e-4),
        ("model.load_in_4bit", "true", True),
        ("data.sample_size", None, None),
        ("seed", "0", 0),
        ("evaluation.questions", "questions.jsonl", ["questions.jsonl"]),
        ("data.corpus", "a.jsonl", ["a.jsonl"]),
        ("retrieval.sources", "a.jsonl", ["a.jsonl"]),
        ("retrieval.synonyms", "a.jsonl", ["a.jsonl"]),
        ("evaluation.questions", ["sample", "b.jsonl"], ["sample", "b.jsonl"]),
        ("training.epochs", 2, 2.0),
    ],
)
def test_an_override_takes_the_place_of_the_tables_value_and_its_type(key, given, value):
    flat = Config.resolve("smoke", {key: given}).flat()
    assert flat[key] == value
    assert type(flat[key]) is type(value)
    others = Config.resolve("smoke").flat()
    assert {k: v for k, v in flat.items() if k != key} == {k: v for k, v in others.items() if k != key}


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("training.lr", "training.learning_rate"),
        ("lr", "training.learning_rate"),
        ("learning_rate", "training.learning_rate"),
        ("Training.max_steps", "training.max_steps"),
        ("lora.rank", "lora.r"),
        ("model", "model.name"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_valid_one(asked, meant):
    assert refusal(Config.resolve, "smoke", {asked: 1}) == f"unknown key {asked!r}; did you mean {meant!r}?"


def test_a_key_that_is_like_none_gets_the_list_of_all_and_the_profile_is_none():
    assert refusal(Config.resolve, "smoke", {"xyzzy": 1}) == f"unknown key 'xyzzy'; valid: {', '.join(KEYS)}"
    with pytest.raises(InputError, match="unknown key 'profile'"):
        Config.resolve("smoke", {"profile": "laptop"})


@pytest.mark.parametrize(("asked", "meant"), [("smok", "smoke"), ("T4", "t4"), ("autoo", "auto")])
def test_an_unknown_profile_is_named_with_the_nearest_valid_one(asked, meant):
    assert refusal(Config.resolve, asked) == f"unknown profile {asked!r}; did you mean {meant!r}?"


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("training.max_steps", "many", "integer"),
        ("training.learning_rate", 0, "greater than 0"),
        ("training.weight_decay", float("inf"), "finite"),
        ("training.scheduler", "lineer", "'linear'"),
        ("model.load_in_4bit", "perhaps", "boolean"),
        ("data.source", None, "string"),
        ("data.validation_fraction", 0.5, "less than 0.5"),
        ("evaluation.questions", [], "at least 1 item"),
        ("export.gguf", "q4_0", "'f16', 'q8_0' or 'q4_k_m'"),
        ("seed", -1, "greater than or equal to 0"),
        ("seed", 2**32, "less than"),
    ],
)
def test_a_bad_value_is_named_with_its_key_and_what_is_valid(key, value, says):
    line = refusal(Config.resolve, "smoke", {key: value})
    assert line.startswith(f"{key} = {value!r}: ")
    assert says in line


# KEY=VALUE -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("training.max_steps=20", "training.max_steps", 20),
        (" training.max_steps =20", "training.max_steps", 20),
        ("training.learning_rate=1.5e-4", "training.learning_rate", 1.5e-4),
        ("data.sample_size=null", "data.sample_size", None),
        ("data.sample_size=", "data.sample_size", None),
        ("model.load_in_4bit=false", "model.load_in_4bit", False),
        ("evaluation.questions=[sample, a.jsonl]", "evaluation.questions", ["sample", "a.jsonl"]),
        ("data.source=/tmp/rows of mine=2.csv", "data.source", "/tmp/rows of mine=2.csv"),
        # Not YAML: taken as it stands.
        *((f"data.source={text}", "data.source", text) for text in ("[draft].jsonl", "2020-13-45", "0b_", "[" * 600)),
    ],
)
def test_an_assignment_reads_its_value_as_yaml(text, key, value):
    assert parse_assignment(text) == (key, value)
    assert type(parse_assignment(text)[1]) is type(value)


@pytest.mark.parametrize("text", ["training.max_steps", "", "=5", "  =5"])
def test_an_assignment_without_a_key_or_an_equals_sign(text):
    assert refusal(parse_assignment, text) == f"--set takes KEY=VALUE, got {text!r}"


# OVERRIDES --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "overrides"),
    [
        (None, {}),
        ({}, {}),
        ("", {}),
        ("{}", {}),
        ({"seed": 1}, {"seed": 1}),
        ('{"training.max_steps": 2}', {"training.max_steps": 2}),  # papermill -p OVERRIDES '...'
        ("{training.max_steps: 2, data.sample_size: null}", {"training.max_steps": 2, "data.sample_size": None}),
        ("training.max_steps: 2", {"training.max_steps": 2}),
    ],
)
def test_overrides_may_come_as_text(tmp_path, given, overrides):
    assert read_overrides(given) == overrides
    flat = open_run("smoke", tmp_path, given).config.flat()
    assert {key: flat[key] for key in overrides} == overrides


@pytest.mark.parametrize("given", ["training.max_steps=2", "{", "[1, 2]", "20", 20, ["seed"], "{'a': "])
def test_overrides_that_are_no_mapping_are_one_line_and_no_folder(tmp_path, given):
    with pytest.raises(InputError, match=r"^OVERRIDES = .*write it as ") as refused:
        open_run("smoke", tmp_path / "run", given)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_the_nearest_of_two_with_the_same_initials_is_of_the_section_that_was_named():
    choices = ["data.batch_size", "training.batch_size"]
    assert nearest("training.bs", choices) == "; did you mean 'training.batch_size'?"
    assert nearest("data.bs", choices) == "; did you mean 'data.batch_size'?"
