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
from helpers.prompts.families import END_THINK, THINK

MAX_QUESTION = 8_000  # characters; about 2,000 tokens of English
_NO_CHAT = re.compile(r"embed|rerank|minilm|bge-|whisper|tts", re.IGNORECASE)  # names of models that do not answer
# What some servers refuse to be sent, and the name they know it by, if any.
_OTHERWISE = {"max_tokens": "max_completion_tokens", "stream_options": "", "temperature": "", "top_p": ""}


@dataclass(frozen=True)
class Piece:
    """Some text of a reply that is being streamed; `kind` is "thinking" or "answer"."""

    kind: str
    text: str


@dataclass(frozen=True)
class Ended:
    """The end of a stream. `finished`: by itself, not by the limit; `seconds` since the request, `tokens` new ones.

    `text` is the whole reply, for `split_reasoning` to read. What it says of the parts replaces what the pieces were
    taken for: a stream cannot know which `</think>` is the last, nor whether one will come.
    """

    text: str
    finished: bool
    tokens: int
    seconds: float
    first_token_seconds: float


def check_question(text: str) -> str:
    """The question without control characters and the spaces around it; InputError when nothing or too much is left."""
    # Cc are the control characters, Cs halves of characters, which cannot be sent.
    question = "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs")).strip()
    if not question:
        raise InputError("the question is empty")
    if len(question) > MAX_QUESTION:
        raise InputError(f"the question has {len(question):,} characters, and at most {MAX_QUESTION:,} are taken")
    return question


class Endpoint:
    """A model behind an OpenAI-compatible address, like http://127.0.0.1:8000/v1."""

    def __init__(self, base_url: str, api_key: str = "", model: str = "") -> None:
        from openai import DefaultHttpxClient, OpenAI

        self.base_url, self._model, self._refused = base_url, model, set()
        # A proxy for the internet cannot reach this machine, and most settings do not say so.
        client = DefaultHttpxClient(trust_env=not is_local(urlsplit(base_url).hostname or ""))
        self._client = OpenAI(base_url=base_url, api_key=api_key or "none", max_retries=0, http_client=client)
        # The client would send what the environment says of an account at OpenAI to any server.
        self._client.organization = self._client.project = None

    @cached_property
    def model(self) -> str:
        """The model's name there: what was given, or the first listed that answers questions, which is then said."""
        if self._model:
            return self._model
        with self._readable():
            names = [each.id for each in self._client.models.list()]
        able = [name for name in names if not _NO_CHAT.search(name)]
        if not able:
            listed = f"no model to ask ({', '.join(names)}): name one with --model" if names else "no model"
            raise InputError(f"the server at {self.base_url} lists {listed}")
        if len(names) > 1:
            self._say(f"lists {len(names)} models; asking {able[0]}, another with --model")
        return able[0]

    def stream(self, question: str, settings: GenerationSettings) -> Iterator[Piece | Ended]:
        """The reply piece by piece, and at last an `Ended`. Closing the iterator stops the server's work.

        A server that takes the reasoning apart sends it as `reasoning_content` (llama.cpp, vLLM) or `reasoning`
        (Ollama, newer vLLM). Where none does, pieces are thinking until `</think>`.
        """
        asked = {
            "model": self.model,
            "messages": [{"role": "user", "content": question}],
            "max_tokens": settings.max_new_tokens,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        started, first, tokens, reason = time.monotonic(), None, 0, None
        thinking, answer, raw = "", "", _Splitter()
        with self._readable(), self._create(asked) as chunks:
            for chunk in chunks:
                tokens = chunk.usage.completion_tokens if chunk.usage else tokens
                for choice in chunk.choices:
                    more = choice.delta.model_extra or {}
                    thought, said = more.get("reasoning_content") or more.get("reasoning"), choice.delta.content
                    if (thought or said) and first is None:
                        first = time.monotonic() - started
                    if thought:
                        thinking += thought
                        yield Piece("thinking", thought)
                    if said:
                        answer += said
                        yield from [Piece("answer", said)] if thinking else raw.take(said)
                    reason = choice.finish_reason or reason
        yield from raw.take("", over=True)
        seconds = time.monotonic() - started
        yield Ended(_whole(thinking, answer), reason == "stop", tokens, seconds, seconds if first is None else first)

    def _create(self, asked: dict[str, Any]) -> Any:
        """The answer to a request, which is made again without, or with another name for, what the server refuses."""
        import openai

        while True:
            names = {name: _OTHERWISE[name] if name in self._refused else name for name in asked}
            try:
                return self._client.chat.completions.create(
                    **{names[name]: value for name, value in asked.items() if names[name]}
                )
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                refused = [n for n in _OTHERWISE if n not in self._refused and re.search(rf"\b{n}\b", str(error))]
                if not refused:
                    raise
                self._refused.add(refused[0])
                self._say(f"does not take {refused[0]}: asking with {_OTHERWISE[refused[0]] or 'its own'}")

    def _say(self, what: str) -> None:
        print(f"the server at {self.base_url} {what}", file=sys.stderr)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Turns the client's errors into one line."""
        import openai

        try:
            yield
        except openai.AuthenticationError:
            raise InputError(f"the server at {self.base_url} wants another API key") from None
        except openai.APIStatusError as error:
            raise InputError(f"the server at {self.base_url} refused: {_first_line(error)}") from None
        except openai.APIError as error:
            raise InputError(f"the server at {self.base_url} cannot be reached or broke off: {error.message}") from None


def is_local(host: str) -> bool:
    """Whether a host, by name or number, is this machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def key_for(base_url: str) -> str:
    """The key for an address: AI_DOCTOR_ENDPOINT_KEY, and on this machine else that of our own server.

    AI_DOCTOR_API_KEY is what our server asks of its clients, and no stranger's to read.
    """
    own = os.environ.get("AI_DOCTOR_API_KEY", "") if is_local(urlsplit(base_url).hostname or "") else ""
    return os.environ.get("AI_DOCTOR_ENDPOINT_KEY") or own


def _whole(thinking: str, answer: str) -> str:
    """A reply as one text: with its `</think>` where the server took it apart, or where it knows no tags at all."""
    tagged = THINK in answer or END_THINK in answer
    return f"{thinking}{END_THINK}\n\n{answer}" if answer and (thinking or not tagged) else thinking or answer


class _Splitter:
    """Takes streamed text apart at its first `</think>`, which may arrive in pieces: a guess till the reply is over."""

    def __init__(self) -> None:
        self.raw, self.told = "", {"thinking": 0, "answer": 0}

    def take(self, text: str, over: bool = False) -> Iterator[Piece]:
        """The pieces that `text` adds. What may still become a tag is held back until the reply is `over`."""
        self.raw += text
        whole = self.raw.lstrip()
        if THINK.startswith(whole) and not over:
            return
        thought, tag, answer = whole.removeprefix(THINK).partition(END_THINK)
        if not tag and not over:
            begun = next((n for n in range(len(END_THINK) - 1, 0, -1) if thought.endswith(END_THINK[:n])), 0)
            thought = thought[: len(thought) - begun]
        for kind, known in (("thinking", thought.lstrip()), ("answer", answer.lstrip())):
            if len(known) > self.told[kind]:
                yield Piece(kind, known[self.told[kind] :])
                self.told[kind] = len(known)


def _first_line(error: Any) -> str:
    told = error.body.get("message") if isinstance(error.body, dict) else None
    return str(told or error.message).splitlines()[0][:300]
