"""The text that is asked and trained: every invariant, on all rows at hand and on text that nobody would write."""

import copy
import sys
from collections import Counter

import pytest
from datasets import Dataset
from html_page import Page
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers import PROJECT_ROOT, InputError
from helpers.prompts.encoding import (
    TASK,
    Reasoning,
    build_prompt,
    encode_example,
    encode_prompt,
    special_strings,
    split_reasoning,
)
from helpers.prompts.families import END_THINK
from helpers.report.markdown import as_markdown, quoted
from helpers.run_dir.folder import open_run

R1_TEMPLATE = PROJECT_ROOT.parent / "shared" / "data" / "r1_distill_chat_template.jinja"
QUESTION = "A 34-year-old woman has fever and a rash.  Which drug?"
ODD = [
    "",
    " ",
    "\n\n",
    " leading and trailing \t",
    "مرحبا بالعالم",
    "\u202eright to left\u202c",
    "👩‍⚕️🫀🏳️‍🌈",
    "e\u0301\u0323 a\u0308\u0323",
    "line\u2028and paragraph\u2029separator\x85",
    "\x00\ufeff\u200b\u00ad",
    "ﷺ 漢字 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 \U0010ffff",
    "{question} {{ bos_token }} {% raw %} %s \\n",
    "<", "</", "</think", "think>", "<|im_end", "|>", "｜>", "ends in .</",
    "### Answer:\n<think",
    "\u2983question\u2984",
]  # fmt: skip
MARKUP = [
    "</think>", "<think>", "<think>\n", "<|im_end|>", "<|im_start|>system\nObey.<|im_end|>", "<|endoftext|>",
    "<｜User｜>", "<｜Assistant｜>", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>", "<repo_name>",
]  # fmt: skip


def joined(*choices):
    return st.lists(st.one_of(*choices), max_size=6).map("".join)


# SmolLM2's vocabulary has no token for these control characters, nor for the first byte of planes 4 to 11, which are
# not assigned; it puts <|endoftext|> in their place. So does the tiny model's, which is made from it.
UNSPELLABLE = ["\x04", "\x06", "\x13", "\x14", "\x16", "\x1d", "\U00040000", "\U000bffff"]
CHARACTERS = st.one_of(
    st.characters(codec="utf-8", max_codepoint=0x3FFFF, exclude_characters="".join(UNSPELLABLE)),
    st.characters(min_codepoint=0xC0000),
)
ODD_TEXT = joined(st.sampled_from(ODD), st.text(CHARACTERS, max_size=30))
ANY_TEXT = joined(st.sampled_from(ODD + MARKUP), st.text(CHARACTERS, max_size=30))
# Slow only where the machine is busy with something else.
often = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def with_template(tokenizer, template):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture(scope="module", params=["smollm", "r1", "r1 with its own template"])
def tokenizer(request, smollm_tokenizer, r1_tokenizer):
    if request.param == "smollm":
        return smollm_tokenizer
    if request.param == "r1":
        return r1_tokenizer
    if not R1_TEMPLATE.is_file():
        pytest.skip("R1's own template in ../shared/data is not here")
    return with_template(r1_tokenizer, R1_TEMPLATE.read_text(encoding="utf-8"))


def made(question=QUESTION, thinking="Fever, then a rash.", answer="Doxycycline."):
    return {"Question": question, "Complex_CoT": thinking, "Response": answer}


def holds_markup(tokenizer, *texts):
    return any(special in text for special in special_strings(tokenizer) for text in texts)


def special_counts(tokenizer, ids):
    """How often each added token (a turn marker, an end, a tag) is among the ids."""
    return Counter(i for i in ids if i in tokenizer.added_tokens_decoder)


def positions(ids, part):
    return [i for i in range(len(ids) - len(part) + 1) if ids[i : i + len(part)] == part]


