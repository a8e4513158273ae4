"""The laws that hold for every supported family, on the chat templates that TRL carries and on real tokenizers."""

import copy
import shutil
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
import trl
from jinja2.sandbox import ImmutableSandboxedEnvironment
from outsides import REAL, real_tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from helpers import InputError
from helpers.config import Config
from helpers.files import read_json, write_json
from helpers.generation.replies import generate
from helpers.lora_training.batches import collator
from helpers.losses import completion_nll
from helpers.models.converter import check_conversion
from helpers.models.loading import PROBE, _padding, check_model, load_base, load_tokenizer, lora_targets, probe
from helpers.models.packaged import tiny_folder
from helpers.prompts.chat_template import chat_template
from helpers.prompts.encoding import (
    TASK,
    build_prompt,
    encode_example,
    encode_prompt,
    special_strings,
    split_reasoning,
)
from helpers.prompts.families import OPENING, check_template, end_of_turn, end_tokens, family, render, separator

# TRL's; a family that it lacks goes in here by hand.
TEMPLATES = {
    file.stem: file.read_text(encoding="utf-8")
    for file in (Path(trl.__file__).parent / "chat_templates").glob("*.jinja")
}
TEMPLATES["ministral"] = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]{% else %}"
    "{% if m.reasoning_content %}[THINK]{{ m.reasoning_content }}[/THINK]{% endif %}{{ m.content }}{{ eos_token }}"
    "{% endif %}{% endfor %}"
)
# Family, the token that ends a reply, what its makers write between thought and answer.
SUPPORTED = {
    "deepseek_r1_distill": ("DeepSeek-R1", "<｜end▁of▁sentence｜>", "\n</think>\n\n"),
    "qwen3": ("with <think> tags", "<|im_end|>", "\n</think>\n\n"),
    "qwen3_5_nothink": ("with <think> tags", "<|im_end|>", "\n</think>\n\n"),
    "qwen3_5_think": ("with <think> tags", "<|im_end|>", "\n</think>\n\n"),
    "qwen3_6": ("with <think> tags", "<|im_end|>", "\n</think>\n\n"),
    "nemotron_3_nano": ("with <think> tags", "<|im_end|>", "\n</think>\n"),
    "qwen2_5": ("without a thought of its own", "<|im_end|>", "</think>"),
    "qwen3_instruct_2507": ("without a thought of its own", "<|im_end|>", "</think>"),
    "llama3": ("without a thought of its own", "<|eot_id|>", "</think>"),
    "llama3_1": ("without a thought of its own", "<|eot_id|>", "</think>"),
    "llama3_2": ("without a thought of its own", "<|eot_id|>", "</think>"),
    "gemma": ("without a thought of its own", "<end_of_turn>", "</think>"),
    "gemma3": ("without a thought of its own", "<end_of_turn>", "</think>"),
    "phi3": ("without a thought of its own", "<|end|>", "</think>"),
    "phi3_5": ("without a thought of its own", "<|end|>", "</think>"),
}
REFUSED = {
    "gptoss": "of the family gpt-oss, which is not supported: its thought has other marks than <think> and </think>",
    "gemma4": "of the family Gemma 4, which is not supported",
    "gemma4_v5": "of the family Gemma 4, which is not supported",
    "ministral": "of the family Ministral 3, Magistral, which is not supported",
    "muse_glimmer": "its chat template writes ' to=user<|message|>' between prompt and answer",
    "smolvlm": "its chat template leaves out the text of a message",
    "llava_next": "chat template cannot render this conversation",
}
ROWS = [
    {"Question": "Why?", "Complex_CoT": "Okay, let us think.\n\nA fever of 39.5 °C.", "Response": "**Because** of it."},
    {"Question": "What do </think>, <|im_end|> and <｜User｜> do? ", "Complex_CoT": PROBE, "Response": "1.\tα → ω"},
    {"Question": "\n  Fe\u0301ver {{ x }} {% y %}?", "Complex_CoT": " Fe\u0301ver\n", "Response": "  日本語 🩺"},
]


@pytest.fixture(scope="session")
def every_token():
    """The tiny model's tokenizer with the special tokens of all families added: one for every template."""
    tokenizer = copy.deepcopy(load_tokenizer(Config.resolve("smoke").model))
    turns = {end for _, end, _ in SUPPORTED.values()} | {"<|im_start|>", "<start_of_turn>", "<|start_header_id|>"}
    tokenizer.add_special_tokens({"additional_special_tokens": sorted(turns - {tokenizer.eos_token})})
    return tokenizer


def of_family(every_token, template):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=every_token.backend_tokenizer, **every_token.special_tokens_map
    )
    tokenizer.chat_template = template
    tokenizer.eos_token = end_of_turn(tokenizer)
    return tokenizer


