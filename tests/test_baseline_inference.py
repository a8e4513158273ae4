"""02's pieces of a reply and the sentences about them."""

import pytest

from helpers.baseline_inference import next_token_remark, pieces_remark, replies_remark, shortened, token_pieces
from helpers.prompts.encoding import build_prompt, encode_prompt


def texts(pieces):
    joined = {}
    for text, kind in pieces:
        joined[kind] = joined.get(kind, "") + text
    return joined


@pytest.mark.parametrize("tokenizer", ["r1_tokenizer", "smollm_tokenizer"])
@pytest.mark.parametrize("style", ["native", "plain"])
def test_the_pieces_are_the_prompt_and_the_reply_and_each_has_its_kind(request, tokenizer, style):
    tokenizer = request.getfixturevalue(tokenizer)
    ids = encode_prompt(tokenizer, "Why?", style)
    parts = texts(token_pieces(tokenizer, ids, "It itches.</think>Scabies.", finished=True))
    assert parts["prompt"] + parts["<think>"] == build_prompt(tokenizer, "Why?", style)
    assert parts["<think>"].strip() == "<think>"
    assert (parts["thought"], parts["</think>"], parts["answer"]) == ("It itches.", "</think>", "Scabies.")
    assert parts["end"] == tokenizer.eos_token
    assert "This reply has all its parts." in pieces_remark(token_pieces(tokenizer, ids, "a</think>b", finished=True))


def test_a_thought_that_never_closed_is_all_thought(r1_tokenizer):
    pieces = token_pieces(r1_tokenizer, encode_prompt(r1_tokenizer, "Why?"), "It could", finished=False)
    assert texts(pieces).keys() == {"prompt", "<think>", "thought"}
    assert pieces_remark(pieces).endswith("This reply lacks </think>, answer, end.")
    empty = token_pieces(r1_tokenizer, encode_prompt(r1_tokenizer, "Why?"), "", finished=False)
    assert "thought 0" in pieces_remark(empty)


def test_long_parts_lose_their_middle_and_say_how_much():
    pieces = [("p", "prompt")] * 3 + [(str(i), "thought") for i in range(10)]
    assert shortened(pieces, 4) == [
        *[("p", "prompt")] * 3, ("0", "thought"), ("1", "thought"), (" … 6 tokens …", "thought"), ("8", "thought"),
        ("9", "thought"),
    ]  # fmt: skip
    pieces[-1] = (" 9", "thought")  # it goes on with a word, not in one
    assert shortened(pieces, 4)[-2:] == [(" … 7 tokens …", "thought"), (" 9", "thought")]
    assert shortened(pieces, 10) == pieces


def test_the_remarks_say_what_the_figures_say():
    assert "'The', has a probability of 25%" in next_token_remark("The", 0.25, 0.5, 0.6)
    assert "temperature 0.6 takes it in 50%" in next_token_remark("The", 0.25, 0.5, 0.6)
    assert "favours none" in next_token_remark("x", 0.0001, 0.0002, 0.6)
    rows = [{"closed": True, "finished": True}, {"closed": False, "finished": False}]
    assert replies_remark(rows, 16).startswith("1 of 2 replies closed their thought, and 1 of 2 ended within 16 tok")
    assert "no answer to read" in replies_remark(rows[1:], 16)
