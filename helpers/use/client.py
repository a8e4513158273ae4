"""A client of any OpenAI-compatible server: llama.cpp, vLLM, Ollama."""

import ipaddress
import os
import sys
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import httpx

from helpers import InputError
from helpers.config import GenerationSettings
from helpers.knowledge.documents import Passage
from helpers.knowledge.markup import clean
from helpers.prompts.families import END_THINK, THINK

MAX_QUESTION = 8_000  # characters; about 2,000 tokens of English


def check_question(text: str) -> str:
    """The question without control characters and surrounding spaces; InputError where it is empty or too long."""
    # Cc are the control characters, Cs halves of characters, which cannot be sent.
    question = "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs")).strip()
    if not question:
        raise InputError("the question is empty")
    if len(question) > MAX_QUESTION:
        raise InputError(f"the question has {len(question):,} characters, more than the limit of {MAX_QUESTION:,}")
    return question


@dataclass(frozen=True)
class Ended:
    """The end of a stream. `finished`: not by the limit; `seconds` since the request, `tokens` generated.

    `text` is the whole reply, for `split_reasoning`; `sources` the passages that a server found for the question
    (`serve --sources`), None where it sent no list of them.
    """

    text: str
    finished: bool
    tokens: int
    seconds: float
    sources: list[Passage] | None = None


class Endpoint:
    """A model behind an OpenAI-compatible address, like http://127.0.0.1:8000/v1."""

    def __init__(self, base_url: str, api_key: str = "", model: str = "") -> None:
        from openai import DefaultHttpxClient, OpenAI

        self.base_url, self._model = base_url, model
        # A proxy for the internet cannot reach this machine, and few set NO_PROXY.
        client = DefaultHttpxClient(trust_env=not is_local(_host(base_url)))
        self._client = OpenAI(base_url=base_url, api_key=api_key or "none", max_retries=0, http_client=client)
        # Else the client sends OPENAI_ORG_ID and OPENAI_PROJECT_ID to any server.
        self._client.organization = self._client.project = None

    @cached_property
    def model(self) -> str:
        """The model's name there: the given one, or the first listed, which is printed where there are others."""
        if self._model:
            return self._model
        with self._readable_errors():
            names = [each.id for each in self._client.models.list()]
        if not names:
            raise InputError(f"the server at {self.base_url} lists no model")
        if len(names) > 1:
            more = f"lists {len(names)} models; using {names[0]}, choose another with --model"
            print(f"the server at {self.base_url} {more}", file=sys.stderr)
        return names[0]

    def stream(self, question: str, settings: GenerationSettings) -> Iterator[str | Ended]:
        """The reply piece by piece, and at last an `Ended`. Closing the iterator stops the server's work."""
        model, started = self.model, time.monotonic()
        tokens, reason, thinking, answer, sources = 0, None, "", "", None
        with (
            self._readable_errors(),
            self._client.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": question}],
                max_tokens=settings.max_new_tokens,
                temperature=settings.temperature,
                top_p=settings.top_p,
                stream=True,
                stream_options={"include_usage": True},
            ) as chunks,
        ):
            for chunk in chunks:
                tokens = chunk.usage.completion_tokens if chunk.usage else tokens
                sources = (chunk.model_extra or {}).get("sources", sources)
                for choice in chunk.choices:
                    thought, content = thought_and_answer(choice.delta.to_dict())
                    if thought:
                        yield thought
                    if content:
                        yield content if answer or not thinking else f"{END_THINK}\n\n{content}"
                    thinking, answer = thinking + thought, answer + content
                    reason = choice.finish_reason or reason
        seconds, reply = time.monotonic() - started, joined(thinking, answer)
        yield Ended(reply, reason == "stop", tokens, seconds, _passages(sources))

    @contextmanager
    def _readable_errors(self) -> Iterator[None]:
        import openai

        try:
            yield
        except UnicodeEncodeError:
            raise InputError("the API key has a letter that is not ASCII: was it copied whole, and alone?") from None
        except openai.AuthenticationError:
            raise InputError(f"the server at {self.base_url} rejected the API key (401)") from None
        except openai.APIStatusError as error:
            message = error.body.get("message") if isinstance(error.body, dict) else None
            line = str(message or error.message).splitlines()[0][:300]
            raise InputError(f"the server at {self.base_url} refused: {line}") from None
        except openai.APIError as error:
            raise InputError(f"the server at {self.base_url} cannot be reached or broke off: {error.message}") from None


def is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _host(address: str) -> str:
    try:
        return httpx.URL(address).host
    except httpx.InvalidURL as error:
        raise InputError(f"{address!r} is not an address: {error}") from None


def key_for(base_url: str) -> str:
    """AI_DOCTOR_ENDPOINT_KEY or, for this machine alone, AI_DOCTOR_API_KEY, the key of our own server."""
    own = os.environ.get("AI_DOCTOR_API_KEY", "") if is_local(_host(base_url)) else ""
    return os.environ.get("AI_DOCTOR_ENDPOINT_KEY") or own


def thought_and_answer(message: dict[str, Any]) -> tuple[str, str]:
    """The two texts of a message or of a piece of one; without a reasoning parser the server has both in `content`.

    llama.cpp and vLLM name the thought `reasoning_content`, Ollama and newer vLLM `reasoning`.
    """
    return message.get("reasoning_content") or message.get("reasoning") or "", message.get("content") or ""


def joined(thinking: str, answer: str) -> str:
    """A reply as one text: `</think>` is added where the server split there, and before an answer without any tag."""
    tagged = THINK in answer or END_THINK in answer
    return f"{thinking}{END_THINK}\n\n{answer}" if answer and (thinking or not tagged) else thinking or answer


def _passages(sent: Any) -> list[Passage] | None:
    """The passages in a reply's `sources`, each in its place whatever it holds; None for what is not a list."""
    if not isinstance(sent, list):
        return None
    names = ("text", "title", "source", "licence", "address")
    rows = (each if isinstance(each, dict) else {} for each in sent)
    return [Passage(**{name: clean(str(row.get(name) or "")) for name in names}) for row in rows]