# --------------------------------------------------------------------------------------------------------------- laws


def check_laws(tokenizer):
    """Of a prompt and the rows that are trained behind it, whatever the family."""
    for row in ROWS:
        question, thought, answer = row.values()
        prompt, encoded = build_prompt(tokenizer, question), encode_example(tokenizer, row, 9999)
        ids, labels = encoded["input_ids"], [label for label in encoded["labels"] if label != -100]
        # The prompt is the template's own generation prompt and at most an opening.
        generated = render(tokenizer, [{"role": "user", "content": f"{TASK}\n\nQUESTION"}])
        before, _, after = generated.partition("QUESTION")
        bos = tokenizer.bos_token or ""
        assert prompt.startswith((before if before.startswith(bos) else bos + before) + question)
        ending = prompt[prompt.rindex(question) + len(question) :]
        assert ending in (after, after + OPENING)
        assert ending.endswith(OPENING)
        # A server's template makes it of the bare question; it breaks up special tokens, which it has as text alone.
        served = ImmutableSandboxedEnvironment().from_string(chat_template(tokenizer))
        rendered = served.render(messages=[{"role": "user", "content": question}], add_generation_prompt=True)
        assert (rendered == prompt) == (not any(token in question for token in special_strings(tokenizer)))
        # It is a prefix of the row, and the rest decodes to the text and the end.
        asked = encode_prompt(tokenizer, question)
        assert ids[: len(asked)] == asked
        assert encoded["labels"][: len(asked)] == [-100] * len(asked)
        assert ids[len(asked) :] == labels
        assert tokenizer.decode(labels) == thought + "</think>" + answer + tokenizer.eos_token
        assert labels[-1] == tokenizer.eos_token_id
        assert labels.count(tokenizer.eos_token_id) == 1
        if tokenizer.bos_token_id not in (None, tokenizer.convert_tokens_to_ids("<|im_start|>")):
            assert ids.count(tokenizer.bos_token_id) == 1
            assert ids[0] == tokenizer.bos_token_id
        # Splitting takes apart what rendering put together.
        read = split_reasoning(tokenizer.decode(labels[:-1]))
        assert (read.thinking, read.answer, read.closed) == (thought.strip(), answer.strip(), True)
    # Special tokens in a user's text stay text.
    plain, marked = (encode_prompt(tokenizer, question) for question in ("x", f"x {tokenizer.eos_token} </think>"))
    special = set(tokenizer.get_added_vocab().values())
    assert [i for i in plain if i in special] == [i for i in marked if i in special]


@pytest.mark.parametrize("name", SUPPORTED)
def test_every_law_holds_for_every_template_and_a_family_is_known_by_what_it_writes(every_token, name):
    tokenizer = of_family(every_token, TEMPLATES[name])
    assert (family(tokenizer).name, tokenizer.eos_token, separator(tokenizer)) == SUPPORTED[name]
    check_template(tokenizer, "it")
    check_laws(tokenizer)


@pytest.mark.parametrize("name", REAL)
def test_every_law_holds_for_real_tokenizers(name):
    check_laws(real_tokenizer(name))


@pytest.mark.parametrize("name", REFUSED)
def test_a_family_that_is_not_supported_is_refused_in_one_line(every_token, name):
    tokenizer = of_family(every_token, None)
    tokenizer.chat_template = TEMPLATES[name]
    with pytest.raises(InputError) as caught:
        check_template(tokenizer, "this model")
    assert REFUSED[name] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["llama3_2", "qwen3", "deepseek_r1_distill"])
def test_a_prompt_is_the_same_on_every_day(every_token, monkeypatch, name):
    first = build_prompt(of_family(every_token, TEMPLATES[name]), "Why?")

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2031, 5, 17)

    monkeypatch.setattr(chat_template_utils, "datetime", Later)
    assert build_prompt(of_family(every_token, TEMPLATES[name]), "Why?") == first
    assert "2031" not in first


# ---------------------------------------------------------------------------------------------------- one door, proved


def settings_of(folder, file="config.json", **changes):
    """A copy of the tiny model in `folder`, with changes in one of its files."""
    shutil.copytree(tiny_folder(), folder)
    write_json(folder / file, read_json(folder / file) | changes)
    return Config.resolve("smoke", {"model.name": str(folder)})


