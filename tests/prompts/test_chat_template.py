"""The chat templates with which others ask as training did, whatever the order of a conversation's messages."""

import copy
import json
from itertools import groupby, product
from pathlib import Path

import go_template
import pytest
import trl
from jinja2.sandbox import ImmutableSandboxedEnvironment
from outsides import REAL, real_tokenizer
from transformers import AutoTokenizer

from helpers.export.gguf import write_modelfile
from helpers.files import write_json
from helpers.prompts.chat_template import chat_template, ollama_template
from helpers.prompts.encoding import TASK, build_prompt, encode_example, special_strings
from helpers.prompts.families import OPENING, THINK
from helpers.run_dir.folder import open_run

ROLES = ("system", "developer", "user", "assistant")
ORDERS = [order for length in (1, 2, 3) for order in product(ROLES, repeat=length)]
ORDERS += [("user", "assistant", "assistant", "user"), ("assistant", "user", "assistant", "system")]


def said(role, content, **more):
    return {"role": role, "content": content, **more}


@pytest.fixture(scope="session")
def llama3_tokenizer(smollm_tokenizer):
    """Llama 3's own template and marks, with another vocabulary behind them."""
    tokenizer = copy.deepcopy(smollm_tokenizer)
    marks = ["<|start_header_id|>", "<|end_header_id|>"]
    tokenizer.add_special_tokens(
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "extra_special_tokens": marks}
    )
    tokenizer.chat_template = (Path(trl.__file__).parent / "chat_templates/llama3.jinja").read_text("utf-8")
    return tokenizer


@pytest.fixture(params=["r1_tokenizer", "smollm_tokenizer", "llama3_tokenizer"])
def tokenizer(request):
    return request.getfixturevalue(request.param)


def compiled(tokenizer, style="native"):
    """As vLLM renders it; tests/use/test_server.py has llama.cpp do it."""
    template = ImmutableSandboxedEnvironment().from_string(chat_template(tokenizer, style))
    return lambda messages, generate=True: template.render(messages=messages, add_generation_prompt=generate)


def rendered(tokenizer, messages, style="native", generate=True):
    return compiled(tokenizer, style)(messages, generate)


# ------------------------------------------------------------------------------------------------------- one question


@pytest.mark.parametrize("style", ["native", "plain"])
@pytest.mark.parametrize(
    "question", ["Why?", 'A "quoted" \\ backslash\nand {{ braces }} {% raw %}', "39 °C, β-blocker"]
)
def test_a_server_asks_a_question_as_training_did(tokenizer, style, question):
    assert rendered(tokenizer, [said("user", question)], style) == build_prompt(tokenizer, question, style)


@pytest.mark.parametrize("style", ["native", "plain"])
@pytest.mark.parametrize(
    "reply", [{"reasoning_content": "Hm.\n\nSo?", "content": "B."}, {"content": "Hm.\n\nSo?</think>B."}]
)
def test_a_conversation_of_training_is_prompt_and_completion(tokenizer, style, reply):
    row = {"Question": "Which nerve?", "Complex_CoT": "Hm.\n\nSo?", "Response": "B."}
    talk = [said("user", "Which nerve?"), {"role": "assistant", **reply}]
    text = rendered(tokenizer, talk, style, generate=False)
    assert text == build_prompt(tokenizer, "Which nerve?", style) + "Hm.\n\nSo?</think>B." + tokenizer.eos_token
    ids = encode_example(tokenizer, row, 2048, style)["input_ids"]
    assert tokenizer.decode(ids) == text
    prompt = rendered(tokenizer, talk[:1], style)
    encoded = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert encoded == ids[: len(encoded)]


# ------------------------------------------------------------------------------------------------------ conversations


def as_the_model_knows_it(messages):
    """The same conversation in the order that every model's own template knows, with the task in the last question."""
    turns = [
        said("assistant" if replies else "user", "\n\n".join(each["content"] for each in run))
        for replies, run in groupby(messages, lambda message: message["role"] == "assistant")
    ]
    last = max((i for i, turn in enumerate(turns) if turn["role"] == "user"), default=None)
    if last is not None:
        turns[last]["content"] = f"{TASK}\n\n{turns[last]['content']}"
    return turns


def test_in_any_order_each_message_stands_where_the_models_own_template_puts_it(tokenizer):
    render = compiled(tokenizer)
    for order in ORDERS:
        talk = [said(role, f"{role} {i}.") for i, role in enumerate(order)]
        own = tokenizer.apply_chat_template(as_the_model_knows_it(talk), tokenize=False, add_generation_prompt=True)
        assert render(talk) == own.removesuffix(OPENING) + OPENING, order


def test_without_a_layout_of_turns_each_message_still_stands_under_its_label(smollm_tokenizer):
    render = compiled(smollm_tokenizer, "plain")
    for order in ORDERS:
        text = render([said(role, f"{role} {i}.") for i, role in enumerate(order)])
        for i, role in enumerate(order):
            label = "Answer" if role == "assistant" else "Query"
            assert text[: text.index(f"{role} {i}.")].rpartition("### ")[2].startswith(label), order
        assert text.endswith(f"### Answer:\n{OPENING}")


@pytest.mark.parametrize(
    ("content", "text"),
    [(None, ""), ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "a\nb"), ([], "")],
)
@pytest.mark.parametrize("role", ROLES)
def test_content_may_be_null_or_a_list_of_parts(tokenizer, role, content, text):
    talk = [[said("user", "x"), said(role, each), said("user", "y")] for each in (content, text)]
    assert rendered(tokenizer, talk[0]) == rendered(tokenizer, talk[1])