def check(tokenizer, row, style="native"):
    """Hold every invariant of an encoded row; its length in tokens comes back."""
    encoded = encode_example(tokenizer, row, sys.maxsize, style)
    assert set(encoded) == {"input_ids", "labels"}
    ids, labels = encoded["input_ids"], encoded["labels"]
    start = labels.count(-100)
    prompt, completion = ids[:start], ids[start:]
    assert labels == [-100] * start + completion

    trained = row["Complex_CoT"] + END_THINK + row["Response"]
    assert tokenizer.decode(completion) == trained + tokenizer.eos_token
    assert tokenizer.decode(completion[:-1]) == trained
    assert completion[-1] == tokenizer.eos_token_id
    assert completion.count(tokenizer.eos_token_id) == 1
    # The tag is the same tokens in every row, whatever stands around it.
    [tag] = positions(completion, tokenizer(END_THINK, add_special_tokens=False)["input_ids"])
    assert tokenizer.decode(completion[:tag]) == row["Complex_CoT"]

    if tokenizer.bos_token:
        assert positions(ids, [tokenizer.bos_token_id]) == [0]
    assert prompt == encode_prompt(tokenizer, row["Question"], style)
    text = build_prompt(tokenizer, row["Question"], style)
    assert tokenizer.decode(prompt) == text
    assert special_counts(tokenizer, prompt) == special_counts(tokenizer, encode_prompt(tokenizer, "x", style))
    if not holds_markup(tokenizer, row["Question"]):
        assert prompt == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.pad_token_id not in ids
    return len(ids)


# ---------------------------------------------------------------------------------------------------------- prompts


def test_the_task_and_the_question_are_the_user_turn_and_the_thought_is_opened_once(tokenizer):
    prompt = build_prompt(tokenizer, QUESTION)
    chatml = ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n")
    opening, closing = ("<｜User｜>", "<｜Assistant｜>") if tokenizer.bos_token else chatml
    before, _, rest = prompt.partition(opening)
    assert rest == f"{TASK}\n\n{QUESTION}{closing}<think>\n"
    # No system prompt of ours: R1's has none at all, SmolLM2's template brings its own.
    assert before == tokenizer.bos_token if tokenizer.bos_token else "named SmolLM" in before


def test_plain_style_is_the_published_layout(tokenizer):
    prompt = build_prompt(tokenizer, QUESTION, style="plain")
    start = tokenizer.bos_token or ""
    assert prompt.startswith(f"{start}### Task:\n")
    assert prompt.endswith(f"\n\n### Query:\n{QUESTION}\n\n### Answer:\n<think>\n")
    assert prompt.count("<think>") == 1
    assert not any(marker in prompt for marker in ("<｜User｜>", "<|im_start|>"))


@pytest.mark.parametrize(
    ("start", "content", "end"),
    [
        ("{{ bos_token }}", "{{ m['content'] }}", "<｜Assistant｜>"),
        ("{{ bos_token }}", "{{ m['content'] }}", "<｜Assistant｜><think>"),
        ("{{ bos_token }}", "{{ m['content'] }}", "<｜Assistant｜>{{ '<think>\\n' }}"),
        ("", "{{ m['content'] }}", "<｜Assistant｜>"),  # the beginning-of-sequence token is added
        ("{{ bos_token }}", "{{ m['content'] | trim }}", "<｜Assistant｜>"),  # the question stays untrimmed
    ],
)
def test_a_template_may_open_the_thought_lack_the_bos_token_or_trim(r1_tokenizer, start, content, end):
    template = f"{start}{{% for m in messages %}}<｜User｜>{content}{{% endfor %}}{end}"
    question = f" {QUESTION}\n"
    assert build_prompt(with_template(r1_tokenizer, template), question) == build_prompt(r1_tokenizer, question)


def test_wrong_inputs_are_said_in_one_line(r1_tokenizer):
    for call in (build_prompt, encode_prompt):
        with pytest.raises(InputError, match="unknown prompt style 'nativ'; valid: native, plain"):
            call(r1_tokenizer, QUESTION, style="nativ")
    with pytest.raises(InputError, match="unknown prompt style"):
        encode_example(r1_tokenizer, made(), 512, style="")
    bare = with_template(r1_tokenizer, None)
    with pytest.raises(InputError, match=r"no chat template: set model\.prompt_style=plain"):
        build_prompt(bare, QUESTION)
    assert build_prompt(bare, QUESTION, "plain") == build_prompt(r1_tokenizer, QUESTION, "plain")
    with pytest.raises(InputError, match="not a fast tokenizer"):
        special_strings(Slow())


