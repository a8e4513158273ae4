"""Loading models and tokenizers: by hub id, by folder, or one of the two that come with the project."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from httpx import HTTPError
from tokenizers import Tokenizer

from helpers import InputError
from helpers.config import Config, ModelSettings
from helpers.files import project_path, read_json, write_json, write_text
from helpers.machine import describe_machine
from helpers.models.packaged import embedded_folder, tiny_folder
from helpers.models.portable import portable_tokenizer_config
from helpers.prompts.chat_template import chat_template
from helpers.prompts.families import check_template, end_of_turn
from helpers.sources.hub import ask_first, explain, is_hub_id
from helpers.sources.tables import brief

# Spaces, line ends, a tab, digits, accents, signs, an ideograph and an emoji of several characters.
PROBE = "A fever of 39.5 °C,\n\n\tnaïve to 12345  mg/l; it didn't → ≥ ½ – 日本語 🩺👩‍⚕️."


def model_source(name: str) -> str:
    """Turn model.name into what transformers loads: a folder for `embedded` and `tiny` (made if need be), or an id."""
    if name == "embedded":
        return str(embedded_folder())
    if name == "tiny":
        return str(tiny_folder())
    folder = project_path(name)
    if folder.is_dir():
        if not any((folder / name).is_file() for name in ("config.json", "tokenizer.json")):
            raise InputError(f"{folder} is not a model folder: it has no config.json")
        return str(folder)
    if not is_hub_id(name) or name.startswith((".", "/", "~")):
        raise InputError(f"model.name = {name!r}: no such folder, and not a hub id like organisation/model")
    return name


def load_tokenizer(settings: ModelSettings) -> Any:
    """The tokenizer of the base model: the one door through which every tokenizer of this project comes.

    It is proved by `probe`. Where the class that the model declares fails, tokenizer.json is taken as it stands:
    transformers 5 puts SentencePiece's rules over the byte-level vocabulary of models that call themselves Llama, and
    every space is lost. Its end-of-sequence token is the one that ends a reply by the chat template, and it has a token
    to pad with. InputError, which names the model, where the text does not come back or the family is refused.

    A folder's is built once in a process, as long as its files stay as they are: whoever changes it copies it first.
    """
    folder = Path(model_source(settings.name))
    if not folder.is_dir():
        return _proved_tokenizer(settings)
    # Building and proving R1's takes seconds, and merging, converting, checking and cards each need it.
    files = [file.stat() for file in sorted(folder.iterdir()) if file.suffix in (".json", ".jinja", ".model")]
    key = (str(folder), settings.prompt_style, *((file.st_mtime_ns, file.st_size) for file in files))
    if key not in _TOKENIZERS:
        _TOKENIZERS[key] = _proved_tokenizer(settings)
    return _TOKENIZERS[key]


_TOKENIZERS: dict[tuple[Any, ...], Any] = {}


def _proved_tokenizer(settings: ModelSettings) -> Any:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        tokenizer = from_source(AutoTokenizer.from_pretrained, settings)
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
    """What is wrong with a tokenizer, in words; "" for one that gives PROBE back, knows each of its special tokens, and
    makes the same token ids as the model's tokenizer.json."""
    ids = tokenizer(PROBE, add_special_tokens=False)["input_ids"]
    if (back := tokenizer.decode(ids)) != PROBE:
        return f"{PROBE!r} comes back as {back!r}"
    for text, number in tokenizer.get_added_vocab().items():
        # By the library below: of 6,400 tokens, as Gemma has them, transformers would take a minute.
        if text.strip() and tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids != [number]:
            return f"its special token {text!r} is not encoded as {number}"
    file = model_file(settings, "tokenizer.json")
    if file and Tokenizer.from_file(file).encode(PROBE, add_special_tokens=False).ids != ids:
        return "it makes other token ids than the model's tokenizer.json"
    return ""


def model_file(settings: ModelSettings, name: str) -> str | None:
    """One of the base model's own files on this machine, fetched if need be; None for a model that lacks it."""
    from transformers.utils import cached_file

    def find(source: str, **extra: Any) -> str | None:
        return cached_file(source, name, _raise_exceptions_for_missing_entries=False, **extra)

    return from_source(find, settings)


def _padding(tokenizer: Any) -> str:
    """A token to pad with: one that is meant for it or reserved, else the one that ends a sequence.

    Either will do: labels and attention masks go by position, so padding never hides an end-of-sequence token.
    """
    spare = [text for text in tokenizer.get_added_vocab() if text.strip() and text != tokenizer.eos_token]
    wanted = ("finetune_right_pad", "pad", "<|endoftext|>", "reserved")
    return next((text for sign in wanted for text in spare if sign in text.lower()), tokenizer.eos_token)


def save_tokenizer(tokenizer: Any, settings: ModelSettings, folder: Path) -> None:
    """Write the base model's tokenizer so that transformers 4 and 5 and llama.cpp's converter read it alike.

    tokenizer.json is the base's own file where it has one: a saved one can be a tokenizer that converters do not
    recognise. The chat template is the one of the training, so that whoever loads the folder asks as it was trained.
    """
    tokenizer.save_pretrained(folder)
    if file := model_file(settings, "tokenizer.json"):
        shutil.copyfile(file, folder / "tokenizer.json")
    path = folder / "tokenizer_config.json"
    write_json(path, portable_tokenizer_config(read_json(path)))
    write_text(folder / "chat_template.jinja", chat_template(tokenizer, settings.prompt_style))


