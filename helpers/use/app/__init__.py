"""The Streamlit app: a page to ask base and tuned model side by side, one with the evaluation, one with its replies."""

from functools import partial
from importlib import import_module
from typing import Any

import streamlit as st

from helpers import InputError
from helpers.run_dir.folder import find_run, run_folder
from helpers.use.app.parts import escaped


def show(run_dir: str | None = None, at_once: int = 4) -> None:
    st.set_page_config(page_title="ai-doctor", page_icon="🩺", layout="wide")
    try:
        run = find_run(path, record=False) if (path := run_folder(run_dir)) else None
        pages = [
            ("ask", "chat", run, at_once),
            ("evaluation", "monitoring", run),
            ("predictions", "compare_arrows", run),
        ]
        st.navigation(
            [st.Page(partial(_draw, name, *shown), title=name.title(), icon=f":material/{icon}:", url_path=name,
                     default=name == "ask") for name, icon, *shown in pages]
        ).run()  # fmt: skip
    except InputError as error:
        st.error(escaped(str(error)))


def _draw(name: str, *shown: Any) -> None:
    """A page, whose module is imported only now: those with figures bring SciPy and matplotlib."""
    import_module(f"helpers.use.app.{name}").show(*shown)
