"""The Streamlit app: a page to ask base and tuned model side by side, one with the evaluation, one with its replies."""

from functools import partial
from pathlib import Path

import streamlit as st

from helpers import InputError
from helpers.run_dir import Run, find_run, newest_run
from helpers.use.app import ask
from helpers.use.app.parts import escaped


def show(run_dir: str | None = None, at_once: int = 4) -> None:
    """Draw the page that the reader is on."""
    st.set_page_config(page_title="ai-doctor", page_icon="🩺", layout="wide")
    try:
        run = choose_run(run_dir)
        pages = {
            "Ask": (partial(ask.show, run, at_once), "chat"),
            "Evaluation": (partial(_evaluation, run), "monitoring"),
            "Predictions": (partial(_predictions, run), "compare_arrows"),
        }
        st.navigation(
            [st.Page(page, title=title, icon=f":material/{icon}:", url_path=title.lower(), default=title == "Ask")
             for title, (page, icon) in pages.items()]
        ).run()  # fmt: skip
    except InputError as error:
        st.error(escaped(str(error)))


def choose_run(run_dir: str | None) -> Run | None:
    """The named run folder, else `newest_run`, else None: the base model alone. InputError where it is not a run."""
    path = Path.cwd() / Path(run_dir).expanduser() if run_dir else newest_run()
    if path is None:
        return None
    run = find_run(path)
    if run is None:
        raise InputError(f"{path} is not a run folder: it has no run.yaml")
    return run


# The two pages below bring SciPy and matplotlib, for which the first one need not wait.
def _evaluation(run: Run | None) -> None:
    from helpers.use.app import evaluation

    evaluation.show(run)


def _predictions(run: Run | None) -> None:
    from helpers.use.app import predictions

    predictions.show(run)
