"""Asking OpenAI-compatible servers: this project's, and those of others."""

import pytest
from fake_server import Server

from helpers import InputError
from helpers.config import Config
from helpers.prompts.encoding import Reasoning, split_reasoning
from helpers.use.client import MAX_QUESTION, Endpoint, check_question, key_for

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


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (" \n\t ", "is empty"),
        ("\x00\x01\x1b\ud800", "is empty"),
        ("x" * (MAX_QUESTION + 1), "has 8,001 characters, more than the limit of 8,000"),
    ],
)
def test_an_empty_or_too_long_question_is_refused(text, line):
    with pytest.raises(InputError, match=line):
        check_question(text)


# ------------------------------------------------------------------------------------------------------- the endpoint


def asked(deltas, **how):
    server = Server(deltas, **how)
    return server, list(Endpoint(server.url, "secret").stream("Why?", SETTINGS))


def test_the_request_is_the_users_turn_and_the_settings():
    server, _ = asked([{"content": "x"}])
    [(key, body)] = server.requests
    assert key == "Bearer secret"
    assert body["messages"] == [{"role": "user", "content": "Why?"}]
    assert body["model"] == "the-model"
    settings = SETTINGS.max_new_tokens, SETTINGS.temperature, SETTINGS.top_p
    assert (body["max_tokens"], body["temperature"], body["top_p"], body["stream"]) == (*settings, True)


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_that_the_server_took_apart_is_closed_before_the_answer(field):
    deltas = [
        {"role": "assistant", "content": None},
        {field: "Hm"},
        {field: "."},
        {"content": "It is"},
        {"content": " B."},
    ]
    _, (*pieces, end) = asked(deltas)
    assert pieces == ["Hm", ".", "</think>\n\nIt is", " B."]
    assert (end.text, end.finished, end.tokens) == ("Hm.</think>\n\nIt is B.", True, 7)


def test_a_thought_that_is_never_closed_is_all_there_is():
    for deltas in ([{"content": c} for c in "<think>Never closed </th"], [{"reasoning_content": "Never closed </th"}]):
        _, (*_, end) = asked(deltas, finish="length")
        assert split_reasoning(end.text) == Reasoning("Never closed </th", "", closed=False)
        assert not end.finished


@pytest.mark.parametrize(
    "reply",
    [
        "a</think>b</think>c",
        "<think>a</think>b",
        "thought</think>The model writes <think> first.",
        "a</think>",
        "</think>b",
    ],
)
@pytest.mark.parametrize("size", [1, 100])
def test_a_stream_ends_with_what_split_reasoning_says(reply, size):
    """Whoever takes the reply apart: nobody, or the server, at its first `</think>`."""
    _, (*pieces, end) = asked([{"content": reply[i : i + size]} for i in range(0, len(reply), size)])
    assert "".join(pieces) == end.text == reply
    thinking, _, answer = reply.removeprefix("<think>").partition("</think>")
    parts = [{field: text} for field, text in (("reasoning_content", thinking), ("content", answer)) if text]
    if answer:  # else the server does not say whether the thought was closed
        found, want = split_reasoning(asked(parts)[1][-1].text), split_reasoning(reply)
        assert (found.answer, found.closed) == (want.answer, want.closed)
        assert "".join(found.thinking.split()) == "".join(want.thinking.split())  # it drops the blank line


@pytest.mark.parametrize("reply", ["Carpal tunnel syndrome.", "<thi", "p < 0.05"])
def test_text_without_any_tag_is_the_answer_of_a_model_that_does_not_think(reply):
    _, pieces = asked([{"content": c} for c in reply])
    assert split_reasoning(pieces[-1].text) == Reasoning("", reply, closed=True)


def test_a_reply_of_nothing_has_no_answer():
    assert not split_reasoning(asked([])[1][-1].text).closed


# ---------------------------------------------------------------------------------------------- servers of other makers


def test_of_several_models_the_first_is_taken_and_named(capsys):
    server = Server([{"content": "x"}], models=["llama3.2", "qwen3"])
    list(Endpoint(server.url).stream("Why?", SETTINGS))
    assert server.requests[0][1]["model"] == "llama3.2"
    assert "lists 2 models; using llama3.2, choose another with --model" in capsys.readouterr().err
    assert Endpoint(server.url, model="qwen3").model == "qwen3"
    assert Endpoint(Server([]).url).model == "the-model"
    assert capsys.readouterr().err == ""
    with pytest.raises(InputError, match=r"lists no model$"):
        _ = Endpoint(Server([], models=[]).url).model


def test_text_comes_as_it_arrives():
    server = Server([{"content": f"word {i} "} for i in range(50)], pause=0.05)
    stream = Endpoint(server.url).stream("Why?", SETTINGS)
    assert next(stream) == "word 0 "
    assert server.sent < 10
    stream.close()
    assert server.broken.wait(5), "the server went on for nobody"
    assert server.sent < 50


@pytest.mark.parametrize(
    ("status", "line"), [(401, r"rejected the API key \(401\)"), (503, "refused: .*no room$"), (400, "refused")]
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


@pytest.mark.parametrize("address", ["http://a\x01b/v1", "http://[::1/v1"])
def test_what_is_no_address_is_one_line(address):
    with pytest.raises(InputError, match="is not an address: "):
        Endpoint(address, key_for(address))


def test_a_key_that_no_server_can_be_sent_is_one_line():
    with pytest.raises(InputError, match="a letter that is not ASCII"):
        list(Endpoint("http://127.0.0.1:9/v1", "kéy").stream("Why?", SETTINGS))


def test_our_servers_key_goes_to_no_stranger(monkeypatch):
    monkeypatch.setenv("AI_DOCTOR_API_KEY", "ours")
    monkeypatch.delenv("AI_DOCTOR_ENDPOINT_KEY", raising=False)
    assert [key_for(f"http://{host}:8000/v1") for host in ("127.0.0.1", "localhost", "[::1]")] == ["ours"] * 3
    assert key_for("https://api.example/v1") == ""
    monkeypatch.setenv("AI_DOCTOR_ENDPOINT_KEY", "theirs")
    assert key_for("https://api.example/v1") == key_for("http://127.0.0.1:8000/v1") == "theirs"
    monkeypatch.setenv("OPENAI_ORG_ID", "org-mine")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-mine")
    headers = Endpoint("https://api.example/v1", "theirs")._client.default_headers
    assert not {"org-mine", "project-mine"} & set(map(str, headers.values()))
