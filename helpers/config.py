"""Configuration: a profile of profiles.yaml, overridden by dotted keys and validated."""

import difflib
from functools import cache
from importlib import resources
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from helpers import InputError

# What a setting may become on a run folder that holds results, by key or else by section; docs/SETTINGS.md shows it.
ANY, LARGER, NONE = "any value", "a larger value", "no other value"
CHANGES = {
    "generation": ANY,
    "evaluation": ANY,
    "export": ANY,
    "retrieval": ANY,
    "tracking": ANY,
    "session": ANY,
    "training.max_steps": LARGER,
    "training.epochs": LARGER,
    "training": NONE,
    "lora": NONE,
    "data": NONE,
    "model": NONE,
    "seed": NONE,
    "profile": NONE,
}

# Resolved when a run folder is opened, by the GPU (helpers/gpus.yaml).
Auto = Literal["auto"]
Count = Annotated[int, Field(ge=1)]
# A text alone stands for a list of one.
OneOrMany = BeforeValidator(lambda value: [value] if isinstance(value, str) else value)
# Marks of settings that may name the user's files (or, a CORPUS, folders): on the command line they are meant from the
# working folder, a missing one is refused before any work, and a stage that reads them depends on what they hold.
FILE, CORPUS = "file", "corpus"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


# Of the hub, as the run's record has it: no setting, and in no table.
Commit = Annotated[str | None, Field(exclude=True)]


class ModelSettings(_Section):
    name: str = Field(min_length=1)
    revision: str | None
    commit: Commit = None
    load_in_4bit: bool | Auto
    compute_dtype: Literal["auto", "float32", "bfloat16", "float16"]
    max_length: int = Field(ge=16)
    prompt_style: Literal["native", "plain"]


class DataSettings(_Section):
    source: Annotated[str, FILE] = Field(min_length=1)
    config: str | None
    revision: str | None
    commit: Commit = None
    sample_size: int | None = Field(ge=1)
    validation_fraction: float = Field(gt=0, lt=0.5)
    test_fraction: float = Field(ge=0, lt=0.5)
    near_duplicate: float = Field(gt=0, le=1)
    group_similarity: float = Field(gt=0, le=1)
    passages: float = Field(ge=0, le=1)
    corpus: Annotated[list[str], OneOrMany, CORPUS]


class LoraSettings(_Section):
    r: int = Field(ge=1)
    alpha: int = Field(ge=1)
    dropout: float = Field(ge=0, lt=1)


class TrainingSettings(_Section):
    backend: Literal["auto", "unsloth", "transformers"]
    learning_rate: float = Field(gt=0, lt=1)
    packing: bool | Auto
    batch_size: Count | Auto
    gradient_accumulation: Count | Auto
    max_steps: int = Field(ge=-1)
    epochs: float = Field(gt=0)
    warmup_steps: int = Field(ge=0)
    weight_decay: float = Field(ge=0)
    scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup"]
    optimizer: Literal["auto", "adamw_torch", "adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit", "adafactor", "sgd"]
    gradient_checkpointing: bool | Auto
    validations: int = Field(ge=1)
    checkpoints: int = Field(ge=1)


class GenerationSettings(_Section):
    temperature: float = Field(ge=0, le=2)
    top_p: float = Field(gt=0, le=1)
    max_new_tokens: int = Field(ge=1)
    batch_size: int = Field(ge=1)


class EvaluationSettings(_Section):
    questions: Annotated[list[str], OneOrMany, FILE] = Field(min_length=1)
    rows: Literal["validation", "test"]
    max_validation: int | None = Field(ge=1)
    max_questions: int | None = Field(ge=1)


GgufKind = Literal["f16", "q8_0", "q4_k_m"]


class ExportSettings(_Section):
    gguf: GgufKind | Annotated[list[GgufKind], Field(min_length=1)]
    base_model: str | None = Field(pattern=r"^[\w.-]+/[\w.-]+$")

    @property
    def kinds(self) -> list[str]:
        """The GGUF quantisation types to make, without repeats: f16 first, from which the others are quantised."""
        asked = [self.gguf] if isinstance(self.gguf, str) else self.gguf
        return list(dict.fromkeys(["f16", *asked]))


class RetrievalSettings(_Section):
    sources: Annotated[list[str], OneOrMany, CORPUS] = Field(min_length=1)
    synonyms: Annotated[list[str], OneOrMany, CORPUS]
    embedder: str | None
    k: int = Field(ge=1, le=32)
    conditions: Annotated[list[Literal["open", "thought", "oracle"]], OneOrMany] = Field(min_length=1)
    max_questions: int | None = Field(ge=1)


class TrackingSettings(_Section):
    wandb: Literal["auto", "online", "offline", "disabled"]
    project: str = Field(min_length=1)


class SessionSettings(_Section):
    minutes: float | None = Field(gt=0)
    backup: str | None = Field(min_length=1)


