"""Passages in front of a question, as part of the user's text: the same in training rows, in 07 and in use."""

import re
from collections.abc import Sequence
from typing import Any

from helpers.prompts.encoding import encode_prompt, unspellable

LEAD = (
    "Passages from a search are below; some may be beside the point. Use what bears on the question, cite it by its "
    "number, such as [1], and ignore the rest."
)
HEADING = re.compile(r"\W|question\s*:", re.IGNORECASE)  # what begins like a number, a heading or the question


def with_passages(question: str, passages: Sequence[Any]) -> str:
    """The question with numbered passages before it, each on one line under its title; bare where there are none.

    A passage has a `text`, and a `title`: the path of headings above it. Here it has no line breaks, and `> ` before it
    where it begins like another passage or the question, so that nothing in it passes for one of them. What it says is
    text all the same: a model may believe it.
    """
    if not passages:
        return question
    numbered = (f"[{n}] {_line(each.title)}\n{_quoted(each.text)}" for n, each in enumerate(passages, 1))
    return "\n\n".join([LEAD, *numbered, f"Question:\n{question}"])


def fit_passages(
    tokenizer: Any, question: str, passages: Sequence[Any], max_tokens: int, style: str = "native"
) -> list[Any]:
    """The longest run of the best passages with which the whole prompt has at most `max_tokens` tokens.

    Passages are left out whole, from the end; none at all where the question alone fills the room. So are those that
    the vocabulary cannot spell.
    """
    kept = [each for each in passages if not unspellable(tokenizer, with_passages("", [each]))]
    while kept and len(encode_prompt(tokenizer, with_passages(question, kept), style)) > max_tokens:
        kept.pop()
    return kept


def _quoted(text: str) -> str:
    line = _line(text)
    return f"> {line}" if HEADING.match(line) else line


def _line(text: str) -> str:
    return " ".join(text.split())
