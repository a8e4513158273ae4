"""What several pages show: the disclaimer, text from outside, and a reply in its two parts."""

from collections.abc import Iterable
from pathlib import Path
from string import punctuation
from typing import Any

import streamlit as st

from helpers.prompts.encoding import split_reasoning

NO_ADVICE = (
    "To learn how language models behave. Not medical advice: what they write may be false, and nobody checks it."
)
NAMES = {"base": "Base model", "tuned": "Tuned model"}
_ESCAPES = str.maketrans({mark: f"\\{mark}" for mark in punctuation})


def heading(title: str) -> None:
    st.header(title, anchor=False)
    st.caption(NO_ADVICE)


def plain(text: str, target: Any = st) -> None:
    """Text of a model or a reader, not rendered: it can load no picture and show no link."""
    target.text(text.encode("utf-8", "replace").decode())  # half a character cannot be sent to a browser


def escaped(text: str) -> str:
    """`text` as Markdown that renders as it is, for widgets that take nothing else."""
    return text.translate(_ESCAPES)


def changed(files: Iterable[Path]) -> tuple[int, ...]:
    """When each file that is there was last written, in nanoseconds: a key for caches."""
    return tuple(file.stat().st_mtime_ns for file in files if file.is_file())


class Panel:
    """One side's reply: the reasoning in a panel of its own, then the answer, then a remark. It can be drawn again."""

    def __init__(self, side: str, expanded: bool) -> None:
        st.markdown(f"##### {NAMES[side]}")
        with st.expander("Reasoning", expanded=expanded):
            self._thinking = st.empty()
        st.markdown("**Answer**")
        self._answer, self._remark = st.empty(), st.empty()

    def draw(self, reply: str, remark: str = "", over: bool = True) -> None:
        """`over`: no more will come, so that a missing part is missing for good."""
        parts = split_reasoning(reply)
        missing = "None: nothing follows the reasoning." if over else "…"
        plain(parts.thinking or ("None." if over else "…"), self._thinking)
        plain(parts.answer, self._answer) if parts.answer else self._answer.caption(missing)
        self._remark.caption(escaped(remark))