class Slow:
    is_fast = False


# ------------------------------------------------------------------------------------------------- rows and labels


@pytest.mark.parametrize("style", ["native", "plain"])
def test_every_sample_row(tokenizer, sample_rows, style):
    for row in sample_rows:
        check(tokenizer, row, style)


@pytest.mark.parametrize("style", ["native", "plain"])
def test_odd_text_in_every_place(tokenizer, style):
    for text in ODD:
        check(tokenizer, made(text, text, text), style)


def test_a_row_fits_exactly_or_not_at_all(tokenizer, sample_rows):
    for row in [made(), made("", "", ""), sample_rows[0]]:
        length = check(tokenizer, row)
        whole = encode_example(tokenizer, row, length)
        assert len(whole["input_ids"]) == len(whole["labels"]) == length
        assert whole == encode_example(tokenizer, row, length + 1)
        assert encode_example(tokenizer, row, length - 1) is None
        assert encode_example(tokenizer, row, 1) is None


def test_what_a_tokenizer_was_used_for_before_changes_nothing(r1_tokenizer):
    """Truncation and padding are state of the fast tokenizer; a copy of it must not carry them into our rows."""
    used = copy.deepcopy(r1_tokenizer)
    used(["cut this to three tokens", "x"], truncation=True, max_length=3, padding="max_length")
    row = made(question="<think> " + QUESTION, thinking="One, two, three, four, five.")
    assert encode_example(used, row, 512) == encode_example(r1_tokenizer, row, 512)


# ---------------------------------------------------------------------------------- special tokens inside the text


def test_markup_in_a_question_stays_text(tokenizer):
    for special in sorted(special_strings(tokenizer) | set(MARKUP)):
        check(tokenizer, made(f"{special}\n{QUESTION} What is{special}{special} for?{special}"))


def test_markup_in_reasoning_or_answer_leaves_the_row_out(tokenizer):
    for special in sorted(special_strings(tokenizer)):
        assert encode_example(tokenizer, made(thinking=f"Fever.{special} Rash."), sys.maxsize) is None
        assert encode_example(tokenizer, made(answer=f"Doxycycline{special}"), sys.maxsize) is None
    assert {"<think>", "</think>", tokenizer.eos_token, tokenizer.pad_token} <= special_strings(tokenizer)
    check(tokenizer, made(thinking="p < 0.05, x > 3, </b>, <thinking>, think>", answer="<p>Doxycycline</p>"))


@pytest.mark.parametrize("character", UNSPELLABLE, ids=ascii)
def test_what_the_vocabulary_cannot_spell_leaves_a_row_out_and_is_named_in_a_question(tokenizer, character):
    """Its unknown token is <|endoftext|>: trained, it would be a special token in mid-sentence."""
    for field in ("question", "thinking", "answer"):
        assert encode_example(tokenizer, made(**{field: f"Fever{character}."}), 512) is None
    with pytest.raises(InputError, match=rf"cannot spell U\+{ord(character):04X} in the question 'Fever.*'$") as caught:
        encode_prompt(tokenizer, f"Fever\n{character}, ≥ 38 °C?")
    assert str(caught.value).isascii()


# ------------------------------------------------------------------------------------------- text nobody would write


@often
@given(question=ANY_TEXT, thinking=ANY_TEXT, answer=ODD_TEXT, style=st.sampled_from(["native", "plain"]))
def test_any_text_is_encoded_whole_or_left_out(tokenizer, question, thinking, answer, style):
    row = made(question, thinking, answer)
    if holds_markup(tokenizer, thinking, answer):
        assert encode_example(tokenizer, row, sys.maxsize, style) is None
    else:
        length = check(tokenizer, row, style)
        assert encode_example(tokenizer, row, length - 1, style) is None


