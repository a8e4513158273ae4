"""Serving with sources: what goes on to the engine, what comes back with it, and what clients cannot do."""

import json
import logging
import socket
import threading
import time
from contextlib import ExitStack

import httpx
import openai
import pytest
from fake_server import Server
from hypothesis import given
from hypothesis import strategies as st

from helpers import InputError
from helpers.config import Config
from helpers.files import read_jsonl
from helpers.knowledge.documents import Document, Passage, Section
from helpers.knowledge.index import Index
from helpers.prompts.passages import with_passages
from helpers.use import listening as listening_module
from helpers.use import proxy as proxy_module
from helpers.use.client import MAX_QUESTION, Ended, Endpoint
from helpers.use.listening import listening
from helpers.use.proxy import MAX_BODY, Proxy
from helpers.use.sourced_chat import Annotator, annotated, look_up, parsed

SETTINGS = Config.resolve("smoke").generation
KEY, ENGINE_KEY = "clients-key", "engines-key"
ASK = {"model": "m", "messages": [{"role": "user", "content": "Which nerve is in the carpal tunnel?"}]}
REPLY = [{"role": "assistant", "content": None}, {"reasoning_content": "Hm [7]."}, {"content": "The median [1"}]
REPLY += [{"content": "], not the ulnar [4]."}]
DOCUMENTS = [
    Document(
        "m1", [Section(("Hand", "Nerves"), ["The median nerve runs in the carpal tunnel."])], "CC BY", "http://a.b/"
    ),
    Document("m2", [Section(("Elbow",), ["The ulnar nerve runs behind the elbow."])], "CC0"),
]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    made = Index(tmp_path_factory.mktemp("index") / "index.sqlite")
    made.add(DOCUMENTS)
    return made


def serving(index, stack):
    """`call(deltas, **how)`: the stand-in engine, and a client of the proxy before it."""

    def call(deltas=REPLY, **how):
        engine = Server(deltas, **how)
        app = Proxy(engine.url.removesuffix("/v1"), ENGINE_KEY, KEY, index, 2).app()
        address = stack.enter_context(listening(app, "127.0.0.1", 0, 1))
        headers = {"Authorization": f"Bearer {KEY}"}
        return engine, stack.enter_context(httpx.Client(base_url=address, headers=headers, trust_env=False))

    return call


@pytest.fixture
def served(index):
    with ExitStack() as stack:
        yield serving(index, stack)


@pytest.fixture(scope="module")
def steady(index):
    """One server for all that does not change it."""
    with ExitStack() as stack:
        yield serving(index, stack)()


def ask(client, **more):
    return client.post("/v1/chat/completions", json=ASK | more)


# ------------------------------------------------------------------------------------------------- what goes to and fro


def test_an_answer_names_its_sources_and_what_it_cites_without_one(served):
    engine, client = served()
    reply = ask(client, temperature=0.5).json()
    assert reply["choices"][0]["message"]["content"] == "The median [1], not the ulnar [4]."
    assert reply["unknown_citations"] == [4]  # the thought may think aloud of anything
    first, second = reply["sources"]
    assert first == {
        "number": 1,
        "title": "Hand > Nerves",
        "source": "m1",
        "licence": "CC BY",
        "address": "http://a.b/",
        "text": "The median nerve runs in the carpal tunnel.",
    }
    assert (second["number"], second["source"], second["address"]) == (2, "m2", "")
    [(key, body)] = engine.requests
    assert key == f"Bearer {ENGINE_KEY}"
    assert body["temperature"] == 0.5
    sent = body["messages"][0]["content"]
    assert sent.index("[1] Hand > Nerves\nThe median nerve") < sent.index("Question:\nWhich nerve is in the carpal")


def test_a_stream_has_one_more_chunk_before_its_end(served):
    engine, client = served()
    plain = httpx.post(f"{engine.url}/chat/completions", json=ASK | {"stream": True}).text
    reply = ask(client, stream=True)
    assert reply.headers["Content-Type"].startswith("text/event-stream")
    before, after = plain.split("data: [DONE]")
    chunk, end = reply.text.removeprefix(before).split("data: [DONE]")
    assert reply.text.startswith(before)
    assert end == after
    added = json.loads(chunk.removeprefix("data: "))
    assert added["object"] == "chat.completion.chunk"
    assert (added["id"], added["model"], added["created"]) == ("1", "m", 0)
    assert added["choices"] == [{"index": 0, "delta": {"content": ""}, "finish_reason": None}]
    assert ([each["source"] for each in added["sources"]], added["unknown_citations"]) == (["m1", "m2"], [4])


