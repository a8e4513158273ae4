"""Before the engine: what goes on to it, what comes back with it and with sources, and what clients cannot do."""

import errno
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partialmethod
from http.client import HTTPResponse
from socketserver import ThreadingTCPServer

import httpx
import openai
import pytest
from conftest import fails
from fake_server import Server
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import InputError
from helpers.config import Config
from helpers.knowledge.documents import Document, Passage, Section
from helpers.knowledge.index import Index
from helpers.prompts.passages import with_passages
from helpers.use import proxy as proxy_module
from helpers.use.client import MAX_QUESTION, Ended, Endpoint
from helpers.use.proxy import MAX_BODY, MAX_KEYS, MAX_MESSAGES, Proxy, add_passages, annotated, annotated_stream

SETTINGS = Config.resolve("smoke").generation
KEY, ENGINE_KEY = "clients-key", "engines-key"
QUESTION = "Which nerve is in the carpal tunnel?"
ASK = {"model": "m", "messages": [{"role": "user", "content": QUESTION}]}
REPLY = [{"role": "assistant", "content": None}, {"reasoning_content": "Hm [7]."}, {"content": "The median [1"}]
REPLY += [{"content": "], not the ulnar [4]."}]
NERVE = {"title": "Hand > Nerves", "source": "m1", "licence": "CC BY", "address": "http://a.b/"}
NERVE |= {"text": "The median nerve runs in the carpal tunnel."}
ELBOW = {"title": "Elbow", "source": "m2", "licence": "CC0", "address": ""}
ELBOW |= {"text": "The ulnar nerve runs behind the elbow."}


