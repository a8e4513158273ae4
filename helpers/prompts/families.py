"""Model families: what their chat templates write around a question, a thought and an answer, and which are refused.

A family is known by what its template renders and by its configuration, not by its name: a copy under another name, or
in a folder, is the same model. What a template does not show stands in FAMILIES. To add a family see
docs/ANOTHER_MODEL.md.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from helpers import InputError

THINK, END_THINK = "<think>", "</think>"
OPENING = f"{THINK}\n"  # R1's makers: force every reply to begin with it

# What every template is rendered with. Hybrid models think only when asked to, and ignore an argument they do not know.
# Some templates write today's date into the prompt; rows of one training would then differ by day, so all see one day:
# the one that Llama 3.1's own template falls back to.
ARGUMENTS = {"enable_thinking": True, "strftime_now": date(2024, 7, 26).strftime}

Message = dict[str, str]
_ASKED, _THOUGHT, _SAID = "\u2983question\u2984", "\u2983thought\u2984", "\u2983answer\u2984"


@dataclass(frozen=True)
class Family:
    """`signs`: strings of which one stands in the family's chat templates, and in no other family's above it.

    `separator`: what its makers write between thought and answer, where the template does not render a thought itself.
    `missing`: why the family is refused; empty for one that is supported.
    """

    name: str
    signs: tuple[str, ...]
    separator: str = f"\n{END_THINK}\n\n"
    missing: str = ""


_OTHER_MARKS = "it encloses its thought in {} instead of <think> and </think>, and no encoding for that is written yet"

# The first row with a sign in the template is taken.
FAMILIES = (
    Family("gpt-oss", ("<|channel|>",), missing="its thought is a message of its own (the harmony format)"),
    Family("Gemma 4", ("<|channel>", "<|think|>"), missing=_OTHER_MARKS.format("<|channel>thought and <channel|>")),
    Family("Ministral 3, Magistral", ("[THINK]",), missing=_OTHER_MARKS.format("[THINK] and [/THINK]")),
    Family("Command A", ("<|START_THINKING|>",), missing=_OTHER_MARKS.format("<|START_THINKING|> and its like")),
    # R1-Distill-Llama and -Qwen, R1-0528-Qwen3: the template drops thoughts of earlier turns, so it shows no separator.
    Family("DeepSeek-R1", ("<｜Assistant｜>",)),
    # Qwen3, Qwen3.5, SmolLM3, Olmo 3, GLM, Nemotron: what they write is rendered.
    Family("with <think> tags", (THINK,)),
    # Llama 3, Qwen2.5, SmolLM2, Gemma 3, Phi: both tags are plain text to them, and training introduces them.
    Family("without a thought of its own", ("",), separator=END_THINK),
)


def family(tokenizer: Any) -> Family:
    """The row of FAMILIES that a tokenizer's chat template belongs to; the last one where it has no template."""
    template = str(tokenizer.chat_template or "")
    return next(each for each in FAMILIES if any(sign in template for sign in each.signs))


def render(tokenizer: Any, messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
    """A conversation as text, by the tokenizer's own chat template with ARGUMENTS; InputError where it refuses it."""
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=add_generation_prompt, **ARGUMENTS
        )
    except (TemplateError, TypeError) as error:
        raise InputError(f"the model's chat template cannot render this conversation: {error}") from None


def separator(tokenizer: Any) -> str:
    """What this model's makers write between a thought and the answer, `</think>` included.

    Rows are trained with `</think>` alone. A base model that was trained with this separator expects something else at
    that place, so part of what training gains in loss there is the new delimiter, not medicine.
    """
    thought = {"role": "assistant", "content": _SAID, "reasoning_content": _THOUGHT}
    if not tokenizer.chat_template:
        return END_THINK
    _, found, rest = render(tokenizer, [_user(), thought], add_generation_prompt=False).partition(_THOUGHT)
    between = rest.partition(_SAID)[0]
    return between if found and END_THINK in between else family(tokenizer).separator


def end_of_turn(tokenizer: Any) -> str | None:
    """The token that ends an assistant's turn by the chat template; the tokenizer's own end token where none shows it.

    Gemma and Phi declare another token as end of sequence than the one that their replies end with.
    """
    if tokenizer.chat_template:
        after = _answered(tokenizer).partition(_SAID)[2].lstrip()
        tokens = [text for text in tokenizer.get_added_vocab() if text.strip() and after.startswith(text)]
        if tokens and not after.startswith(tokenizer.eos_token or "\0"):
            return max(tokens, key=len)
    return tokenizer.eos_token


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end a reply: the tokenizer's, and those that the model's generation_config.json names beside it,
    as Llama 3 and Qwen have them."""
    named = model.generation_config.eos_token_id
    return frozenset([tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])]) - {None}


def check_template(tokenizer: Any, name: str) -> None:
    """InputError, in one line that says what is missing, for a model whose conversations this project cannot write."""
    row = family(tokenizer)
    if row.missing:
        raise InputError(f"{name} is of the family {row.name}, which is not supported: {row.missing}")
    if not tokenizer.chat_template:
        raise InputError(f"the tokenizer of {name} has no chat template: set model.prompt_style=plain")
    _, found, asked = render(tokenizer, [_user()]).rpartition(_ASKED)
    before, said, _ = _answered(tokenizer).rpartition(_ASKED)[2].partition(_SAID)
    if not (found and said):
        raise InputError(f"{name} is not supported: its chat template leaves out the text of a message")
    prompt = asked.rstrip()
    if prompt.endswith(END_THINK):
        raise InputError(f"{name} is not supported: its chat template closes the thought before the reply begins")
    between = before.removeprefix(prompt.removesuffix(THINK).rstrip())
    if (between == before and prompt) or not re.fullmatch(rf"\s*({THINK}\s*{END_THINK}\s*)?", between):
        raise InputError(f"{name} is not supported: its chat template writes {between!r} between prompt and answer")


def _user() -> Message:
    return {"role": "user", "content": _ASKED}


def _answered(tokenizer: Any) -> str:
    return render(tokenizer, [_user(), {"role": "assistant", "content": _SAID}], add_generation_prompt=False)
