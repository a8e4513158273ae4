"""A client of any OpenAI-compatible server: llama.cpp, vLLM, Ollama."""

import ipaddress
import os
import re
import sys
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from helpers import InputError
from helpers.config import GenerationSettings
from helpers.knowledge.documents import Passage
from helpers.knowledge.markup import clean
from helpers.prompts.families import END_THINK, THINK

MAX_QUESTION = 8_000  # characters; about 2,000 tokens of English
_NO_CHAT = re.compile(r"embed|rerank|minilm|bge-|whisper|tts", re.IGNORECASE)  # names of models that do not answer
# Parameters that some servers reject, and the name to send instead, if any.
_FALLBACKS = {"max_tokens": "max_completion_tokens", "stream_options": "", "temperature": "", "top_p": ""}


@dataclass(frozen=True)
class Piece:
    """Some text of a reply that is being streamed; `kind` is "thinking" or "answer"."""

    kind: str
    text: str


@dataclass(frozen=True)
class Ended:
    """The end of a stream. `finished`: not by the limit; `seconds` since the request, `tokens` generated.

    `text` is the whole reply, and `split_reasoning` of it replaces the kinds of the pieces: a stream cannot know which
    `</think>` is the last, nor whether one will come. `sources` are the passages that a server found for the question
    (`serve --sources`); None where it sent no list of them.
    """

    text: str
    finished: bool
    tokens: int
    seconds: float
    first_token_seconds: float
    sources: list[Passage] | None = None


def check_question(text: str) -> str:
    """The question without control characters and surrounding spaces; InputError where it is empty or too long."""
    # Cc are the control characters, Cs halves of characters, which cannot be sent.
    question = "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs")).strip()
    if not question:
        raise InputError("the question is empty")
    if len(question) > MAX_QUESTION:
        raise InputError(f"the question has {len(question):,} characters, more than the limit of {MAX_QUESTION:,}")
    return question