@pytest.fixture(scope="module", autouse=True)
def ends_soon():
    """By itself a server looks every half second whether it is to end, which each test would wait for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Proxy, "serve_forever", partialmethod(Proxy.serve_forever, 0.01))
        yield


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    made = Index(tmp_path_factory.mktemp("index") / "index.sqlite")
    for each in (NERVE, ELBOW):
        section = Section(tuple(each["title"].split(" > ")), [each["text"]])
        made.add(Document(each["source"], [section], each["licence"], each["address"]))
    return made


def listening(index, port, api_key=KEY):
    """A proxy of the engine on that port."""
    return Proxy("127.0.0.1", 0, api_key, (port, ENGINE_KEY), index, 2).listening()


@pytest.fixture
def served(index):
    """`served(deltas, **how)`: the stand-in engine, and a client of the proxy before it."""
    with ExitStack() as stack:

        def call(deltas=REPLY, **how):
            engine = Server(deltas, **how)
            address = stack.enter_context(listening(index, engine.server_port))
            headers = {"Authorization": f"Bearer {KEY}"}
            return engine, stack.enter_context(httpx.Client(base_url=address, headers=headers, trust_env=False))

        yield call


def ask(client, **more):
    return client.post("/v1/chat/completions", json=ASK | more)


# ------------------------------------------------------------------------------------------------- what goes to and fro


def test_an_answer_names_its_sources_and_what_it_cites_without_one(served):
    engine, client = served()
    reply = ask(client, temperature=0.5).json()
    assert reply["choices"][0]["message"]["content"] == "The median [1], not the ulnar [4]."
    assert reply["unknown_citations"] == [4]  # the thought may think aloud of anything
    assert reply["sources"] == [{"number": 1, **NERVE}, {"number": 2, **ELBOW}]
    [(key, body)] = engine.requests
    assert (key, body["temperature"]) == (f"Bearer {ENGINE_KEY}", 0.5)
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
    assert json.loads(chunk.removeprefix("data: ")) == {
        "id": "1",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": None}],
        "sources": [{"number": 1, **NERVE}, {"number": 2, **ELBOW}],
        "unknown_citations": [4],
    }


def test_the_clients_of_openai_and_of_this_project_take_it(served):
    _, client = served()
    official = openai.OpenAI(base_url=f"{client.base_url}/v1", api_key=KEY, max_retries=0)
    assert [model.id for model in official.models.list()] == ["the-model"]
    *_, last = official.chat.completions.create(**ASK, stream=True)
    for found in (official.chat.completions.create(**ASK), last):
        assert [each["number"] for each in found.model_extra["sources"]] == [1, 2]
        assert found.model_extra["unknown_citations"] == [4]
    *_, ended = Endpoint(f"{client.base_url}/v1", KEY).stream(QUESTION, SETTINGS)
    assert (type(ended), ended.finished, ended.tokens) == (Ended, True, 7)
    assert ended.text == "Hm [7].</think>\n\nThe median [1], not the ulnar [4]."
    assert ended.sources == [Passage(**NERVE), Passage(**ELBOW)]


def test_ask_lists_what_a_server_has_looked_up(served, cli, monkeypatch):
    _, client = served()
    there = ("--endpoint", f"{client.base_url}/v1")
    monkeypatch.setenv("AI_DOCTOR_ENDPOINT_KEY", KEY)
    assert cli("ask", QUESTION, *there).out.split("\nSources:\n")[1].splitlines() == [
        "[1] Hand > Nerves (m1, CC BY, http://a.b/)",
        "[2] Elbow (m2, CC0)",
        "[4]: cited in the answer, but no passage has this number",
    ]
    assert cli("ask", "zebra", *there).out.split("\nSources:\n")[1].splitlines() == [
        "[1], [4]: cited in the answer, but no passage has this number"
    ]


def test_text_comes_as_it_arrives_and_a_client_that_leaves_stops_the_engine(served):
    engine, client = served([{"content": f"word {i} "} for i in range(60)], pause=0.05)
    with client.stream("POST", "/v1/chat/completions", json=ASK | {"stream": True}) as reply:
        assert "word 0" in next(reply.iter_text())
        assert engine.sent < 10
    assert engine.broken.wait(5), "the engine went on for nobody"
    assert engine.sent < 60


# ------------------------------------------------------------------------------------------------ questions and replies


@pytest.mark.parametrize(
    ("content", "question", "others"),
    [
        ("carpal tunnel", "carpal tunnel", None),
        (
            [{"type": "text", "text": t} for t in ("carpal", "tunnel")] + [{"type": "x"}],
            "carpal\ntunnel",
            [{"type": "x"}],
        ),
    ],
)
def test_the_last_user_message_alone_is_looked_up_and_changed(index, content, question, others):
    earlier = [{"role": "user", "content": "elbow"}, {"role": "assistant", "content": "ulnar"}]
    later = {"role": "system", "content": "elbow"}
    body = {"messages": [*earlier, {"role": "user", "content": content}, later]}
    found = add_passages(index, 1, body)
    assert [each.source for each in found] == ["m1"]
    text = with_passages(question, found)
    changed = text if others is None else [{"type": "text", "text": text}, *others]
    assert body == {"messages": [*earlier, {"role": "user", "content": changed}, later]}


JUST_SO = st.recursive(
    st.none() | st.integers() | st.text(max_size=3) | st.sampled_from(["user", "text"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "type", "text"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@settings(max_examples=40)
@given(JUST_SO)
def test_what_is_no_conversation_is_left_to_the_engine(index, messages):
    body = {"messages": messages}
    before = json.dumps(body)
    assert add_passages(index, 2, body) == []
    assert json.dumps(body) == before


def test_a_long_question_keeps_its_words_and_a_longer_one_is_refused(served):
    engine, client = served()
    long = "nerve \ud800".ljust(MAX_QUESTION, "x")  # half a character goes on as it came
    for text, status in ((long, 200), (long + "x", 400)):
        body = json.dumps({"messages": [{"role": "user", "content": text}]}).encode()
        reply = client.post("/v1/chat/completions", content=body)
        assert reply.status_code == status
    assert reply.json()["error"]["message"] == "the question has 8,001 characters, more than the limit of 8,000"
    [(_, body)] = engine.requests
    assert body["messages"][0]["content"] == long


PASSAGE = Passage("text", "Title", "s", "CC0")


def test_a_stream_keeps_its_lines_and_says_where_it_breaks_off():
    events = [
        json.dumps({"id": "x", "choices": [{"index": 0, "delta": {"content": text}}]}, ensure_ascii=False)
        for text in ("Ünï\u2028 [1", "] [3", "2]\r")
    ]
    lines = [line.encode() for event in events for line in (f"data: {event}\r\n", "\r\n")]
    end = [b"data: [DONE]\r\n", b"\r\n"]
    *before, added, done, last = annotated_stream([*lines, *end], [PASSAGE])
    assert [*before, done, last] == [*lines, *end]
    assert json.loads(added.removeprefix(b"data: "))["unknown_citations"] == [32]
    *same, error = annotated_stream(lines, [PASSAGE])
    assert same == lines
    assert b"broke off" in error


def test_each_of_several_replies_is_looked_through():
    choices = [{"index": i, "message": {"content": f"a</think>[{i + 1}]"}} for i in range(3)]
    assert annotated({"choices": choices}, [PASSAGE])["unknown_citations"] == [2, 3]
    pieces = ((0, "[1"), (1, "[2"), (0, "5]"), (1, "6]"))
    lines = [f'data: {{"choices": [{{"index": {i}, "delta": {{"content": "{t}"}}}}]}}\n'.encode() for i, t in pieces]
    *_, added, _ = annotated_stream([*lines, b"data: [DONE]\n"], [PASSAGE])
    assert b'"unknown_citations": [15, 26]' in added


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("key", ["x", "clients-ke", "schlüssel", ENGINE_KEY])
def test_without_the_key_nobody_asks(served, key):
    engine, client = served()
    headers = {"Authorization": f"Bearer {key}".encode()}
    for reply in (
        client.post("/v1/chat/completions", json=ASK, headers=headers),
        client.get("/v1/models", headers=headers),
        httpx.get(f"{client.base_url}/v1/models"),
    ):
        assert (reply.status_code, reply.json()["error"]["type"]) == (401, "authentication_error")
    assert (engine.requests, engine.gets) == ([], 0)
    assert httpx.get(f"{client.base_url}/health").status_code == 200
    assert client.get("/v1/models", headers={"Authorization": f"Basic {KEY}"}).status_code == 401
    assert client.get("/v1/models", headers={"Authorization": f"bearer {KEY}"}).status_code != 401  # any case: RFC 9110


def test_a_server_without_a_key_asks_for_none(index):
    with listening(index, Server(REPLY).server_port, "") as address:
        assert httpx.post(f"{address}/v1/chat/completions", json=ASK).status_code == 200
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/health")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "rebound.example:8000"}, 403),
        ({"Host": "[::1"}, 403),
        ({"Origin": "http://a.example", "Content-Type": "text/plain"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "localhost:1", "Origin": "http://127.0.0.1:8501"}, 200),
        ({"Host": "[::1]:8000"}, 200),
    ],
)
def test_without_a_key_no_page_of_another_site_asks(index, headers, status):
    engine = Server(REPLY)
    with listening(index, engine.server_port, "") as address:
        for reply in (
            httpx.get(f"{address}/v1/models", headers=headers),
            httpx.post(f"{address}/v1/chat/completions", content=json.dumps(ASK), headers=headers),
        ):
            assert reply.status_code == status
    assert (len(engine.requests), engine.gets) == ((1, 1) if status == 200 else (0, 0))


def test_with_a_key_the_server_may_have_any_name(served):
    _, client = served()
    client.headers.update({"Host": "doctor.example", "Origin": "https://doctor.example"})
    assert ask(client).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_without_an_index_the_engines_answer_is_passed_on_as_it_is(stream):
    engine = Server(REPLY)
    plain = httpx.post(f"{engine.url}/chat/completions", json=ASK | {"stream": stream})
    with listening(None, engine.server_port, "") as address:
        reply = httpx.post(f"{address}/v1/chat/completions", json=ASK | {"stream": stream})
    assert reply.content == plain.content
    assert [body for _, body in engine.requests] == [ASK | {"stream": stream}] * 2


def test_what_ends_or_holds_up_the_engine_is_refused(served):
    engine, client = served()
    for more, word in (
        ({"grammar": "root ::= " + "(" * 100_000}, "grammar"),
        ({"json_schema": {"type": "string", "pattern": f"^{'a?' * 500}$"}}, "json_schema"),
        ({"response_format": {"type": "json_object", "schema": {}}}, "response_format"),
        ({"response_format": "json_object"}, "response_format"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"samplers": ["dry"] * 4000}, "samplers"),
        ({"dry_sequence_breakers": ["a b c d"] * 800}, "dry_sequence_breakers"),
        ({"chat_template_kwargs": {"messages": [{}] * 15_000}}, "chat_template_kwargs"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"messages": [{"role": "user", "content": "x", **dict.fromkeys(map(str, range(50_000)))}]}, "1,000 keys"),
        ({"messages": ASK["messages"] * (MAX_MESSAGES + 1)}, "1,001 messages"),
        ({"stop": ["x"] * 30_000}, "all but the messages"),
    ):
        reply = ask(client, **more)
        assert (reply.status_code, word in reply.json()["error"]["message"]) == (400, True)
    assert engine.requests == []
    usual = {"response_format": {"type": "json_object"}, "top_logprobs": 20, "messages": ASK["messages"] * MAX_MESSAGES}
    usual |= {"logit_bias": {str(token): 1 for token in range(MAX_KEYS)}}
    left_out = {"grammar": "", "tools": [], "user": "me", "n_probs": 49_152, "dry_penalty_last_n": 2**31 - 1}
    assert ask(client, **usual, **left_out).status_code == 200
    [(_, sent)] = engine.requests
    assert sent.keys() & {*usual, *left_out} == usual.keys()


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_engine_refuses_is_refused(served, stream):
    _, client = served(status=503)
    reply = ask(client, stream=stream)
    assert (reply.status_code, reply.json()) == (503, {"error": {"message": "no room\nat all"}})


def test_a_hostile_request_is_refused_and_the_next_one_answered(served):
    engine, client = served()
    bodies = [b"{{{", b"", b"[]", b"null", b'{"a": "\xff"}', b"\xff\xfe{\x00}\x00", b"[" * 100_000, b"9" * 5000]
    for body, status in [*((body, 400) for body in bodies), (b"x" * (4 * MAX_BODY), 413), (iter([b"x"] * 3), 411)]:
        assert client.post("/v1/chat/completions", content=body).status_code == status
    for path in ("/metrics", "/v1/completions", "/health/", "/v1/chat/completions", "/v1/models/.."):
        assert client.get(path).status_code == 404
    assert (engine.requests, engine.gets) == ([], 0)
    assert ask(client).status_code == 200


def test_an_index_that_is_gone_is_told_without_its_path(served, index, monkeypatch, capfd):
    monkeypatch.setattr(index, "search", fails(InputError(f"the index {index.path}: it is damaged")))
    engine, client = served()
    reply = ask(client)
    assert (reply.status_code, reply.json()["error"]["message"]) == (503, "the index cannot be searched")
    assert str(index.path) in capfd.readouterr().err
    assert engine.requests == []


@pytest.fixture
def listener():
    """An engine whose answers a test writes by hand."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        bound.settimeout(60)
        yield bound