def test_the_clients_of_openai_and_of_this_project_take_it(served):
    _, client = served()
    official = openai.OpenAI(base_url=f"{client.base_url}/v1", api_key=KEY, max_retries=0)
    assert [model.id for model in official.models.list()] == ["the-model"]
    whole = official.chat.completions.create(**ASK)
    *_, last = official.chat.completions.create(**ASK, stream=True)
    for found in (whole, last):
        assert [each["number"] for each in found.model_extra["sources"]] == [1, 2]
        assert found.model_extra["unknown_citations"] == [4]
    *_, ended = Endpoint(f"{client.base_url}/v1", KEY).stream("Which nerve is in the carpal tunnel?", SETTINGS)
    assert isinstance(ended, Ended)
    assert ended.text == "Hm [7].</think>\n\nThe median [1], not the ulnar [4]."
    assert (ended.finished, ended.tokens) == (True, 7)
    nerve, elbow = ended.sources
    assert (nerve.title, nerve.source, nerve.licence, nerve.address) == ("Hand > Nerves", "m1", "CC BY", "http://a.b/")
    assert elbow.text == "The ulnar nerve runs behind the elbow."


def test_ask_lists_what_a_server_has_looked_up(served, cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, client = served()
    there = ("--endpoint", f"{client.base_url}/v1", "--api-key", KEY)
    said = cli("ask", "Which nerve is in the carpal tunnel?", *there)
    assert said.out.split("\nSources:\n")[1].splitlines() == [
        "[1] Hand > Nerves (m1, CC BY, http://a.b/)",
        "[2] Elbow (m2, CC0)",
        "[4]: cited in the answer, but no passage has this number",
    ]
    (tmp_path / "q.txt").write_text("Which nerve is in the carpal tunnel?\nzebra\n")
    assert cli("ask", "--file", "q.txt", "--out", "r.jsonl", *there).status == 0
    rows = read_jsonl(tmp_path / "r.jsonl")
    assert [[each["source"] for each in row["sources"]] for row in rows] == [["m1", "m2"], []]
    assert [row["unknown_citations"] for row in rows] == [[4], [1, 4]]


def test_text_comes_as_it_arrives_and_a_client_that_leaves_stops_the_engine(served):
    engine, client = served([{"content": f"word {i} "} for i in range(60)], pause=0.05)
    with client.stream("POST", "/v1/chat/completions", json=ASK | {"stream": True}) as reply:
        assert "word 0" in next(reply.iter_text())
        assert engine.sent < 10
    assert engine.broken.wait(5), "the engine went on for nobody"
    assert engine.sent < 60


# ---------------------------------------------------------------------------------------------------- the last question


@pytest.mark.parametrize(
    "content",
    ["carpal tunnel", [{"type": "text", "text": "carpal"}, {"type": "image_url"}, {"type": "text", "text": "tunnel"}]],
    ids=["text", "parts"],
)
def test_the_last_user_message_alone_is_looked_up_and_changed(index, content):
    earlier = [{"role": "user", "content": "elbow"}, {"role": "assistant", "content": "ulnar"}]
    body = {"messages": [*earlier, {"role": "user", "content": content}, {"role": "system", "content": "elbow"}]}
    found = look_up(index, 1, body)
    assert [each.source for each in found] == ["m1"]
    assert (body["messages"][:2], body["messages"][3]["content"]) == (earlier, "elbow")
    changed, joined = body["messages"][2]["content"], "carpal tunnel" if isinstance(content, str) else "carpal\ntunnel"
    text = with_passages(joined, found)
    assert changed == (text if isinstance(content, str) else [{"type": "text", "text": text}, {"type": "image_url"}])


JUST_SO = st.recursive(
    st.none() | st.integers() | st.text(max_size=3) | st.sampled_from(["user", "text"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "type", "text"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(JUST_SO)
def test_what_is_no_conversation_is_left_to_the_engine(index, messages):
    body = {"messages": messages}
    before = json.dumps(body)
    assert look_up(index, 2, body) == []
    assert json.dumps(body) == before


def test_a_long_question_keeps_its_words_and_a_longer_one_is_refused(served):
    engine, client = served()
    long = "nerve ".ljust(MAX_QUESTION, "x")
    reply = ask(client, messages=[{"role": "user", "content": long}])
    assert (reply.status_code, reply.json()["sources"]) == (200, [])
    assert engine.requests[0][1]["messages"][0]["content"] == long
    reply = ask(client, messages=[{"role": "user", "content": long + "x"}])
    assert reply.status_code == 400
    assert reply.json()["error"]["message"] == "the question has 8,001 characters, more than the limit of 8,000"
    assert len(engine.requests) == 1


# ------------------------------------------------------------------------------------------------------------- a stream


PASSAGE = Passage("text", "Title", "s", "CC0")


@given(st.data())
def test_a_stream_is_the_same_wherever_it_is_cut(data):
    texts = ["Ünï\u2028 [1", "] [3", "2]\r"]
    lines = [
        json.dumps({"id": "x", "choices": [{"index": 0, "delta": {"content": t}}]}, ensure_ascii=False) for t in texts
    ]
    stream = (
        "".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"]).replace("[DONE]\n\n", "[DONE]\r\n\r\n").encode()
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    annotator = Annotator([PASSAGE])
    got = b"".join(map(annotator.add, pieces))
    start, end = got[: stream.index(b"data: [DONE]")], got[-len(b"data: [DONE]\r\n\r\n") :]
    assert start + end == stream
    assert json.loads(got[len(start) : -len(end)].removeprefix(b"data: "))["unknown_citations"] == [32]


def test_each_of_several_replies_is_looked_through():
    choices = [{"index": i, "message": {"content": f"a</think>[{i + 1}]"}} for i in range(3)]
    assert annotated({"choices": choices}, [PASSAGE])["unknown_citations"] == [2, 3]
    annotator = Annotator([PASSAGE])
    for i, text in ((0, "[1"), (1, "[2"), (0, "5]"), (1, "6]")):
        annotator.add(f'data: {{"choices": [{{"index": {i}, "delta": {{"content": "{text}"}}}}]}}\n\n'.encode())
    assert b'"unknown_citations": [15, 26]' in annotator.add(b"data: [DONE]\n\n")


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("key", ["x", "guessed", "clients-ke", "schlüssel", ENGINE_KEY])
def test_without_the_key_nobody_asks(steady, key):
    engine, client = steady
    before = len(engine.requests), engine.gets
    headers = {"Authorization": f"Bearer {key}".encode()}
    for reply in (
        client.post("/v1/chat/completions", json=ASK, headers=headers),
        client.get("/v1/models", headers=headers),
        httpx.get(f"{client.base_url}/v1/models"),
    ):
        assert (reply.status_code, reply.json()["error"]["type"]) == (401, "authentication_error")
    assert (len(engine.requests), engine.gets) == before
    assert httpx.get(f"{client.base_url}/health").status_code == 200


def test_a_server_without_a_key_asks_for_none(index):
    engine = Server(REPLY)
    with listening(Proxy(engine.url.removesuffix("/v1"), ENGINE_KEY, "", index, 1).app(), "localhost", 0, 1) as address:
        assert httpx.post(f"{address}/v1/chat/completions", json=ASK).status_code == 200
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/health")


@pytest.mark.parametrize("status", [400, 503])
@pytest.mark.parametrize("stream", [False, True])
def test_what_the_engine_refuses_is_refused(served, status, stream):
    _, client = served(status=status)
    reply = ask(client, stream=stream)
    assert (reply.status_code, reply.json()) == (status, {"error": {"message": "no room\nat all"}})


@pytest.mark.parametrize(
    ("body", "status"),
    [
        *[(b"{{{", 400), (b"", 400), (b"[]", 400), (b'{"a": "\xff"}', 400), (b"[" * 100_000, 400), (b"9" * 5000, 400)],
        *[(b" " * (MAX_BODY + 1), 413), (b"x" * (4 * MAX_BODY), 413), (iter([b"x" * MAX_BODY] * 3), 413)],
    ],
    ids=["braces", "empty", "list", "no UTF-8", "nested", "number", "large", "larger", "without a length"],
)
def test_a_hostile_request_is_refused_and_the_next_one_answered(steady, body, status):
    engine, client = steady
    before = len(engine.requests)
    assert client.post("/v1/chat/completions", content=body).status_code == status
    assert len(engine.requests) == before
    assert ask(client).status_code == 200


def test_half_a_character_goes_on_as_it_came(served):
    engine, client = served()
    body = b'{"messages": [{"role": "user", "content": "carpal \\ud800"}], "n": 1e999}'
    assert client.post("/v1/chat/completions", content=body).status_code == 200
    assert engine.requests[0][1]["messages"][0]["content"].endswith("carpal \ud800")


@pytest.mark.parametrize("path", ["/metrics", "/v1/completions", "/health/", "/v1/chat/completions", "/v1/models/.."])
def test_there_is_nothing_else(steady, path):
    engine, client = steady
    before = engine.gets
    assert client.get(path).status_code in (404, 405)
    assert engine.gets == before


def test_an_engine_that_is_not_there_or_breaks_off_is_told(served, index):
    engine, client = served([{"content": "x"}], pause=0.3)
    official = openai.OpenAI(base_url=f"{client.base_url}/v1", api_key=KEY, max_retries=0)
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as stack:

        def break_off():
            for _ in range(2):
                connection = listener.accept()[0]
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 99\r\n\r\n")
                connection.sendall(b'data: {"id": "1", "choices": []}\n\n')
                connection.close()

        threading.Thread(target=break_off, daemon=True).start()
        app = Proxy(f"http://127.0.0.1:{listener.getsockname()[1]}", ENGINE_KEY, "", index, 1).app()
        address = stack.enter_context(listening(app, "127.0.0.1", 0, 1))
        with pytest.raises(InputError, match="broke off"):
            list(Endpoint(f"{address}/v1", model="m").stream("Why?", SETTINGS))
        assert "the model broke off" in httpx.post(f"{address}/v1/chat/completions", json=ASK).text
    engine.shutdown()
    engine.server_close()
    with pytest.raises(openai.InternalServerError, match="not loaded yet"):
        official.models.list()


def test_an_index_that_is_gone_is_told_without_its_path(served, index, monkeypatch, capfd):
    def gone(*_):
        raise InputError(f"the index {index.path}: it is damaged")

    monkeypatch.setattr(index, "search", gone)
    engine, client = served()
    reply = ask(client)
    assert (reply.status_code, reply.json()["error"]["message"]) == (503, "the index cannot be searched")
    assert str(index.path) in capfd.readouterr().err
    assert engine.requests == []


# ------------------------------------------------------------------------------------------- slow clients and secrets


def test_slow_and_silent_clients_keep_nobody_waiting_and_are_closed(served, monkeypatch):
    monkeypatch.setattr(listening_module, "CLIENT_SECONDS", 1.0)
    monkeypatch.setattr(proxy_module, "CLIENT_SECONDS", 1.0)
    _, client = served()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 99\r\n\r\n{{"
    )
    with ExitStack() as stack:
        waiting = []
        for sent in ["", "POST /v1", head] * 40:
            waiting.append(stack.enter_context(socket.create_connection((client.base_url.host, client.base_url.port))))
            waiting[-1].sendall(sent.encode())
        started = time.monotonic()
        assert ask(client).status_code == 200
        assert time.monotonic() - started < 1
        for one in waiting:
            one.settimeout(10)
        assert [one.recv(12) for one in waiting] == [b"", b"", b"HTTP/1.1 408"] * 40


def test_a_client_that_reads_nothing_keeps_nobody_waiting(served):
    _, client = served([{"content": "x" * 100_000}] * 100)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: "
    body = json.dumps(ASK | {"stream": True})
    with socket.create_connection((client.base_url.host, client.base_url.port)) as deaf:
        deaf.sendall(f"{head}{len(body)}\r\n\r\n{body}".encode())
        time.sleep(0.3)
        started = time.monotonic()
        assert client.get("/health").status_code == 200
        assert ask(client).status_code == 200
        assert time.monotonic() - started < 2


def test_a_client_that_leaves_before_its_answer_is_forgotten(served, caplog):
    engine, client = served(pause=0.5)
    with pytest.raises(httpx.ReadTimeout):
        client.post("/v1/chat/completions", json=ASK, timeout=0.2)
    time.sleep(0.6)
    assert len(engine.requests) == 1
    assert ask(client).status_code == 200
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_no_key_is_in_a_log_or_goes_on(served, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    engine, client = served()
    client.headers.update({"Cookie": "session=private", "X-Api-Key": KEY, "OpenAI-Organization": "private"})
    assert ask(client).status_code == 200
    assert ask(client, stream=True).status_code == 200
    client.headers["Authorization"] = "Bearer private"
    assert ask(client).status_code == 401
    told = caplog.text + "".join(capfd.readouterr())
    assert caplog.records
    assert not [secret for secret in (KEY, ENGINE_KEY, "private") if secret in told]
    assert {key for key, _ in engine.requests} == {f"Bearer {ENGINE_KEY}"}


def test_a_taken_port_is_one_line(index):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(InputError, match="is the port taken") as error:  # noqa: SIM117
        with listening(Proxy("http://127.0.0.1:1", "", "", index, 1).app(), "127.0.0.1", taken.getsockname()[1], 1):
            pass
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("body", [b"null", b'"x"', b"{", b"\xff\xfe{\x00}\x00"])
def test_only_an_object_in_utf_8_is_a_request(body):
    with pytest.raises(ValueError, match="not a JSON object"):
        parsed(body)
