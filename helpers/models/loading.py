"""Loading models and tokenizers: by hub id, from a folder, or one of the project's own two.

Weights come from safetensors alone, and code that a model brings along (`auto_map`) is never run.
"""

import os
import re
import shutil
from collections.abc import Callable
from functools import partial
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from httpx import HTTPError
from safetensors import SafetensorError
from tokenizers import Tokenizer

from helpers import InputError
from helpers.config import Config, ModelSettings
from helpers.files import project_path, read_json, write_json, write_text
from helpers.machine.hardware import describe_machine
from helpers.machine.processes import weights_spread
from helpers.models.packaged import cache_folder, embedded_folder, tiny_folder
from helpers.models.portable import portable_tokenizer_config
from helpers.prompts.chat_template import chat_template
from helpers.prompts.families import check_template, end_of_turn
from helpers.sources.hub import ask_first, explain, is_hub_id
from helpers.sources.tables import brief

NO_CODE = {"trust_remote_code": False}  # by default transformers asks on the terminal whether to run it
# Spaces, line ends, a tab, digits, accents, signs, ideographs and an emoji of several characters.
PROBE = "A fever of 39.5 °C,\n\n\tnaïve to 12345  mg/l; it didn't → ≥ ½ – 日本語 🩺👩‍⚕️."


def model_source(name: str) -> str:
    """What transformers loads for model.name: a folder (made if need be for `embedded` and `tiny`) or a hub id."""
    if name in ("embedded", "tiny"):
        try:
            return str(embedded_folder() if name == "embedded" else tiny_folder())
        except (OSError, SafetensorError) as error:  # the latter where the disk fills up
            why = getattr(error, "strerror", None) or brief(error)
            advice = "set AI_DOCTOR_CACHE to a folder with room that can be written"
            raise InputError(f"cannot unpack {name} to the cache folder {cache_folder()}: {why}; {advice}") from None
    folder = project_path(name)
    if folder.is_dir():
        if not any((folder / file).is_file() for file in ("config.json", "tokenizer.json")):
            raise InputError(f"{folder} is not a model folder: it has no config.json")
        return str(folder)
    if not is_hub_id(name) or name.startswith((".", "/", "~")):
        raise InputError(f"model.name = {name!r}: no such folder, and not a hub id like organisation/model")
    return name


def load_tokenizer(settings: ModelSettings) -> Any:
    """The tokenizer of the base model, checked by `probe`.

    Where the class that the model declares fails, tokenizer.json is taken as it is: transformers 5 applies
    SentencePiece's rules to the byte-level vocabulary of models that call themselves Llama, and every space is lost.
    The end-of-sequence token is what the chat template writes after a reply, and there is a padding token. InputError,
    which names the model, where no tokenizer passes or the family is not supported. A folder's tokenizer is cached
    until its files change: copy it before you change it.
    """
    folder = Path(model_source(settings.name))
    if not folder.is_dir():
        return _checked_tokenizer(settings)
    # Building and checking R1's takes seconds, and merging, converting, checking and cards each need it.
    files = [file.stat() for file in sorted(folder.iterdir()) if file.suffix in (".json", ".jinja", ".model")]
    key = (str(folder), settings.prompt_style, *((file.st_mtime_ns, file.st_size) for file in files))
    if key not in _TOKENIZERS:
        _TOKENIZERS[key] = _checked_tokenizer(settings)
    return _TOKENIZERS[key]


_TOKENIZERS: dict[tuple[Any, ...], Any] = {}


def _checked_tokenizer(settings: ModelSettings) -> Any:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        tokenizer = from_source(AutoTokenizer.from_pretrained, settings, **NO_CODE)
    except InputError:
        raise
    except Exception:  # a class that this transformers does not know, or cannot build
        tokenizer = None
    if tokenizer is None or probe(tokenizer, settings):
        tokenizer = from_source(PreTrainedTokenizerFast.from_pretrained, settings)
        if fault := probe(tokenizer, settings):
            raise InputError(f"the tokenizer of {settings.name} cannot be used: {fault}")
    if settings.prompt_style == "native":
        check_template(tokenizer, settings.name)
        tokenizer.eos_token = end_of_turn(tokenizer)
    if tokenizer.eos_token_id is None:
        raise InputError(f"the tokenizer of {settings.name} has no end-of-sequence token")
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        tokenizer.pad_token = _padding(tokenizer)
    return tokenizer