class Endpoint:
    """A model behind an OpenAI-compatible address, like http://127.0.0.1:8000/v1."""

    def __init__(self, base_url: str, api_key: str = "", model: str = "") -> None:
        from openai import DefaultHttpxClient, OpenAI

        self.base_url, self._model, self._rejected = base_url, model, set()
        # A proxy for the internet cannot reach this machine, and few set NO_PROXY.
        client = DefaultHttpxClient(trust_env=not is_local(urlsplit(base_url).hostname or ""))
        self._client = OpenAI(base_url=base_url, api_key=api_key or "none", max_retries=0, http_client=client)
        # Else the client sends OPENAI_ORG_ID and OPENAI_PROJECT_ID to any server.
        self._client.organization = self._client.project = None

    @cached_property
    def model(self) -> str:
        """The model's name there: the given one, or the first listed that answers questions, which is then printed."""
        if self._model:
            return self._model
        with self._readable_errors():
            names = [each.id for each in self._client.models.list()]
        chat_models = [name for name in names if not _NO_CHAT.search(name)]
        if not chat_models:
            listed = f"no chat model ({', '.join(names)}): choose one with --model" if names else "no model"
            raise InputError(f"the server at {self.base_url} lists {listed}")
        if len(names) > 1:
            self._note(f"lists {len(names)} models; using {chat_models[0]}, choose another with --model")
        return chat_models[0]

    def stream(self, question: str, settings: GenerationSettings) -> Iterator[Piece | Ended]:
        """The reply piece by piece, and at last an `Ended`. Closing the iterator stops the server's work.

        A server with a reasoning parser sends the thought as `reasoning_content` (llama.cpp, vLLM) or `reasoning`
        (Ollama, newer vLLM). Without one, pieces are thinking until `</think>`.
        """
        request = {
            "model": self.model,
            "messages": [{"role": "user", "content": question}],
            "max_tokens": settings.max_new_tokens,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        started, first, tokens, reason = time.monotonic(), None, 0, None
        thinking, answer, splitter, sources = "", "", _Splitter(), None
        with self._readable_errors(), self._create(request) as chunks:
            for chunk in chunks:
                tokens = chunk.usage.completion_tokens if chunk.usage else tokens
                sources = (chunk.model_extra or {}).get("sources", sources)
                for choice in chunk.choices:
                    extra, content = choice.delta.model_extra or {}, choice.delta.content
                    thought = extra.get("reasoning_content") or extra.get("reasoning")
                    if (thought or content) and first is None:
                        first = time.monotonic() - started
                    if thought:
                        thinking += thought
                        yield Piece("thinking", thought)
                    if content:
                        answer += content
                        yield from [Piece("answer", content)] if thinking else splitter.add(content)
                    reason = choice.finish_reason or reason
        yield from splitter.add("", last=True)
        seconds, reply = time.monotonic() - started, joined(thinking, answer)
        yield Ended(reply, reason == "stop", tokens, seconds, seconds if first is None else first, _passages(sources))

    def _create(self, request: dict[str, Any]) -> Any:
        """The stream of chunks. A parameter that the server rejects is renamed or dropped, and the request repeated."""
        import openai

        while True:
            names = {name: _FALLBACKS[name] if name in self._rejected else name for name in request}
            try:
                return self._client.chat.completions.create(
                    **{names[name]: value for name, value in request.items() if names[name]}
                )
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                untried = (name for name in _FALLBACKS if name not in self._rejected)
                rejected = next((name for name in untried if re.search(rf"\b{name}\b", str(error))), None)
                if not rejected:
                    raise
                self._rejected.add(rejected)
                self._note(f"rejects {rejected}: sending {_FALLBACKS[rejected] or 'the request without it'}")

    def _note(self, what: str) -> None:
        print(f"the server at {self.base_url} {what}", file=sys.stderr)

    @contextmanager
    def _readable_errors(self) -> Iterator[None]:
        """Turns the client's errors into one line."""
        import openai

        try:
            yield
        except openai.AuthenticationError:
            raise InputError(f"the server at {self.base_url} rejected the API key (401)") from None
        except openai.APIStatusError as error:
            message = error.body.get("message") if isinstance(error.body, dict) else None
            line = str(message or error.message).splitlines()[0][:300]
            raise InputError(f"the server at {self.base_url} refused: {line}") from None
        except openai.APIError as error:
            raise InputError(f"the server at {self.base_url} cannot be reached or broke off: {error.message}") from None


def is_local(host: str) -> bool:
    """Whether a host, by name or number, is this machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def key_for(base_url: str) -> str:
    """The key for an address: AI_DOCTOR_ENDPOINT_KEY, or on this machine AI_DOCTOR_API_KEY, the key of our own server.

    The second is never sent to another machine.
    """
    own = os.environ.get("AI_DOCTOR_API_KEY", "") if is_local(urlsplit(base_url).hostname or "") else ""
    return os.environ.get("AI_DOCTOR_ENDPOINT_KEY") or own


def joined(thinking: str, answer: str) -> str:
    """A reply as one text: `</think>` is added where the server split there, and before an answer without any tag."""
    tagged = THINK in answer or END_THINK in answer
    return f"{thinking}{END_THINK}\n\n{answer}" if answer and (thinking or not tagged) else thinking or answer


def _passages(sent: Any) -> list[Passage] | None:
    """The passages in a reply's `sources`, each in its place whatever it holds; None for what is no list."""
    if not isinstance(sent, list):
        return None
    names = ("text", "title", "source", "licence", "address")
    rows = (each if isinstance(each, dict) else {} for each in sent)
    return [Passage(**{name: clean(str(row.get(name) or "")) for name in names}) for row in rows]


class _Splitter:
    """Splits streamed text at its first `</think>`, which may arrive in pieces."""

    def __init__(self) -> None:
        self.text, self.sent = "", {"thinking": 0, "answer": 0}

    def add(self, text: str, last: bool = False) -> Iterator[Piece]:
        """The pieces that `text` adds. What may still become a tag is held back until the `last` text."""
        self.text += text
        reply = self.text.lstrip()
        if THINK.startswith(reply) and not last:
            return
        thought, tag, answer = reply.removeprefix(THINK).partition(END_THINK)
        if not tag and not last:
            partial = next((n for n in range(len(END_THINK) - 1, 0, -1) if thought.endswith(END_THINK[:n])), 0)
            thought = thought[: len(thought) - partial]
        for kind, known in (("thinking", thought.lstrip()), ("answer", answer.lstrip())):
            if len(known) > self.sent[kind]:
                yield Piece(kind, known[self.sent[kind] :])
                self.sent[kind] = len(known)