def test_a_taken_port_is_one_line(index, listener):
    with pytest.raises(InputError, match=r"^cannot listen on 127\.0\.0\.1:\d+ \(.*\): is the port taken\?$"):
        Proxy("127.0.0.1", listener.getsockname()[1], KEY, (0, ""), index, 1)


def answering(listener, *answers):
    """The engine gives one answer to each request in turn, and closes."""

    def answer():
        for pieces in answers:
            with listener.accept()[0] as connection:
                asked = b""
                while not asked.endswith(b"}"):
                    asked += connection.recv(65536)
                for piece in pieces:
                    connection.sendall(piece)

    threading.Thread(target=answer, daemon=True).start()
    return listener.getsockname()[1]


def test_a_stream_in_chunks_is_read_line_by_line(index, listener):
    events = [{"choices": [{"index": 0, "delta": {"content": text}}]} for text in ("Hm</think>[1", "9]")]
    data = "".join(f"data: {json.dumps(event)}\n\n" for event in events).encode() + b"data: [DONE]\n\n"
    chunks = [b"7\r\n" + data[i : i + 7] + b"\r\n" for i in range(0, len(data) - 7, 7)]
    rest = data[7 * len(chunks) :]
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    end = b"%x\r\n%b\r\n0\r\n\r\n" % (len(rest), rest)
    with listening(index, answering(listener, [head, *chunks, end]), "") as address:
        reply = httpx.post(f"{address}/v1/chat/completions", json=ASK | {"stream": True}).content
    assert reply.startswith(data[: data.index(b"data: [DONE]")])
    assert reply.endswith(b'"unknown_citations": [19]}\n\ndata: [DONE]\n\n')