def probe(tokenizer: Any, settings: ModelSettings) -> str:
    """What is wrong with a tokenizer, "" if nothing: it must give PROBE back, know each of its special tokens, and make
    the ids of the model's tokenizer.json."""
    ids = tokenizer(PROBE, add_special_tokens=False)["input_ids"]
    if (back := tokenizer.decode(ids)) != PROBE:
        return f"{PROBE!r} comes back as {back!r}"
    for text, number in tokenizer.get_added_vocab().items():
        # By the tokenizers library: with the 6,400 tokens of Gemma, transformers would take a minute.
        if text.strip() and tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids != [number]:
            return f"its special token {text!r} is not encoded as {number}"
    file = model_file(settings, "tokenizer.json")
    if file and Tokenizer.from_file(file).encode(PROBE, add_special_tokens=False).ids != ids:
        return "it makes other token ids than the model's tokenizer.json"
    return ""


def model_file(settings: ModelSettings, name: str) -> str | None:
    """The path of one of the base model's files, downloaded if need be; None for a model that lacks it."""
    from transformers.utils import cached_file

    return from_source(cached_file, settings, filename=name, _raise_exceptions_for_missing_entries=False)


def _padding(tokenizer: Any) -> str:
    """A token to pad with: one that is meant for it, a reserved one, or the end-of-sequence token.

    Labels and attention masks go by position, so that padding never masks an end-of-sequence token.
    """
    spare = [text for text in tokenizer.get_added_vocab() if text.strip() and text != tokenizer.eos_token]
    wanted = ("finetune_right_pad", "pad", "<|endoftext|>", "reserved")
    return next((text for sign in wanted for text in spare if sign in text.lower()), tokenizer.eos_token)


def save_tokenizer(tokenizer: Any, settings: ModelSettings, folder: Path) -> None:
    """Write the base model's tokenizer so that transformers 4 and 5 and llama.cpp's converter read it alike.

    tokenizer.json is the base's own file where it has one, since the converter may not recognise a saved one. The chat
    template renders the prompt of training.
    """
    tokenizer.save_pretrained(folder)
    if file := model_file(settings, "tokenizer.json"):
        shutil.copyfile(file, folder / "tokenizer.json")
    path = folder / "tokenizer_config.json"
    write_json(path, portable_tokenizer_config(read_json(path)))
    write_text(folder / "chat_template.jinja", chat_template(tokenizer, settings.prompt_style))


def check_model(config: Config) -> str:
    """The name of the base model's class, if every stage can work with it.

    Raises InputError for an architecture that transformers cannot load as a language model, a mixture of experts,
    weights that are quantised or not in safetensors, and rows longer than the context.
    """
    settings = config.model
    shape = _architecture(settings)
    text, name = shape.get_text_config(), settings.name
    if getattr(shape, "quantization_config", None):
        plain = re.sub(r"(-unsloth)?-(bnb-)?4bit$", "", name)
        advice = f"model.name={plain}" if plain != name else "model.name to the 16-bit model"
        raise InputError(
            f"{name} is quantised already, and cannot be merged with an adapter: set {advice} and "
            "model.load_in_4bit=true"
        )
    if getattr(text, "num_experts", None) or getattr(text, "num_local_experts", None):
        raise InputError(f"{name} is a mixture of experts, which is not supported: its experts get no LoRA adapters")
    if settings.max_length > text.max_position_embeddings:
        raise InputError(
            f"model.max_length = {settings.max_length}: the context of {name} is {text.max_position_embeddings} tokens"
        )
    _check_weights(settings)
    return _causal_class(shape, name)


def _check_weights(settings: ModelSettings) -> None:
    """InputError for a model without weights in safetensors, in a folder or on the hub."""
    folder = Path(model_source(settings.name))
    if not folder.is_dir():  # opening the run folder has put the configuration into the cache
        from_source(partial(ask_first, cached=("model.safetensors", "model.safetensors.index.json")), settings)
    elif not list(folder.glob("*.safetensors")):
        raise InputError(f"{folder} has no weights in safetensors, and others (.bin, .pt) are not opened")


def context_length(settings: ModelSettings) -> int | None:
    """The number of positions that the base model was made for; None where its configuration does not tell."""
    return getattr(_architecture(settings).get_text_config(), "max_position_embeddings", None)


def _architecture(settings: ModelSettings) -> Any:
    """The base model's configuration; InputError where transformers does not know it."""
    from transformers import AutoConfig, __version__

    try:
        return from_source(AutoConfig.from_pretrained, settings, **NO_CODE)
    except InputError:
        raise
    except ValueError as error:
        kind = re.search(r"model type `([^`]+)`", str(error))
        what = f"its architecture {kind[1]!r} is not known to" if kind else "its configuration cannot be read by"
        what = "it needs code of its own (auto_map), which is not run, with" if "custom code" in str(error) else what
        raise InputError(f"{settings.name} is not supported: {what} transformers {__version__}") from None