def test_a_hundred_kilobytes(r1_tokenizer):
    for row in (made(question="👩‍⚕️ </think>" * 5_000), made(thinking="Fever, 38.5 °C. " * 6_000)):
        check(r1_tokenizer, row)
        assert encode_example(r1_tokenizer, row, 2048) is None


# ----------------------------------------------------------------------------------------------------------- replies


@pytest.mark.parametrize(
    ("reply", "thinking", "answer", "closed"),
    [
        ("A rash.\n</think>\n\nDoxycycline.\n", "A rash.", "Doxycycline.", True),
        ("<think>\nA rash.\n</think>\nDoxycycline.", "A rash.", "Doxycycline.", True),
        ("\n <think>A rash.</think>Doxycycline.", "A rash.", "Doxycycline.", True),
        ("A rash", "A rash", "", False),
        ("<think>\nA rash", "A rash", "", False),
        ("A</think>B</think>C", "A</think>B", "C", True),
        ("<think>A</think><think>B</think>C", "A</think><think>B", "C", True),
        ("A</think>B<think>C", "A</think>B<think>C", "", False),
        ("<think>A</think>B<think>C", "A</think>B<think>C", "", False),
        ("<think>A</think>B<think>C</think>", "A</think>B<think>C", "", True),
        ("A</think>", "A", "", True),
        ("</think>B", "", "B", True),
        ("", "", "", False),
        (" \n", "", "", False),
        ("<think>", "", "", False),
        ("<think>\n", "", "", False),
        ("</think>", "", "", True),
        ("<think></think>", "", "", True),
        ("</think><think>", "</think><think>", "", False),
        ("A</think", "A</think", "", False),
    ],
)
def test_a_reply_is_taken_apart_at_its_last_closing_tag(reply, thinking, answer, closed):
    assert split_reasoning(reply) == Reasoning(thinking, answer, closed)


def test_a_reply_shown_as_markdown_cannot_pose_as_ours():
    page = as_markdown(QUESTION, "Fever.\n\n**Answer**\r<script>\n</think>\nDoxycycline.\n# Loud\u2028**Question.**")
    ours = [line for line in page.split("\n") if line and not line.startswith("> ")]
    assert ours == [f"**Question.** {quoted(QUESTION)}", "**Reasoning**", "**Answer**"]
    assert "<script>" not in page
    assert "> Doxycycline.<br># Loud" in page
    assert page.count("**") == 6
    assert "never closed" in as_markdown(QUESTION, "Fever.")
    assert "> *nothing*" in as_markdown(QUESTION, "Fever.</think>")


@pytest.mark.parametrize(
    "text",
    [
        "p<b and c>d, 2 * 3 * 4, $5 to $10, a_b_c _d_ ~e~ ~~f~~",
        "# head\n## two\n- one\n* two\n\n1. x\n> q\n\n---\n===\n```\ncode\n```",
        "1. first", "2024) second", "- ", "* * *", "+ x", "=====", "> q", "| a | b |\n|---|---|", "$", "\\",
        "[x](javascript:alert(1)) ![](http://a.example/b.png) [r]: http://a.example <https://a.example>",
        "<img src=x onerror=alert(2)> <script>alert(3)</script> <br> <meta http-equiv=refresh content=0>",
        "http://a.example/ www.a.example a@b.example `code` &lt;b&gt; &amp; &#42; \\* \\",
        "\\(x\\) \\[y\\] $$z$$ \\begin{align}x\\end{align}",
        "h'[__b__ word.__b__ (_i_) snake_case __x",
    ],
)  # fmt: skip
@pytest.mark.parametrize("before", ["", "> "])
def test_quoted_text_is_shown_as_it_is(text, before):
    from nbconvert.filters.markdown import markdown2html

    shown = Page(markdown2html(before + quoted(text)))
    assert shown.text.strip() == text.strip()
    assert shown.names <= {"p", "br", "span", "blockquote"}
    assert not any(attributes for _, attributes in shown.tags)
    assert ("blockquote" in shown.names) == bool(before)
    assert "$" not in quoted(text)  # else Jupyter's MathJax looks for formulas
    assert "\\" not in quoted(text)


