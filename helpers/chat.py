"""Asking any OpenAI-compatible server (llama.cpp, vLLM, Ollama), and the chat template that such a server needs."""

import ipaddress
import json
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
from helpers.prompts import END_THINK, OPENING, TASK, THINK, build_prompt, special_strings

MAX_QUESTION = 8_000  # characters; about 2,000 tokens of English
_APART = "\u200b"  # zero-width space
_QUESTION = "\u2983question\u2984"  # stands in for a message while a template is rendered


@dataclass(frozen=True)
class Piece:
    """Some text of a reply that is being streamed; `kind` is "thinking" or "answer"."""

    kind: str
    text: str


@dataclass(frozen=True)
class Ended:
    """The end of a stream. `finished`: by itself, not by the limit; `seconds` since the request, `tokens` new ones."""

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

        self.base_url, self._model = base_url, model
        # A proxy for the internet cannot reach this machine, and most settings do not say so.
        client = DefaultHttpxClient(trust_env=not is_local(urlsplit(base_url).hostname or ""))
        self._client = OpenAI(base_url=base_url, api_key=api_key or "none", max_retries=0, http_client=client)

    @cached_property
    def model(self) -> str:
        """The model's name there: what was given, or the first that the server lists."""
        if self._model:
            return self._model
        with self._readable():
            names = [each.id for each in self._client.models.list()]
        if not names:
            raise InputError(f"the server at {self.base_url} lists no model")
        return names[0]

    def stream(self, question: str, settings: GenerationSettings) -> Iterator[Piece | Ended]:
        """The reply piece by piece, and at last an `Ended`. Closing the iterator stops the server's work.

        A server that takes the reasoning apart sends it as `reasoning_content` (llama.cpp, vLLM) or `reasoning`
        (Ollama, newer vLLM). Where none does, the text is read as `split_reasoning` reads a reply: all of it is
        thinking until `</think>`.
        """
        asked = {
            "model": self.model,
            "messages": [{"role": "user", "content": question}],
            "max_tokens": settings.max_new_tokens,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
        }
        started, first, tokens, reason, told_apart, raw = time.monotonic(), None, 0, None, False, _Splitter()
        with self._readable():
            answer = self._client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
        with answer, self._readable():
            for chunk in answer:
                tokens = chunk.usage.completion_tokens if chunk.usage else tokens
                for choice in chunk.choices:
                    more = choice.delta.model_extra or {}
                    thought, said = more.get("reasoning_content") or more.get("reasoning"), choice.delta.content
                    if (thought or said) and first is None:
                        first = time.monotonic() - started
                    if thought:
                        told_apart = True
                        yield Piece("thinking", thought)
                    if said:
                        yield from [Piece("answer", said)] if told_apart else raw.take(said)
                    reason = choice.finish_reason or reason
        yield from raw.take("", over=True)
        seconds = time.monotonic() - started
        yield Ended(reason == "stop", tokens, seconds, seconds if first is None else first)

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


def chat_template(tokenizer: Any, style: str = "native") -> str:
    """A Jinja chat template with which a server asks as training did; llama.cpp and vLLM take it in place of their own.

    The last question gets the task and the opened thought; earlier turns stand as the model's own template writes them,
    without their reasoning, and a system message goes before the question, as R1's makers advise. Servers turn the
    rendered text into tokens whatever its source, so a special token's text inside a message would become that token:
    each is broken by a zero-width space. "plain" knows no turns: earlier messages stand before the task as they are.
    """
    before, after = build_prompt(tokenizer, _QUESTION, style).removesuffix(OPENING).split(_QUESTION)
    if style == "plain":
        opening, middle, end = tokenizer.bos_token or "", "\n\n", "\n\n"
    else:
        talk = [{"role": role, "content": _QUESTION} for role in ("user", "assistant", "user")]
        text = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
        _, middle, end, _ = text.split(_QUESTION)
        opening = before.removesuffix(f"{TASK}\n\n")
    task = before[len(opening) :]
    clean = "".join(
        f" | replace({_literal(t)}, {_literal(t[0] + _APART + t[1:])})" for t in sorted(special_strings(tokenizer))
    )
    # The reasoning of a reply that is to be continued: servers look for it to learn which tags enclose one.
    continued = f"{{{{ {_literal(OPENING)} + message['reasoning_content'] + {_literal(END_THINK)} }}}}"
    return "".join(
        [
            f"{{%- set ns = namespace(system='') -%}}{{{{ {_literal(opening)} }}}}",
            "{%- for message in messages -%}",
            f"{{%- set text = message['content']{clean} -%}}",
            "{%- if message['role'] == 'system' -%}{%- set ns.system = ns.system + text + '\n\n' -%}",
            "{%- elif message['role'] == 'assistant' -%}",
            f"{{%- if loop.last and message['reasoning_content'] -%}}{continued}{{%- endif -%}}",
            f"{{{{ text }}}}{{%- if not loop.last -%}}{{{{ {_literal(end)} }}}}{{%- endif -%}}",
            f"{{%- elif loop.last -%}}{{{{ {_literal(task)} + ns.system + text + {_literal(after)} }}}}",
            f"{{%- else -%}}{{{{ ns.system + text + {_literal(middle)} }}}}{{%- set ns.system = '' -%}}",
            "{%- endif -%}{%- endfor -%}",
            f"{{%- if add_generation_prompt -%}}{{{{ {_literal(OPENING)} }}}}{{%- endif -%}}",
        ]
    )


def _literal(text: str) -> str:
    """A string as Jinja writes it; llama.cpp's Jinja knows no \\u escapes."""
    return json.dumps(text, ensure_ascii=False)


def is_local(host: str) -> bool:
    """Whether a host, by name or number, is this machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Splitter:
    """Takes streamed text apart at its first `</think>`; a tag may arrive in pieces."""

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
