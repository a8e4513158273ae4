"""What clients of `serve` talk to: it refuses what would end or hold up the engine behind it, and adds sources.

It takes `GET /health`, `GET /v1/models` and `POST /v1/chat/completions`, and passes on what the engine refuses. With an
index it looks each question up first, and a reply gets two more fields: `sources` (number, title, source, licence,
address, text) and `unknown_citations`, the numbers that it cites and no source has.
"""

import json
import secrets
import selectors
import socket
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any
from urllib.parse import urlsplit

from helpers import InputError
from helpers.knowledge.documents import Passage
from helpers.knowledge.index import Index
from helpers.use.citations import listed, look_up
from helpers.use.client import MAX_QUESTION, is_local, joined, thought_and_answer

MAX_BODY = 1 << 20  # bytes of a request
MAX_MESSAGES = 1000  # llama.cpp renders 2,000 in 25 s on two cores, and does not stop where the client leaves
MAX_KEYS = 1000  # of an object: llama.cpp reads 50,000 in 12 s
MAX_SETTINGS = 1 << 16  # letters of all but the messages
MAX_PROBABILITIES = 20  # a token's; each is a kilobyte, and those of a whole vocabulary are gigabytes a reply
# What goes on to the engine. Some of llama.cpp's other settings end it, or take all its time or memory for one request:
# grammars and what becomes one (brackets, ambiguous patterns), samplers that search the vocabulary, its template's own.
SETTINGS = {
    "model", "messages", "n", "stream", "stream_options", "max_tokens", "max_completion_tokens", "stop", "ignore_eos",
    "seed", "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repeat_penalty",
    "logit_bias", "logprobs", "top_logprobs", "response_format",
}  # fmt: skip
FORMATS = (None, {"type": "text"}, {"type": "json_object"})  # of replies; any other is a schema
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"  # what clients of HTTP/1.1 take as "an answer will come"
GONE = "the model is not loaded yet, or broke off"
CLIENT_SECONDS = 60.0  # of a client's silence, as long as llama.cpp's own server waits


