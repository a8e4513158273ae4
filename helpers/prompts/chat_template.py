"""Chat templates with which others ask as training did: Jinja for servers and exported files, Go for Ollama.

Both know any order of messages. A user turn is what stands between two replies: user messages, and what a system (or
developer) message says, in their order, a blank line between them. The last user turn gets the task, the reply after it
keeps its reasoning, and earlier replies lose theirs, as in R1's own template.
"""

import json
import re
from dataclasses import asdict, dataclass
from os.path import commonprefix
from typing import Any

from helpers import PROJECT_ROOT, InputError
from helpers.prompts.encoding import TASK, build_prompt, special_strings
from helpers.prompts.families import OPENING, render

_DATA = PROJECT_ROOT / "helpers/data"
_APART = "\u200b"  # zero-width space
_TEXT = "\u2983text\u2984"  # stands in for a message while a template is rendered


@dataclass(frozen=True)
class Turns:
    """What a model's own chat template writes around the messages of a conversation."""

    start: str  # before the first turn
    user: str  # before a user turn
    question: str  # before the last user turn: with the task
    user_end: str
    reply: str  # before the reply that is to be made; OPENING follows
    assistant: str  # before an earlier reply
    assistant_end: str
    stop: str  # what training ends a reply with


def chat_template(tokenizer: Any, style: str = "native") -> str:
    """The Jinja template that llama.cpp and vLLM take, and that merged folders, adapters and GGUF files carry.

    One user message, rendered with a generation prompt, is `build_prompt`; a reply with `reasoning_content` after it,
    rendered without one, adds what training adds. Servers turn the rendered text into tokens whatever its source, so a
    special token's text inside a message would become that token: each is broken by a zero-width space.
    """
    own = {name.upper(): text for name, text in asdict(find_turns(tokenizer, style)).items()}
    own["SPECIAL"] = [[text, text[0] + _APART + text[1:]] for text in _breakable(special_strings(tokenizer))]
    return "".join(f"{{%- set {name} = {_literal(value)} -%}}\n" for name, value in own.items()) + _body(
        "chat_template.jinja"
    )


def ollama_template(tokenizer: Any, style: str = "native") -> str:
    """The same as Ollama's Go template. Ollama sets the beginning-of-sequence token, and cannot break special tokens.

    It learns which tags enclose a thought from the text around `.Thinking` in the range over `.Messages`.
    """
    turns = find_turns(tokenizer, style)
    own = asdict(turns) | {"start": turns.start.removeprefix(tokenizer.bos_token or "")}
    del own["stop"]  # a PARAMETER of the Modelfile
    return (
        "".join(f"{{{{- ${name} := {_literal(text)} }}}}\n" for name, text in own.items())
        + _body("chat_template.gotmpl").strip()
    )


def find_turns(tokenizer: Any, style: str) -> Turns:
    """The pieces of the model's own template, found by rendering it; for "plain" those of the published layout."""
    before, after = build_prompt(tokenizer, _TEXT, style).removesuffix(OPENING).split(_TEXT)
    stop = tokenizer.eos_token
    if style == "plain":
        start = tokenizer.bos_token or ""
        user, reply = (label[label.rindex("###") :] for label in (before, after))
        return Turns(start, user, before[len(start) :], "\n\n", reply, reply, "\n\n", stop)
    alone = _render(tokenizer, 1, False)
    answered = _render(tokenizer, 2, False)
    _, middle, between, _ = _render(tokenizer, 3, True)
    user_end = _common(alone[-1], middle, after)
    assistant_end = _common(answered[-1], between)
    user = between[len(assistant_end) :].removesuffix(f"{TASK}\n\n")  # in the template of a model exported by us
    start = before.removesuffix(f"{TASK}\n\n").removesuffix(user)
    reply, assistant = after[len(user_end) :], middle[len(user_end) :]
    return Turns(start, user, before[len(start) :], user_end, reply, assistant, assistant_end, stop)


def _render(tokenizer: Any, messages: int, generate: bool) -> list[str]:
    """What the model's own template writes before, between and after so many messages, the first of a user."""
    talk = [{"role": ("user", "assistant")[i % 2], "content": _TEXT} for i in range(messages)]
    pieces = render(tokenizer, talk, generate).split(_TEXT)
    if len(pieces) != messages + 1:
        raise InputError(f"the model's chat template leaves out text of a conversation of {messages} messages")
    return pieces


def _common(*texts: str) -> str:
    """What all begin with, without half a tag at its end."""
    return re.sub(r"<[^<>]*$", "", commonprefix(texts))  # noqa: RUF071 (these are no paths)


def _breakable(texts: frozenset[str]) -> list[str]:
    """What to break so that no special token is left: one prefix for all that begin with `<|` or R1's `<｜`."""
    prefixes = {text[:2] for text in texts} & {"<|", "<｜"}
    return sorted(prefixes | {text for text in texts if text[:2] not in prefixes and len(text) > 1})


def _body(name: str) -> str:
    return (_DATA / name).read_text(encoding="utf-8")


def _literal(value: Any) -> str:
    """A string, or a list of lists of strings, as Jinja and Go write it; llama.cpp's Jinja knows no \\u escapes."""
    return json.dumps(value, ensure_ascii=False)