def test_an_engine_that_is_not_there_or_breaks_off_is_told(index, listener):
    heads = [
        f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: 99\r\n\r\n".encode()
        for kind in ("text/event-stream", "application/json")
    ]
    port = answering(listener, *([head, b'data: {"id": "1", "choices": []}\n\ndata: {"id'] for head in heads))
    with listening(index, port, "") as address:
        with pytest.raises(InputError, match="broke off"):
            list(Endpoint(f"{address}/v1", model="m").stream("Why?", SETTINGS))
        for _ in range(2):  # the second finds nobody
            reply = httpx.post(f"{address}/v1/chat/completions", json=ASK)
            assert (reply.status_code, "not loaded yet, or broke off" in reply.text) == (503, True)
            listener.close()


# -------------------------------------------------------------------------------------- clients that are slow or leave


def connected(client):
    return socket.create_connection((client.base_url.host, client.base_url.port), timeout=20)


HEAD = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: "


def test_a_client_that_leaves_before_its_answer_stops_the_engine(index, listener, capfd):
    with listening(index, listener.getsockname()[1], "") as address:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{address}/v1/chat/completions", json=ASK, timeout=0.2)
        engine = listener.accept()[0]
        engine.settimeout(60)
        while engine.recv(65536):
            pass
    assert capfd.readouterr().err == ""