class Proxy(ThreadingTCPServer):
    """In front of the `engine`, given as its port on this machine and its key, a thread a client.

    Clients send `api_key`, if there is one; without one no web page of another site may ask. Nothing of their headers
    goes on. InputError where it cannot listen.
    """

    allow_reuse_address = daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, host: str, port: int, api_key: str, engine: tuple[int, str], index: Index | None, k: int
    ) -> None:
        (self.engine_port, self.engine_key), self.index, self.k = engine, index, k
        self.expected = api_key.encode()
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), _Exchange)
        except OSError as reason:
            raise InputError(f"cannot listen on {host}:{port} ({reason.strerror}): is the port taken?") from None
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.server_address[1]}"

    @contextmanager
    def listening(self) -> Iterator[str]:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        try:
            yield self.url
        finally:
            self.shutdown()
            self.server_close()

    def get_request(self) -> Any:
        try:
            return super().get_request()
        except OSError:  # too many open files: asking again at once would take a core
            time.sleep(0.1)
            raise

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that leave are not errors."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Exchange(BaseHTTPRequestHandler):
    """One request and its answer; the connection ends with it."""

    server: Proxy
    server_version, sys_version = "ai-doctor", ""
    timeout = CLIENT_SECONDS
    disable_nagle_algorithm = True  # it would hold each event back until the client has confirmed the one before

    def do_GET(self) -> None:
        if self.path not in ("/health", "/v1/models"):
            self.send_error(404)
        elif self.path == "/health" or self._may_ask():
            self._relay(None)

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if self.path != "/v1/chat/completions":
            self.send_error(404)
        elif not length.isdecimal():
            self.send_error(411)
        elif len(length) > 9 or int(length) > MAX_BODY:
            self.send_error(413, f"the request has more than {MAX_BODY:,} bytes")
        else:
            if self.headers.get("Expect", "").lower() == "100-continue" and self.request_version == "HTTP/1.1":
                self.wfile.write(CONTINUE)
            body = self.rfile.read(int(length))
            if len(body) < int(length):
                self.send_error(400, "the request ends before its length")
            elif self._may_ask():
                self._chat(body)

    def _may_ask(self) -> bool:
        if not self.server.expected:
            may = self._is_no_foreign_page()
            refusal = (403, "without an API key this server answers no other site's page, and only as localhost")
        else:
            scheme, _, given = self.headers.get("Authorization", "").partition(" ")
            same = secrets.compare_digest(given.encode("latin-1", "replace"), self.server.expected)
            may, refusal = same and scheme.lower() == "bearer", (401, "Invalid API Key")
        if not may:
            self.send_error(*refusal)
        return may

    def _is_no_foreign_page(self) -> bool:
        """A page of another site says so as the origin, or has given this machine's address to its own name."""
        origin, host = self.headers.get("Origin"), self.headers.get("Host")
        addresses = ([origin] if origin is not None else []) + ([f"//{host}"] if host else [])
        try:
            return all(is_local(urlsplit(each).hostname or "") for each in addresses)
        except ValueError:
            return False

    def _chat(self, body: bytes) -> None:
        try:
            asked = bearable(parsed(body))
            index = self.server.index
            passages = None if index is None else add_passages(index, self.server.k, asked)
        except InputError as reason:  # it names a file of this machine
            print(f"error: {reason}", file=sys.stderr, flush=True)
            self.send_error(503, "the index cannot be searched")
        except ValueError as reason:
            self.send_error(400, str(reason))
        else:
            self._relay(passages, json.dumps(asked).encode())

    def _relay(self, passages: list[Passage] | None, body: bytes | None = None) -> None:
        """The engine's answer, with any passages of a chat. Where the client leaves, the engine stops."""
        with closing(HTTPConnection("127.0.0.1", self.server.engine_port)) as engine:
            try:
                answer = self._ask(engine, body)
                streams = answer.getheader("Content-Type", "").startswith("text/event-stream")
                content = b"" if streams else answer.read()
            except (OSError, HTTPException):
                self.send_error(503, GONE)
                return
            if streams:
                self._send(answer.status, annotated_stream(_lines(answer), passages), "text/event-stream")
            elif passages is not None and answer.status == 200:
                self._send(200, [json.dumps(annotated(json.loads(content), passages)).encode()])
            else:
                self._send(answer.status, [content])

    def _ask(self, engine: HTTPConnection, body: bytes | None) -> HTTPResponse:
        """The engine's answer, of a stream only its beginning; OSError where the client leaves before it comes.

        A client that sends no more may still wait, or has left: what is sent to it then comes back as an error.
        """
        headers = {"Authorization": f"Bearer {self.server.engine_key}", "Content-Type": "application/json"}
        engine.request(self.command, self.path, body, headers)
        with selectors.DefaultSelector() as either:
            either.register(engine.sock, selectors.EVENT_READ)
            either.register(self.connection, selectors.EVENT_READ)
            half_closed = False
            while engine.sock not in [key.fileobj for key, _ in either.select(1.0 if half_closed else None)]:
                # Else a line end after the body, or one request too many.
                if not half_closed and not self.connection.recv(1 << 16):
                    half_closed = True
                    either.unregister(self.connection)
                if half_closed:
                    if self.request_version != "HTTP/1.1":  # older clients know no such line
                        raise ConnectionAbortedError
                    self.wfile.write(CONTINUE)
        return engine.getresponse()

    def _send(self, status: int, pieces: Iterable[bytes], kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.end_headers()
        for piece in pieces:
            self.wfile.write(piece)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """As `error` says it, also what `http.server` itself refuses: a broken head, another method."""
        self._send(code, [json.dumps(error(code, message or self.responses[code][0])).encode()])

    def log_message(self, *_: Any) -> None:
        """Nothing is logged."""


def _lines(answer: HTTPResponse) -> Iterator[bytes]:
    """The whole lines of a stream up to its end, or to where the engine breaks off."""
    with suppress(OSError, HTTPException):
        yield from (line for line in answer if line.endswith(b"\n"))


def parsed(body: bytes) -> dict[str, Any]:
    """A request's body; ValueError where it is not a JSON object of objects up to MAX_KEYS."""
    try:
        content = json.loads(body.decode(), object_pairs_hook=_small)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"the request is not a JSON object, or has an object of more than {MAX_KEYS:,} keys")
    return content