def check_model(config: Config) -> str:
    """Look at the base model's configuration before hours are spent on it; returns its class.

    InputError for what a later stage would refuse: an architecture that transformers cannot load as a language model, a
    mixture of experts, weights that are quantised already or not in safetensors, rows longer than its context.
    """
    settings = config.model
    shape = _architecture(settings)
    text, name = shape.get_text_config(), settings.name
    if getattr(shape, "quantization_config", None):
        plain = re.sub(r"(-unsloth)?-(bnb-)?4bit$", "", name)
        advice = f"model.name={plain}" if plain != name else "model.name to the 16-bit model"
        raise InputError(
            f"{name} is quantised already, so that no merged model can be made of it: set {advice} and "
            "model.load_in_4bit=true"
        )
    if getattr(text, "num_experts", None) or getattr(text, "num_local_experts", None):
        raise InputError(f"{name} is a mixture of experts, which is not supported: its experts get no LoRA adapters")
    if settings.max_length > text.max_position_embeddings:
        raise InputError(
            f"model.max_length = {settings.max_length}: {name} has room for {text.max_position_embeddings} tokens"
        )
    folder = Path(model_source(name))
    if folder.is_dir() and not list(folder.glob("*.safetensors")):
        raise InputError(f"{folder} has no weights in safetensors, which merging needs")
    return _causal_class(shape, name)


def _architecture(settings: ModelSettings) -> Any:
    """The base model's configuration; InputError where transformers does not know its kind."""
    from transformers import AutoConfig, __version__

    try:
        return from_source(AutoConfig.from_pretrained, settings)
    except InputError:
        raise
    except ValueError as error:
        kind = re.search(r"model type `([^`]+)`", str(error))
        what = f"its architecture {kind[1]!r} is not known to" if kind else "its configuration cannot be read by"
        raise InputError(f"{settings.name} is not supported: {what} transformers {__version__}") from None


def _causal_class(shape: Any, name: str) -> str:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CLASSES

    found = CLASSES.get(shape.model_type, "")
    if not found.endswith(("ForCausalLM", "LMHeadModel")):
        more = "it reads images too, and its text part cannot be loaded alone" if "vision_config" in shape else ""
        raise InputError(
            f"{name} is not supported: {more or f'{shape.model_type!r} is no language model that writes text'}"
        )
    return found


def skeleton(settings: ModelSettings) -> Any:
    """The base model without its weights, in a fraction of a second, for its layers' names and sizes."""
    import torch
    from transformers import AutoModelForCausalLM

    shape = _architecture(settings)
    _causal_class(shape, settings.name)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(shape)


def linear_layers(model: Any) -> dict[str, tuple[int, int]]:
    """The matrices that LoRA is put on, all but the head: name in the model to (inputs, outputs)."""
    from torch.nn import Linear

    head = model.get_output_embeddings()
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, Linear) and layer is not head}
    return {name: (layer.in_features, layer.out_features) for name, layer in layers.items()}


def lora_targets(settings: ModelSettings) -> list[str]:
    """The last part of the names of `linear_layers`, as PEFT and Unsloth take them: q_proj, k_proj and so on."""
    return list(dict.fromkeys(name.rpartition(".")[2] for name in linear_layers(skeleton(settings))))


def compute_dtype(config: Config) -> str:
    """The type that the model computes in: the setting, or what this machine's hardware really has."""
    chosen = config.model.compute_dtype
    return describe_machine().compute_dtype if chosen == "auto" else chosen


def model_shape(settings: ModelSettings) -> dict[str, int]:
    """A model's sizes, from its configuration alone: hidden, intermediate, keys, layers, and weights as `linear` (all
    layers' matrices), `head`, `embeddings` (head included, once where they are tied), and `lora_per_rank` (adapter
    weights at rank 1)."""
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
    """The base model, in the compute type that this machine has; in 4-bit NF4 where the settings say so."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    machine = describe_machine()
    dtype = getattr(torch, compute_dtype(config))
    extra: dict[str, Any] = {"dtype": dtype}
    if machine.gpu:
        extra["device_map"] = {"": int(os.environ.get("LOCAL_RANK", 0))}
    if config.model.load_in_4bit:
        extra["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    model = from_source(AutoModelForCausalLM.from_pretrained, config.model, **extra)
    return model.eval()


def load_with_adapter(config: Config, adapter: Path) -> Any:
    """The base model with a trained adapter on it; `model.disable_adapter()` gives the base back."""
    from peft import PeftModel

    return PeftModel.from_pretrained(load_base(config), str(adapter)).eval()


def from_source(load: Callable[..., Any], settings: ModelSettings, **extra: Any) -> Any:
    """`load`, a `from_pretrained` or the like, of the model that the settings name; one line where it cannot be had."""
    from safetensors import SafetensorError
    from transformers.utils import logging

    source = model_source(settings.name)
    local = Path(source).is_dir()
    if local:
        logging.disable_progress_bar()  # seconds of work; a download keeps its bar
    try:
        if not local:
            ask_first(source, settings.revision)
        return load(source, revision=settings.revision or "main", **extra)
    except (OSError, HTTPError, SafetensorError) as error:
        reason = brief(error) if local else explain(error, source, settings.revision)
        raise InputError(f"cannot load {settings.name}: {reason}") from None