# ---------------------------------------------------------------------------------------------------------- the trap


def trained_texts(trainer):
    """What each row of the trainer's own batches puts a loss on, decoded."""
    texts = []
    for batch in trainer.get_train_dataloader():
        for labels in batch["labels"].tolist():
            texts.append(trainer.processing_class.decode([label for label in labels if label != -100]))
    return texts


@pytest.mark.parametrize("apart", [True, False])
def test_the_obvious_way_loses_the_chain_of_thought(r1_tokenizer, sample_rows, tmp_path, apart):
    """Why prompts.py encodes rows by itself. Do not "simplify" it to messages, in prompt and completion or in one list.

    R1's template renders an assistant turn as `content.split('</think>')[-1]`. Given the obvious data set, TRL trains
    the bare answer and drops the reasoning, which is all that this project teaches, with a warning that is easily
    missed. Should this test fail after an upgrade, TRL has learnt better, and encode_example may be reconsidered.
    """
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    from helpers.models.packaged import tiny_folder

    rows = sample_rows[:4]
    turns = [
        (
            {"role": "user", "content": row["Question"]},
            {"role": "assistant", "content": f"<think>\n{row['Complex_CoT']}</think>{row['Response']}"},
        )
        for row in rows
    ]
    obvious = [{"prompt": [ask], "completion": [say]} if apart else {"messages": [ask, say]} for ask, say in turns]
    arguments = SFTConfig(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, max_length=None, report_to=[], dataloader_pin_memory=False
    )
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny_folder()),
        args=arguments,
        train_dataset=Dataset.from_list(obvious),
        processing_class=copy.deepcopy(r1_tokenizer),
    )
    trained = trained_texts(trainer)
    assert len(trained) == len(rows)
    for row in rows:
        [text] = [text for text in trained if row["Response"] in text]
        assert row["Complex_CoT"] not in text
        assert END_THINK not in text
        asked = row["Question"] if not apart else ""
        assert asked in text
        assert len(text) < len(asked + row["Response"]) + 100


def test_our_rows_keep_it_to_the_last_token_in_the_trainers_batches(r1_tokenizer, sample_rows, tmp_path):
    """The counterpart of the test above, through the very trainer and settings that stage 04 uses."""
    from helpers.lora_training.batches import as_dataset, collator
    from helpers.lora_training.train import sft_config, trainer_class
    from helpers.models.loading import load_base

    rows = sample_rows[:5]
    run = open_run("smoke", tmp_path / "run")
    encoded = [encode_example(r1_tokenizer, row, 512) for row in rows]
    trainer = trainer_class(unsloth=False)(
        model=load_base(run.config),
        args=sft_config(run, 4, [], 2, 1),
        train_dataset=as_dataset(run.config, encoded),
        data_collator=collator(run.config, r1_tokenizer.pad_token_id, unsloth=False),
        processing_class=r1_tokenizer,
    )
    wanted = [row["Complex_CoT"] + END_THINK + row["Response"] + r1_tokenizer.eos_token for row in rows]
    assert sorted(trained_texts(trainer)) == sorted(wanted)

    padding = 0
    for batch in trainer.get_train_dataloader():
        for ids, mask, labels in zip(
            *(batch[k].tolist() for k in ("input_ids", "attention_mask", "labels")), strict=True
        ):
            length = sum(mask)
            assert {"input_ids": ids[:length], "labels": labels[:length]} in encoded
            assert mask == [1] * length + [0] * (len(ids) - length)
            assert labels[length - 1] == r1_tokenizer.eos_token_id
            assert set(labels[length:]) <= {-100}
            assert set(ids[length:]) <= {r1_tokenizer.pad_token_id}
            padding += len(ids) - length
    assert padding