def _small(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MAX_KEYS:
        raise ValueError
    return dict(pairs)


def bearable(body: dict[str, Any]) -> dict[str, Any]:
    """The request without what is not in SETTINGS; ValueError where the reply would hang on that.

    And for what holds up everybody whom the engine serves.
    """
    for name, value in body.items():
        if name not in SETTINGS and value and (name == "grammar" or isinstance(value, list | dict)):
            raise ValueError(f"this server takes no {name}")
    if body.get("response_format") not in FORMATS:
        raise ValueError("this server takes no response_format but text and json_object")
    if isinstance(most := body.get("top_logprobs"), int | float) and most > MAX_PROBABILITIES:
        raise ValueError(f"top_logprobs is more than the limit of {MAX_PROBABILITIES}")
    messages = body.get("messages")
    if isinstance(messages, list) and len(messages) > MAX_MESSAGES:
        raise ValueError(f"the conversation has {len(messages):,} messages, more than the limit of {MAX_MESSAGES:,}")
    settings = len(json.dumps({name: value for name, value in body.items() if name != "messages"}))
    if settings > MAX_SETTINGS:
        raise ValueError(f"all but the messages has {settings:,} letters, more than the limit of {MAX_SETTINGS:,}")
    return {name: value for name, value in body.items() if name in SETTINGS}


def add_passages(index: Index, k: int, body: dict[str, Any]) -> list[Passage]:
    """Put up to k passages in front of the last user message's text in `body`, and return them.

    What is not a conversation is left for the engine to refuse. ValueError for a question over MAX_QUESTION characters.
    """
    turns = body["messages"] if isinstance(body.get("messages"), list) else []
    last = next((turn for turn in turns[::-1] if isinstance(turn, dict) and turn.get("role") == "user"), {})
    content = last.get("content")
    parts = content if isinstance(content, list) else []
    texts = [part["text"] for part in parts if _is_text(part)]
    question = content if isinstance(content, str) else "\n".join(texts)  # as the engines join parts
    if len(question) > MAX_QUESTION:
        raise ValueError(f"the question has {len(question):,} characters, more than the limit of {MAX_QUESTION:,}")
    text, passages = look_up(index, question, k)
    if passages:
        others = [part for part in parts if not _is_text(part)]
        last["content"] = text if isinstance(content, str) else [{"type": "text", "text": text}, *others]
    return passages


def annotated(reply: dict[str, Any], passages: list[Passage]) -> dict[str, Any]:
    texts = (joined(*thought_and_answer(choice.get("message") or {})) for choice in reply.get("choices") or [])
    return reply | listed(passages, *texts)


def annotated_stream(lines: Iterable[bytes], passages: list[Passage] | None) -> Iterator[bytes]:
    """The lines of a stream of events, and the two fields, if any, in a chunk of their own before `[DONE]`.

    A stream that ends without `[DONE]` has broken off, which an event says, as OpenAI's servers do.
    """
    chunk: dict[str, Any] = {}
    replies: dict[Any, tuple[str, str]] = defaultdict(lambda: ("", ""))
    ended = False
    for line in lines:
        data = line.removeprefix(b"data:").strip()
        if data.startswith(b"{") and passages is not None:
            chunk = json.loads(data)
            for choice in chunk.get("choices") or []:
                before, more = replies[choice.get("index")], thought_and_answer(choice.get("delta") or {})
                replies[choice.get("index")] = (before[0] + more[0], before[1] + more[1])
        elif data == b"[DONE]":
            ended = True
        if data == b"[DONE]" and passages is not None:
            same = {name: chunk[name] for name in ("id", "created", "model") if name in chunk}
            choice = {"index": 0, "delta": {"content": ""}, "finish_reason": None}
            found = listed(passages, *(joined(*reply) for reply in replies.values()))
            yield _event({**same, "object": "chat.completion.chunk", "choices": [choice], **found})
        yield line
    if not ended:
        yield _event(error(503, GONE))


def error(status: int, message: str) -> dict[str, Any]:
    kind = "authentication_error" if status == 401 else "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}


def _event(content: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(content)}\n\n".encode()


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