def test_a_client_that_asks_first_whether_to_send_its_body_is_told(served):
    _, client = served()
    for length, answer in ((2, b"HTTP/1.1 100 Continue\r\n\r\n"), (MAX_BODY + 1, b"HTTP/1.0 413 Request Enti")):
        with connected(client) as connection:
            connection.sendall(f"{HEAD}{length}\r\nExpect: 100-continue\r\n\r\n".encode())
            assert connection.recv(25) == answer
            connection.sendall(b"{}")


def test_without_a_free_descriptor_the_server_waits_for_one_in_peace(served, monkeypatch):
    _, client = served()
    accepted, tries = ThreadingTCPServer.get_request, []

    def full(server):
        tries.append(time.monotonic())
        if len(tries) < 4:
            raise OSError(errno.EMFILE, "Too many open files")
        return accepted(server)

    monkeypatch.setattr(ThreadingTCPServer, "get_request", full)
    assert ask(client).status_code == 200
    assert tries[3] - tries[0] > 0.3


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_ends_its_side_after_its_request_gets_the_answer(served, stream):
    engine, client = served(pause=0.4)
    body = json.dumps(ASK | {"stream": stream})
    with connected(client) as connection:
        connection.sendall(f"{HEAD}{len(body)}\r\n\r\n{body}".encode())
        connection.shutdown(socket.SHUT_WR)
        reply = HTTPResponse(connection)
        reply.begin()
        assert reply.status == 200
        assert b'"unknown_citations": [4]' in reply.read()
    assert len(engine.requests) == 1


