"""Chat templates that render the prompt of training: Jinja for servers and exported files, Go for Ollama.

Both take messages in any order. All user, system and developer messages between two replies make one user turn, a blank
line between them. The last user turn gets the task; earlier replies lose their reasoning, as in R1's own template.
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
    reply: str  # before the reply to generate; OPENING follows
    assistant: str  # before an earlier reply
    assistant_end: str
    stop: str  # what training ends a reply with


def chat_template(tokenizer: Any, style: str = "native") -> str:
    """The Jinja template for llama.cpp, vLLM, merged folders, adapters and GGUF files.

    One user message with a generation prompt renders `build_prompt`; a reply with `reasoning_content` adds the text of
    training's completion. Servers would turn a special token's text inside a message into that token, so each is broken
    by a zero-width space.
    """
    own = {name.upper(): text for name, text in asdict(find_turns(tokenizer, style)).items()}
    own["SPECIAL"] = [[text, text[0] + _APART + text[1:]] for text in _breakable(special_strings(tokenizer))]
    constants = "".join(f"{{%- set {name} = {_literal(value)} -%}}\n" for name, value in own.items())
    return constants + (_DATA / "chat_template.jinja").read_text(encoding="utf-8")


def ollama_template(tokenizer: Any, style: str = "native") -> str:
    """The same as Ollama's Go template. Ollama adds the beginning-of-sequence token, and cannot break special tokens.

    It finds the tags of a thought around `.Thinking` in the range over `.Messages`.
    """
    own = asdict(find_turns(tokenizer, style))
    own["start"] = own["start"].removeprefix(tokenizer.bos_token or "")
    del own["stop"]  # a PARAMETER of the Modelfile
    constants = "".join(f"{{{{- ${name} := {_literal(text)} }}}}\n" for name, text in own.items())
    return constants + (_DATA / "chat_template.gotmpl").read_text(encoding="utf-8").strip()


def find_turns(tokenizer: Any, style: str) -> Turns:
    """What the model's own template writes, found by rendering it; for "plain" the published layout."""
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
    user = between[len(assistant_end) :].removesuffix(f"{TASK}\n\n")  # a model exported by this project
    start = before.removesuffix(f"{TASK}\n\n").removesuffix(user)
    reply, assistant = after[len(user_end) :], middle[len(user_end) :]
    return Turns(start, user, before[len(start) :], user_end, reply, assistant, assistant_end, stop)


def _render(tokenizer: Any, messages: int, generate: bool) -> list[str]:
    """The text before, between and after `messages` messages, user and assistant in turn."""
    talk = [{"role": ("user", "assistant")[i % 2], "content": _TEXT} for i in range(messages)]
    pieces = render(tokenizer, talk, generate).split(_TEXT)
    if len(pieces) != messages + 1:
        raise InputError(f"the model's chat template leaves out text of a conversation of {messages} messages")
    return pieces


def _common(*texts: str) -> str:
    """The common prefix, without half a tag at its end."""
    return re.sub(r"<[^<>]*$", "", commonprefix(texts))  # noqa: RUF071 (these are not paths)


def _breakable(texts: frozenset[str]) -> list[str]:
    """The strings to break: one prefix for all special tokens that begin with `<|` or R1's `<｜`."""
    prefixes = {text[:2] for text in texts} & {"<|", "<｜"}
    return sorted(prefixes | {text for text in texts if text[:2] not in prefixes and len(text) > 1})


def _literal(value: Any) -> str:
    """A literal of Jinja and Go; llama.cpp's Jinja has no \\u escapes."""
    return json.dumps(value, ensure_ascii=False)
