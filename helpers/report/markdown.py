"""Untrusted text as Markdown that shows it as it is."""

import re

from helpers.prompts.encoding import split_reasoning


def as_markdown(question: str, reply: str) -> str:
    """Question, reasoning and answer under their own labels; all three are `quoted`, so that none can pose as ours."""
    parts = split_reasoning(reply)
    thinking, answer = (f"> {quoted(part) or '*nothing*'}" for part in (parts.thinking, parts.answer))
    answer = answer if parts.closed else "*none: the thought was never closed*"
    return f"**Question.** {quoted(question)}\n\n**Reasoning**\n\n{thinking}\n\n**Answer**\n\n{answer}"


def quoted(text: str) -> str:
    """`text` as one line of Markdown that shows it as it is: no markup, link, picture or formula, its lines by <br>.

    For Jupyter, Colab, nbconvert and the hub. Entities, not backslashes: `\\(` begins a formula in Jupyter. A dollar or
    a backslash gets an element of its own, since MathJax reads the finished page and looks for formulas in its text.
    """
    text = re.sub(r"\r\n?", "\n", text.expandtabs(4))
    text = _MARKUP.sub(lambda found: "".join(f"&#{ord(character)};" for character in found[0]), text)
    text = re.sub(r"[$\\]", lambda found: f"<span>&#{ord(found[0])};</span>", text)
    return text.replace("\n", "<br>").replace("  ", "&nbsp; ")


# Inline marks, what makes an address a link, and at the beginning what would make a list, a heading or a quotation.
_MARKUP = re.compile(r"[&<>*_`~|\[\]@]|(?<=:)/(?=/)|(?<=www)\.|\A *(?:[^\w\s$\\]|\d+[.)])", re.IGNORECASE)
