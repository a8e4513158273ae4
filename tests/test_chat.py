"""Asking OpenAI-compatible servers, and the chat template that makes one ask as training did."""

import pytest
from fake_server import Server
from jinja2.sandbox import ImmutableSandboxedEnvironment

from helpers import InputError
from helpers.chat import MAX_QUESTION, Ended, Endpoint, Piece, chat_template, check_question
from helpers.config import Config
from helpers.prompts import OPENING, TASK, build_prompt, encode_prompt, special_strings

SETTINGS = Config.resolve("smoke").generation


# ------------------------------------------------------------------------------------------------------ the question


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("  Which nerve?\n", "Which nerve?"),
        ("a\x00b\x1b[31mc\x7f", "ab[31mc"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("half a character: \ud800", "half a character:"),
        ("naïve 39 °C β₂ 腹痛 👩‍⚕️", "naïve 39 °C β₂ 腹痛 👩‍⚕️"),
        ("<b>bold</b>", "<b>bold</b>"),
        ("x" * MAX_QUESTION, "x" * MAX_QUESTION),
    ],
)
def test_a_question_loses_control_characters_and_nothing_else(text, question):
    assert check_question(text) == question


@pytest.mark.parametrize("text", ["", " \n\t ", "\x00\x01\x1b", "\ud800"])
def test_an_empty_question_is_refused(text):
    with pytest.raises(InputError, match="empty"):
        check_question(text)


def test_a_question_that_is_too_long_is_refused():
    with pytest.raises(InputError, match=r"8,001 characters, and at most 8,000"):
        check_question("x" * (MAX_QUESTION + 1))


# ------------------------------------------------------------------------------------------------- the chat template


@pytest.fixture(params=["r1_tokenizer", "smollm_tokenizer"])
def tokenizer(request):
    return request.getfixturevalue(request.param)


def rendered(tokenizer, messages, style="native"):
    template = ImmutableSandboxedEnvironment().from_string(chat_template(tokenizer, style))
    return template.render(messages=messages, add_generation_prompt=True)


def said(role, content):
    return {"role": role, "content": content}


@pytest.mark.parametrize("style", ["native", "plain"])
@pytest.mark.parametrize(
    "question", ["Why?", 'A "quoted" \\ backslash\nand {{ braces }} {% raw %}', "39 °C, β-blocker"]
)
def test_a_server_asks_a_question_as_training_did(tokenizer, style, question):
    assert rendered(tokenizer, [said("user", question)], style) == build_prompt(tokenizer, question, style)


def test_an_earlier_turn_stands_as_the_models_own_template_writes_it(tokenizer):
    talk = [said("user", "First?"), said("assistant", "Yes."), said("user", f"{TASK}\n\nWhy?")]
    own = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    assert rendered(tokenizer, [*talk[:2], said("user", "Why?")]) == own.removesuffix(OPENING) + OPENING


def test_a_system_message_goes_before_the_question(tokenizer):
    text = rendered(tokenizer, [said("system", "Be brief."), said("user", "Why?")])
    assert text == build_prompt(tokenizer, "Be brief.\n\nWhy?")


def test_no_message_holds_a_special_token(tokenizer):
    """As many special tokens as without them, whatever a message says; its words stay readable."""
    added = set(tokenizer.get_added_vocab().values())
    everything = " ".join(sorted(special_strings(tokenizer)))
    for role in ("system", "user", "assistant"):
        # Attempts to end the turn, to close the thought, and to have a tag built by what the filter takes out.
        for text in (everything, everything * 2, f"{tokenizer.eos_token}<<think>think></think", "<thi<think>nk>"):
            counts = []
            for content in (text, "harmless"):
                talk = [said("user", "a"), said("assistant", "b"), said(role, content), said("user", "c")]
                ids = tokenizer(rendered(tokenizer, talk), add_special_tokens=False)["input_ids"]
                counts.append([i for i in ids if i in added and tokenizer.convert_ids_to_tokens(i).strip("Ġ ")])
            assert counts[0] == counts[1], (role, text)
    assert "think>" in rendered(tokenizer, [said("user", "</think>")])


def test_the_text_between_tags_is_what_training_encoded(tokenizer):
    prompt = rendered(tokenizer, [said("user", "Which nerve is compressed?")])
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert ids == encode_prompt(tokenizer, "Which nerve is compressed?")


# ------------------------------------------------------------------------------------------------------- the endpoint


def asked(deltas, **how):
    server = Server(deltas, **how)
    return server, list(Endpoint(server.url, "secret").stream("Why?", SETTINGS))


def joined(pieces, kind):
    return "".join(piece.text for piece in pieces if isinstance(piece, Piece) and piece.kind == kind)


def test_the_request_is_the_users_turn_and_the_settings():
    server, _ = asked([{"content": "x"}])
    [(key, body)] = server.requests
    assert key == "Bearer secret"
    assert body["messages"] == [{"role": "user", "content": "Why?"}]
    assert body["model"] == "the-model"
    settings = SETTINGS.max_new_tokens, SETTINGS.temperature, SETTINGS.top_p
    assert (body["max_tokens"], body["temperature"], body["top_p"], body["stream"]) == (*settings, True)


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_that_the_server_took_apart_stays_apart(field):
    _, pieces = asked([{"role": "assistant", "content": None}, {field: "Hm."}, {"content": "It is </think> B."}])
    assert pieces[:-1] == [Piece("thinking", "Hm."), Piece("answer", "It is </think> B.")]
    assert isinstance(pieces[-1], Ended)
    assert (pieces[-1].finished, pieces[-1].tokens) == (True, 7)
    assert 0 <= pieces[-1].first_token_seconds <= pieces[-1].seconds


@pytest.mark.parametrize("opening", ["", "<think>", "<think>\n", "\n<think>\n"])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_raw_text_is_taken_apart_wherever_it_is_cut(opening, size):
    reply = f"{opening}One < two, a </b> and </thin air.</think>\n\nThe <answer>."
    _, pieces = asked([{"content": reply[i : i + size]} for i in range(0, len(reply), size)])
    assert joined(pieces, "thinking") == "One < two, a </b> and </thin air."
    assert joined(pieces, "answer") == "The <answer>."


@pytest.mark.parametrize("reply", ["Never closed </th", "<think>Never closed </th", "<thi"])
def test_a_thought_that_is_never_closed_is_all_there_is(reply):
    _, pieces = asked([{"content": c} for c in reply], finish="length")
    assert joined(pieces, "thinking") == reply.removeprefix("<think>")
    assert joined(pieces, "answer") == ""
    assert not pieces[-1].finished


def test_text_comes_as_it_arrives():
    server = Server([{"content": f"word {i} "} for i in range(50)], pause=0.1)
    stream = Endpoint(server.url).stream("Why?", SETTINGS)
    assert next(stream) == Piece("thinking", "word 0 ")
    assert server.sent < 10
    stream.close()
    assert server.broken.wait(5), "the server went on for nobody"
    assert server.sent < 50


@pytest.mark.parametrize(
    ("status", "line"), [(401, "wants another API key"), (503, "refused: .*no room$"), (400, "refused")]
)
def test_a_refusal_is_one_line(status, line):
    with pytest.raises(InputError, match=line) as error:
        asked([], status=status)
    assert "\n" not in str(error.value)


def test_a_dead_server_is_one_line():
    server = Server([])
    server.shutdown()
    server.server_close()
    with pytest.raises(InputError, match=r"at http://127\.0\.0\.1:\d+/v1 cannot be reached"):
        list(Endpoint(server.url).stream("Why?", SETTINGS))
