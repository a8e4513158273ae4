"""Model families: what their chat templates write around a question, a thought and an answer.

A family is recognised by its template, not by its name: a copy under another name is the same model. What a template
does not show is in FAMILIES, and those that are refused in refusals.REFUSALS. docs/ANOTHER_MODEL.md says how to add a
family.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from helpers import InputError
from helpers.prompts.refusals import refused_family

THINK, END_THINK = "<think>", "</think>"
OPENING = f"{THINK}\n"  # R1's makers: force every reply to begin with it

# Every template is rendered with these; one that does not know an argument ignores it. Hybrid models think only when
# asked to. Some templates write today's date, and prompts would differ by day: all get the default of Llama 3.1's.
ARGUMENTS = {"enable_thinking": True, "strftime_now": date(2024, 7, 26).strftime}

Message = dict[str, str]
_QUESTION, _THOUGHT, _ANSWER = "\u2983question\u2984", "\u2983thought\u2984", "\u2983answer\u2984"


@dataclass(frozen=True)
class Family:
    """`signs`: strings of which one stands in the family's chat templates, and in no other family's above it.

    `separator`: what its makers write between thought and answer, where the template does not render a thought itself.
    """

    name: str
    signs: tuple[str, ...]
    separator: str = f"\n{END_THINK}\n\n"


# The first row with a sign in the template is taken.
FAMILIES = (
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
    """A conversation as text, by the tokenizer's own chat template with ARGUMENTS; InputError where that fails."""
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=add_generation_prompt, **ARGUMENTS
        )
    except (TemplateError, TypeError) as error:
        raise InputError(f"the model's chat template cannot render this conversation: {error}") from None


def separator(tokenizer: Any) -> str:
    """What the model's makers write between a thought and the answer, `</think>` included.

    Rows are trained with `</think>` alone, so that part of the gain in loss is the new delimiter, not medicine.
    """
    if not tokenizer.chat_template:
        return END_THINK
    thought = {"role": "assistant", "content": _ANSWER, "reasoning_content": _THOUGHT}
    _, found, rest = render(tokenizer, [_user(), thought], add_generation_prompt=False).partition(_THOUGHT)
    between = rest.partition(_ANSWER)[0]
    return between if found and END_THINK in between else family(tokenizer).separator


def end_of_turn(tokenizer: Any) -> str | None:
    """The token that the chat template writes after a reply; the tokenizer's own end token where it writes none.

    Gemma and Phi declare another end-of-sequence token than the one that ends their replies.
    """
    if tokenizer.chat_template:
        after = _answered(tokenizer).partition(_ANSWER)[2].lstrip()
        tokens = [text for text in tokenizer.get_added_vocab() if text.strip() and after.startswith(text)]
        if tokens and not after.startswith(tokenizer.eos_token or "\0"):
            return max(tokens, key=len)
    return tokenizer.eos_token


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Ids of the tokens that end a reply: the tokenizer's, and others in the model's generation config."""
    return frozenset(end_token_ids(tokenizer, model.generation_config.eos_token_id))


def end_token_ids(tokenizer: Any, eos_token_id: int | list[int] | None) -> list[int]:
    """The tokenizer's end-of-sequence id, then those of a generation config's `eos_token_id`: Llama 3 has several."""
    more = eos_token_id if isinstance(eos_token_id, list) else [eos_token_id]
    return [i for i in dict.fromkeys([tokenizer.eos_token_id, *more]) if i is not None]


def check_template(tokenizer: Any, name: str) -> None:
    """Raise InputError, which says what is missing, for a model whose conversations this project cannot write."""
    if refused := refused_family(str(tokenizer.chat_template or "")):
        marks = f"its thought has other marks than {THINK} and {END_THINK}, and no encoding for them is written yet"
        raise InputError(f"{name} is of the family {refused}, which is not supported: {marks}")
    if not tokenizer.chat_template:
        raise InputError(f"the tokenizer of {name} has no chat template: set model.prompt_style=plain")
    _, question, after = render(tokenizer, [_user()]).rpartition(_QUESTION)
    before, answer, _ = _answered(tokenizer).rpartition(_QUESTION)[2].partition(_ANSWER)
    if not (question and answer):
        raise InputError(f"{name} is not supported: its chat template leaves out the text of a message")
    prompt = after.rstrip()
    if prompt.endswith(END_THINK):
        raise InputError(f"{name} is not supported: its chat template closes the thought before the reply begins")
    between = before.removeprefix(prompt.removesuffix(THINK).rstrip())
    if (between == before and prompt) or not re.fullmatch(rf"\s*({THINK}\s*{END_THINK}\s*)?", between):
        raise InputError(f"{name} is not supported: its chat template writes {between!r} between prompt and answer")


def _user() -> Message:
    return {"role": "user", "content": _QUESTION}


def _answered(tokenizer: Any) -> str:
    return render(tokenizer, [_user(), {"role": "assistant", "content": _ANSWER}], add_generation_prompt=False)