@pytest.mark.parametrize(
    "reply",
    [
        said("assistant", "<think>\nthought\n</think>\n\na1"),
        said("assistant", "thought</think>a1"),
        said("assistant", "thought</think>more of it</think>\na1"),
        said("assistant", "a1", reasoning_content="thought"),
        said("assistant", [{"type": "text", "text": "thought</think>a1"}]),
    ],
)
def test_an_earlier_reply_stands_without_its_reasoning(tokenizer, reply):
    talk = [said("user", "q1"), reply, said("user", "q2")]
    assert rendered(tokenizer, talk) == rendered(tokenizer, [talk[0], said("assistant", "a1"), talk[2]])


# ----------------------------------------------------------------------------------------------------- special tokens


def test_no_message_holds_a_special_token(tokenizer):
    """As many special tokens as without them, whatever a message says; its words stay readable."""
    added = set(tokenizer.get_added_vocab().values())
    everything = " ".join(sorted(special_strings(tokenizer)))
    render = compiled(tokenizer)
    for role in ROLES:
        # Attempts to end the turn, to close the thought, and to have a tag built by what the filter takes out.
        for text in (everything, everything * 2, f"{tokenizer.eos_token}<<think>think></think", "<thi<think>nk>"):
            counts = []
            for content in (text, "harmless"):
                talk = [said("user", "a"), said("assistant", "b"), said(role, content), said("user", "c")]
                ids = tokenizer(render(talk), add_special_tokens=False)["input_ids"]
                counts.append([i for i in ids if i in added and tokenizer.convert_ids_to_tokens(i).strip("Ġ ")])
            assert counts[0] == counts[1], (role, text)
    assert "think>" in render([said("user", "</think>")])
    thought = said("assistant", "B.", reasoning_content=everything)
    text = render([said("user", "a"), thought], False)
    assert text.count(tokenizer.eos_token) == render([said("user", "a"), said("assistant", "B.")], False).count(
        tokenizer.eos_token
    )


@pytest.mark.parametrize("name", REAL)
def test_a_vocabulary_with_hundreds_of_special_tokens_keeps_the_template_small(name):
    tokenizer = real_tokenizer(name)
    template = chat_template(tokenizer)
    assert len(template) < 4_000
    talk = [said("user", " ".join(special_strings(tokenizer)))]
    text = rendered(tokenizer, talk)
    frame = build_prompt(tokenizer, "\0").split("\0")
    inside = text.removeprefix(frame[0]).removesuffix(frame[1])
    assert not [token for token in special_strings(tokenizer) if token in inside]


# ------------------------------------------------------------------------------------------- where others look for it


def test_transformers_finds_it_in_a_folder(tokenizer, tmp_path):
    copied = copy.deepcopy(tokenizer)
    copied.chat_template = chat_template(tokenizer)
    copied.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert (tmp_path / "chat_template.jinja").read_text("utf-8") == chat_template(tokenizer)
    for order in (("user",), ("system", "user", "assistant", "user"), ("assistant", "user", "user")):
        talk = [said(role, f"{role} {i}") for i, role in enumerate(order)]
        assert loaded.apply_chat_template(talk, tokenize=False, add_generation_prompt=True) == rendered(tokenizer, talk)
    assert THINK not in loaded.apply_chat_template([said("user", "Why?")], tokenize=False)


# --------------------------------------------------------------------------------------------------------- for Ollama


@pytest.mark.parametrize("style", ["native", "plain"])
def test_ollama_asks_as_the_servers_do(tokenizer, style):
    template, render = ollama_template(tokenizer, style), compiled(tokenizer, style)
    for order in ORDERS:
        if "developer" in order:  # which Ollama does not know
            continue
        talk = [said(role, f"{role} {i}") for i, role in enumerate(order)]
        last = order[-1] == "assistant"  # Ollama goes on with it
        text = render(talk, not last).removeprefix(tokenizer.bos_token or "")
        assert go_template.render(template, talk) == (text.removesuffix(tokenizer.eos_token) if last else text), order


def test_ollama_knows_the_tags_and_shows_the_thought_of_the_reply_alone(tokenizer):
    template = ollama_template(tokenizer)
    assert go_template.thinking_tags(template) == ("<think>", "</think>")
    talk = [said("user", "q1"), said("assistant", "a1", thinking="t1"), said("user", "q2")]
    text = go_template.render(template, [*talk, said("assistant", "a2", thinking="t2")])
    assert "t1" not in text
    assert text.endswith(f"{OPENING}t2</think>a2")


def test_the_modelfile_has_the_template_and_every_stop_token(tokenizer, tmp_path):
    run = open_run("smoke", tmp_path)
    ids = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(other := sorted(tokenizer.get_added_vocab())[0])]
    write_json(run / "export/merged/generation_config.json", {"eos_token_id": ids})
    text = write_modelfile(run, tokenizer, run / "export/model-q8_0.gguf").read_text("utf-8")
    head, template, parameters = text.split('"""')
    assert head.startswith("FROM ./model-q8_0.gguf\n#")
    assert head.endswith("TEMPLATE ")
    assert template == ollama_template(tokenizer)
    stops = [json.loads(line.split(" ", 2)[2]) for line in parameters.splitlines() if line.startswith("PARAMETER stop")]
    assert stops == [tokenizer.eos_token, other]