@pytest.mark.parametrize("name", ["LlamaTokenizer", "NoSuchTokenizer"])
def test_a_class_that_does_not_fit_its_files_does_no_harm(tmp_path, r1_tokenizer, name):
    config = settings_of(tmp_path / "model", "tokenizer_config.json", tokenizer_class=name)
    tokenizer = load_tokenizer(config.model)
    ids = tokenizer(PROBE, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == PROBE
    assert ids == r1_tokenizer(PROBE, add_special_tokens=False)["input_ids"]


def test_the_tiny_model_walks_through_the_trap():
    fault = probe(AutoTokenizer.from_pretrained(tiny_folder()), Config.resolve("smoke").model)
    assert "comes back as" in fault
    assert "Afeverof39.5" in fault


def test_a_tokenizer_that_loses_text_in_every_way_is_refused(tmp_path):
    config = settings_of(tmp_path / "model", "tokenizer.json", normalizer={"type": "Lowercase"})
    with pytest.raises(InputError, match=r"cannot be used: .* comes back as .a fever") as caught:
        load_tokenizer(config.model)
    assert str(tmp_path / "model") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("vocabulary", "pad"),
    [(["<|endoftext|>", "<pad>"], "<pad>"), (["<|reserved_3|>"], "<|reserved_3|>"), ([], "<end>")],
)
def test_padding_takes_a_token_meant_for_it_a_reserved_one_or_the_end(vocabulary, pad):
    tokens = dict.fromkeys(["<end>", "<|user|>", *vocabulary])
    assert _padding(SimpleNamespace(eos_token="<end>", get_added_vocab=lambda: tokens)) == pad


# -------------------------------------------------------------------------------- what is told before hours are spent


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "is quantised already"),
        ({"model_type": "novelty"}, "its architecture 'novelty' is not known to transformers"),
        ({"model_type": "t5"}, "'t5' is not a language model that writes text"),
        ({"model_type": "gemma3", "vision_config": {}}, "it reads images too"),
        ({"model_type": "qwen3_moe", "num_experts": 8}, "mixture of experts"),
        ({"max_position_embeddings": 256}, "model.max_length = 512: .* is 256 tokens"),
    ],
)
def test_what_a_later_stage_would_refuse_is_told_first(tmp_path, config, words):
    with pytest.raises(InputError, match=words) as caught:
        check_model(settings_of(tmp_path / "model", **config))
    assert "\n" not in str(caught.value)


def test_a_4_bit_copy_names_its_16_bit_sibling(tmp_path):
    config = settings_of(tmp_path / "R1-unsloth-bnb-4bit", quantization_config={"quant_method": "bitsandbytes"})
    with pytest.raises(InputError, match=rf"set model\.name={tmp_path}/R1 and model\.load_in_4bit=true"):
        check_model(config)


def test_a_model_that_can_be_used_is_let_through_and_every_linear_layer_but_the_head_gets_an_adapter():
    config = Config.resolve("smoke")
    assert check_model(config) == "LlamaForCausalLM"
    llama = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    assert lora_targets(config.model) == llama


def test_padding_with_the_end_token_loses_nothing(r1_tokenizer):
    """Labels and masks go by position: the end of every row is trained, and no loss depends on the padding token."""
    config = Config.resolve("smoke")
    rows = [encode_example(r1_tokenizer, row, 999) for row in ROWS]
    end, model = r1_tokenizer.eos_token_id, load_base(config)
    batch = collator(config, end, unsloth=False)(rows)
    for row, labels, mask in zip(rows, batch["labels"], batch["attention_mask"], strict=True):
        length = len(row["input_ids"])
        assert (labels == end).nonzero().flatten().tolist() == [length - 1]
        assert mask.tolist() == [1] * length + [0] * (len(labels) - length)
    assert completion_nll(model, rows, end) == completion_nll(model, rows, r1_tokenizer.pad_token_id)
    prompts = [row["input_ids"][: row["labels"].count(-100)] for row in rows]
    same = copy.deepcopy(r1_tokenizer)  # a shallow copy shares its special tokens
    same.pad_token = same.eos_token
    settings = config.generation
    assert generate(model, same, prompts, settings, 1) == generate(model, r1_tokenizer, prompts, settings, 1)


def test_a_reply_may_end_with_any_of_several_tokens(r1_tokenizer):
    own = r1_tokenizer.eos_token_id
    for named, ends in ((None, {own}), (7, {own, 7}), ([7, own, 9], {own, 7, 9})):
        model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=named))
        assert end_tokens(model, r1_tokenizer) == ends


def test_what_the_converter_does_not_know_is_told_before_training(tmp_path):
    """That it takes what it knows is seen in notebook 01."""
    written = read_json(tiny_folder() / "tokenizer.json")["pre_tokenizer"]
    split = {"type": "Split", "pattern": {"String": "e"}, "behavior": "Isolated", "invert": False}
    written["pretokenizers"].insert(0, split)  # as in no tokenizer that it knows
    config = settings_of(tmp_path / "model", "tokenizer.json", pre_tokenizer=written)
    assert probe(load_tokenizer(config.model), config.model) == ""
    with pytest.raises(InputError, match=r"cannot be exported as GGUF: .* pre-tokenizer was not recognized") as caught:
        check_conversion(config)
    assert "\n" not in str(caught.value)