def _causal_class(shape: Any, name: str) -> str:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CLASSES

    found = CLASSES.get(shape.model_type, "")
    if not found.endswith(("ForCausalLM", "LMHeadModel")):
        images = "vision_config" in shape
        reason = "it reads images too, and its text part cannot be loaded alone" if images else ""
        raise InputError(
            f"{name} is not supported: {reason or f'{shape.model_type!r} is not a language model that writes text'}"
        )
    return found


def skeleton(settings: ModelSettings) -> Any:
    """The base model on the meta device, without weights, for its layers' names and sizes."""
    import torch
    from transformers import AutoModelForCausalLM

    shape = _architecture(settings)
    _causal_class(shape, settings.name)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(shape)


def linear_layers(model: Any) -> dict[str, tuple[int, int]]:
    """The layers that get LoRA adapters, all linear ones but the head: name to (inputs, outputs)."""
    from torch.nn import Linear

    head = model.get_output_embeddings()
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, Linear) and layer is not head}
    return {name: (layer.in_features, layer.out_features) for name, layer in layers.items()}


def lora_targets(settings: ModelSettings) -> list[str]:
    """PEFT's target modules: the last part of the names of `linear_layers`, such as q_proj."""
    return list(dict.fromkeys(name.rpartition(".")[2] for name in linear_layers(skeleton(settings))))


def compute_dtype(config: Config) -> str:
    """The compute type: the setting, or with "auto" the best that this machine has."""
    chosen = config.model.compute_dtype
    return describe_machine().compute_dtype if chosen == "auto" else chosen


def model_shape(settings: ModelSettings) -> dict[str, int]:
    """A model's sizes, from its configuration alone: hidden, intermediate, keys, layers, and numbers of weights.

    `linear` are those of all layers, `embeddings` include the head (once where tied), `lora_per_rank` is for rank 1.
    """
    model = skeleton(settings)
    shape, layers, head = model.config, linear_layers(model).values(), model.get_output_embeddings().weight.numel()
    size = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
    return {
        "hidden": shape.hidden_size,
        "intermediate": shape.intermediate_size,
        "keys": size * shape.num_key_value_heads,
        "layers": shape.num_hidden_layers,
        "linear": sum(a * b for a, b in layers),
        "head": head,
        "embeddings": head if shape.tie_word_embeddings else 2 * head,
        "lora_per_rank": sum(a + b for a, b in layers),
    }


def load_base(config: Config) -> Any:
    """The base model, in `compute_dtype`; in 4-bit NF4 where the settings say so.

    With FSDP 16-bit weights are read by one process, and not onto its GPU; 4-bit ones are packed into a type that FSDP
    can divide.
    """
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    _check_weights(config.model)
    _architecture(config.model)
    machine = describe_machine()
    dtype = getattr(torch, compute_dtype(config))
    extra: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, **NO_CODE}
    if machine.gpu and (config.model.load_in_4bit or not weights_spread()):
        extra["device_map"] = {"": int(os.environ.get("LOCAL_RANK", 0))}
    if config.model.load_in_4bit:
        extra["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            **({"bnb_4bit_quant_storage": dtype} if weights_spread() else {}),
        )
    model = from_source(AutoModelForCausalLM.from_pretrained, config.model, **extra)
    return model.eval()


def load_with_adapter(config: Config, adapter: Path) -> Any:
    """The base model with a trained adapter on it, which `model.disable_adapter()` switches off.

    InputError for damaged files, and where the weights are not in safetensors: PEFT would open a pickle, or ask the
    hub.
    """
    from peft import PeftModel

    if not (adapter / "adapter_model.safetensors").is_file():
        raise InputError(f"{adapter} has no adapter_model.safetensors, and weights of other kinds are not opened")
    base = load_base(config)
    try:
        return PeftModel.from_pretrained(base, str(adapter)).eval()
    except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"cannot load the adapter {adapter}: {brief(error)}; restore it, or train") from None


def from_source(load: Callable[..., Any], settings: ModelSettings, **extra: Any) -> Any:
    """Call `load`, a `from_pretrained` or the like, for the model in the settings; InputError where that fails."""
    from transformers.utils import logging

    source, revision = model_source(settings.name), settings.commit or settings.revision
    local = Path(source).is_dir()
    if local:
        logging.disable_progress_bar()  # seconds of work; a download keeps its bar
    try:
        if not local:
            ask_first(source, revision)
        return load(source, revision=revision or "main", **extra)
    except (OSError, HTTPError, SafetensorError, UnicodeEncodeError, JSONDecodeError) as error:
        reason = brief(error) if local else explain(error, source, revision)
        raise InputError(f"cannot load {settings.name}: {reason}") from None
