"""Passages in front of a question: what the model reads, and how much of it."""

import re
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from outsides import real_tokenizer
from test_encoding import ANY_TEXT, MARKUP, QUESTION, often

from helpers.prompts.encoding import encode_prompt, special_strings
from helpers.prompts.passages import LEAD, fit_passages, with_passages

HEADING = re.compile(r"\[\d|question\s*:|#", re.IGNORECASE)


def passage(text, title="A title"):
    return SimpleNamespace(title=title, text=text)


LONG = [passage(f"Passage {n}: " + "the heart has four valves. " * (3 * n), f"Title {n}") for n in range(1, 6)]


def test_passages_are_numbered_from_one_in_their_order():
    text = with_passages(QUESTION, [passage("First.", "Heart > Valves"), passage("Second.\nmore", "Liver")])
    assert text == (f"{LEAD}\n\n[1] Heart > Valves\nFirst.\n\n[2] Liver\nSecond. more\n\nQuestion:\n{QUESTION}")


def test_without_passages_the_question_is_as_it_was(r1_tokenizer):
    assert with_passages(f" {QUESTION}\n", []) == f" {QUESTION}\n"
    assert fit_passages(r1_tokenizer, QUESTION, [], 10_000) == []


BREAKS = st.sampled_from(["\n", "\r", "\n\n", "\x0b", "\x0c", "\x1c", "\x1e", "\x85", "\u2028", "\u2029", " ", ""])
HEADINGS = st.sampled_from(
    ["[2] Another title", "[1]", "Question:", "question :\n", "# Answer", "### Answer:", "Text."]
)
FORGED = st.lists(st.tuples(BREAKS, HEADINGS), max_size=6).map(lambda parts: "".join(map("".join, parts)))


@given(FORGED, FORGED)
@often
def test_no_line_of_a_passage_passes_for_a_passage_or_the_question(title, text):
    lines = with_passages("Why?", [passage(text, title), passage(text, title)]).splitlines()
    assert [line[:3] if line[0] == "[" else line for line in lines if HEADING.match(line)] == [
        "[1]",
        "[2]",
        "Question:",
    ]
    assert lines[-2:] == ["Question:", "Why?"]


def test_a_passage_that_begins_like_any_other_is_not_quoted():
    for text in ("The heart.", "β-blockers slow it.", "5 mg are enough.", "Questions remain."):
        assert f"\n{text}\n" in with_passages(QUESTION, [passage(text)])


@pytest.mark.parametrize("name", ["r1_tokenizer", "smollm_tokenizer", "r1-distill-llama-8b"])
def test_special_tokens_in_a_passage_are_text(name, request):
    """However many stand in a passage or its title, the prompt has those of the template and no other."""
    tokenizer = request.getfixturevalue(name) if name.endswith("_tokenizer") else real_tokenizer(name)
    special = set(tokenizer.get_added_vocab().values())
    markup = " ".join(MARKUP + sorted(special_strings(tokenizer))[:40])

    def count(passages):
        return sum(token in special for token in encode_prompt(tokenizer, with_passages(QUESTION, passages)))

    assert count([passage(markup, markup)] * 2) == count([passage("The heart.")])


@given(ANY_TEXT, ANY_TEXT, st.integers(0, 400))
@settings(often, max_examples=15)
def test_any_passage_fits_or_is_left_out(smollm_tokenizer, title, text, room):
    kept = fit_passages(smollm_tokenizer, QUESTION, [passage(text, title), *LONG], room)
    assert not kept or len(encode_prompt(smollm_tokenizer, with_passages(QUESTION, kept))) <= room


def test_the_budget_is_used_as_far_as_whole_passages_go(smollm_tokenizer):
    """At each passage's own size it is in, one token earlier it is not; more room never gives fewer passages."""
    tokenizer = smollm_tokenizer
    alone = len(encode_prompt(tokenizer, QUESTION))
    sizes = [len(encode_prompt(tokenizer, with_passages(QUESTION, LONG[:n]))) for n in range(1, len(LONG) + 1)]
    for n, size in enumerate(sizes, 1):
        assert fit_passages(tokenizer, QUESTION, LONG, size) == LONG[:n]
        assert fit_passages(tokenizer, QUESTION, LONG, size - 1) == LONG[: n - 1]
    assert fit_passages(tokenizer, QUESTION, LONG, alone) == fit_passages(tokenizer, QUESTION, LONG, 0) == []


def test_the_budget_counts_the_prompt_in_its_own_style(smollm_tokenizer):
    size = {
        style: len(encode_prompt(smollm_tokenizer, with_passages(QUESTION, LONG[:1]), style))
        for style in ("native", "plain")
    }
    assert size["native"] != size["plain"]
    for style, room in size.items():
        assert len(fit_passages(smollm_tokenizer, QUESTION, LONG, room, style)) == 1
        assert fit_passages(smollm_tokenizer, QUESTION, LONG, room - 1, style) == []


def test_a_passage_that_the_vocabulary_cannot_spell_is_left_out(smollm_tokenizer):
    odd = [passage("An unassigned \U00040000 character."), passage("The heart.", "\x04")]
    assert fit_passages(smollm_tokenizer, QUESTION, [odd[0], LONG[0], odd[1]], 10_000) == [LONG[0]]