class Config(_Section):
    """One run's resolved settings; `Config.resolve` is the only way the stages make one."""

    profile: str
    seed: int = Field(ge=0, lt=2**32)
    model: ModelSettings
    data: DataSettings
    lora: LoraSettings
    training: TrainingSettings
    generation: GenerationSettings
    evaluation: EvaluationSettings
    export: ExportSettings
    retrieval: RetrievalSettings
    tracking: TrackingSettings
    session: SessionSettings

    @classmethod
    def resolve(cls, profile: str, overrides: dict[str, Any] | None = None) -> "Config":
        """Look up `profile` in the table and apply `overrides` (dotted key to value).

        Raises InputError for an unknown profile or key, naming the nearest valid one, and for a bad value.
        """
        table = profile_table()
        if profile not in table:
            raise InputError(f"unknown profile {profile!r}{nearest(profile, ['auto', *table])}")
        return cls.from_flat({"profile": profile, **table[profile]}, overrides)

    @classmethod
    def from_flat(cls, flat: dict[str, Any], overrides: dict[str, Any] | None = None) -> "Config":
        """Build a Config from dotted keys; the same checks and errors as `resolve`."""
        overrides = overrides or {}
        for key in overrides:
            if key not in flat or key == "profile":
                raise InputError(f"unknown key {key!r}{nearest(key, [k for k in flat if k != 'profile'])}")
        nested: dict[str, Any] = {}
        for key, value in {**flat, **overrides}.items():
            section, _, name = key.rpartition(".")
            (nested.setdefault(section, {}) if section else nested)[name] = value
        try:
            return cls.model_validate(nested)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"][:2])  # what follows says which of several types it is not
            raise InputError(f"{key} = {first['input']!r}: {first['msg'].lower()}") from None

    def settled(self, values: dict[str, Any]) -> "Config":
        """This configuration with each `auto` that `values` (dotted keys) has a value for replaced by it."""
        flat = self.flat()
        return self.from_flat(flat, {key: value for key, value in values.items() if flat.get(key) == "auto"})

    def flat(self) -> dict[str, Any]:
        """The settings as dotted keys, in the table's order."""
        rows: dict[str, Any] = {}
        for name, value in self.model_dump().items():
            rows.update({f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value})
        return rows


@cache
def marked(mark: str) -> list[str]:
    """The settings with this mark, FILE or CORPUS, by dotted key."""
    sections = {name: field.annotation for name, field in Config.model_fields.items()}
    return [
        f"{name}.{key}"
        for name, section in sections.items()
        for key, field in getattr(section, "model_fields", {}).items()
        if mark in field.metadata
    ]


@cache
def profile_table() -> dict[str, dict[str, Any]]:
    """profiles.yaml turned on its side: profile name to its dotted keys and values."""
    return {column.pop("profiles"): column for column in table_columns("profiles.yaml")}


def table_columns(name: str) -> list[dict[str, Any]]:
    """A table of this package, one key a row with a list of values: its columns, each a dict of all keys."""
    rows = yaml.safe_load(resources.files("helpers").joinpath(name).read_text(encoding="utf-8"))
    return [dict(zip(rows, column, strict=True)) for column in zip(*rows.values(), strict=True)]


def parse_assignment(text: str) -> tuple[str, Any]:
    """`key=value` from the command line; the value is read as YAML, so `null`, `true` and `1e-4` mean it."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InputError(f"--set takes KEY=VALUE, got {text!r}")
    return key.strip(), _as_yaml(value)


def _as_yaml(text: str) -> Any:
    """What the text says as YAML; the text itself where that is nothing, as with a date 2020-13-45."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text


def read_overrides(given: dict[str, Any] | str | None) -> dict[str, Any]:
    """A notebook's OVERRIDES, which `papermill -p` and the environment hand over as text: JSON or YAML."""
    overrides = _as_yaml(given) if isinstance(given, str) else given
    if not isinstance(overrides, dict | None):
        raise InputError(
            f'OVERRIDES = {given!r} is not a mapping of keys to values; write it as {{"training.max_steps": 20}}'
        )
    return overrides or {}


def may_change(key: str, there: Any, asked: Any) -> bool:
    """Whether a setting of a folder with results may change from `there` to `asked`, see CHANGES."""
    rule = CHANGES.get(key) or CHANGES[key.split(".")[0]]
    return rule == ANY or (rule == LARGER and asked > there > 0)  # max_steps = -1: as many as `epochs` takes


def nearest(word: str, choices: list[str]) -> str:
    """The end of a message about an unknown `word`: the nearest choice, else all of them."""
    section, _, name = word.rpartition(".")
    in_short = {c: "".join(w[0] for w in c.rpartition(".")[2].split("_")) for c in choices if c.startswith(section)}
    match = [c for c, initials in in_short.items() if initials == name and len(name) > 1]  # training.lr
    match = match or difflib.get_close_matches(word, choices, n=1, cutoff=0.4)
    if match:
        return f"; did you mean {match[0]!r}?"
    return f"; valid: {', '.join(choices)}"