def test_a_client_that_first_ends_its_side_and_then_leaves_stops_the_engine(index, listener):
    body = json.dumps(ASK)
    with listening(index, listener.getsockname()[1]) as address:
        with socket.create_connection(httpx.URL(address).netloc.decode().split(":")) as connection:
            connection.sendall(f"{HEAD}{len(body)}\r\n\r\n{body}".encode())
            connection.shutdown(socket.SHUT_WR)
            engine = listener.accept()[0]
            engine.settimeout(60)
            assert connection.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        while engine.recv(65536):
            pass


def test_what_follows_a_request_is_no_departure_and_a_broken_off_request_is_not_asked(served):
    engine, client = served(pause=0.5)
    body = json.dumps(ASK).encode()
    with connected(client) as connection:
        connection.sendall(f"{HEAD}{len(body)}\r\n\r\n".encode() + body)
        time.sleep(0.2)
        connection.sendall(b"\r\n" + body)
        assert connection.recv(12) == b"HTTP/1.0 200"
    with connected(client) as connection:
        connection.sendall(f"{HEAD}{len(body) + 1}\r\n\r\n".encode() + body)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(12) == b"HTTP/1.0 400"
    assert len(engine.requests) == 1


def test_slow_silent_and_deaf_clients_keep_nobody_waiting_and_are_closed(served, monkeypatch):
    monkeypatch.setattr(proxy_module._Exchange, "timeout", 1.0)
    _, client = served([{"content": "x" * 100_000}] * 100)
    body = json.dumps(ASK | {"stream": True})
    with ExitStack() as stack:
        waiting = [stack.enter_context(connected(client)) for _ in range(60)]
        for one, sent in zip(waiting, ["", "POST /v1", f"{HEAD}99\r\n\r\n{{"] * 20, strict=True):
            one.sendall(sent.encode())
        deaf = stack.enter_context(connected(client))
        deaf.sendall(f"{HEAD}{len(body)}\r\n\r\n{body}".encode())
        started = time.monotonic()
        assert ask(client).status_code == 200
        assert time.monotonic() - started < 10  # one after the other they would take 60
        assert {one.recv(12) for one in waiting} == {b""}


def test_a_megabyte_of_headers_and_a_hundred_of_body_keep_nobody_waiting(served):
    engine, client = served()
    megabyte = b"x" * (1 << 20)
    head = f"{HEAD}{100 << 20}\r\n".encode()
    huge = {431: [head, b"X-Long: ", megabyte, b"\r\n\r\n"], 413: [head, b"\r\n", *[megabyte] * 100]}

    def status_of(pieces):
        """Of what is sent as far as the server takes it."""
        with connected(client) as connection:
            with suppress(OSError):
                for piece in pieces:
                    connection.sendall(piece)
            return int(connection.recv(12).split()[1])

    with ThreadPoolExecutor(24) as pool:
        refused = pool.map(status_of, huge.values())
        assert list(pool.map(lambda _: ask(client).status_code, range(20))) == [200] * 20
        assert list(refused) == list(huge)
    assert len(engine.requests) == 20


def test_no_key_is_in_a_log_or_goes_on(served, capfd):
    engine, client = served()
    client.headers.update({"Cookie": "session=private", "X-Api-Key": KEY, "OpenAI-Organization": "private"})
    assert ask(client).status_code == ask(client, stream=True).status_code == 200
    client.headers["Authorization"] = "Bearer private"
    assert ask(client).status_code == 401
    assert "".join(capfd.readouterr()) == ""
    assert {key for key, _ in engine.requests} == {f"Bearer {ENGINE_KEY}"}
