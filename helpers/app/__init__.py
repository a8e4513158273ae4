"""The Streamlit app: a page to ask base and tuned model side by side, one with the evaluation, one with its replies."""

import os
from functools import partial
from pathlib import Path

import streamlit as st

from helpers import PROJECT_ROOT, InputError
from helpers.app import ask
from helpers.app.parts import escaped
from helpers.run_dir import Run, find_run, project_path


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
    """The run folder that was named, else the newest finished one in runs/, else none: the base model alone.

    Raises InputError where the one that was named is no run folder.
    """
    if run_dir:
        path = Path.cwd() / Path(run_dir).expanduser()
    elif os.environ.get("AI_DOCTOR_RUN_DIR"):
        path = project_path(os.environ["AI_DOCTOR_RUN_DIR"])
    else:
        finished = (PROJECT_ROOT / "runs").glob("*/export/report.json")
        newest = max(finished, key=lambda file: file.stat().st_mtime, default=None)
        if newest is None:
            return None
        path = newest.parents[1]
    run = find_run(path)
    if run is None:
        raise InputError(f"{path} is no run folder: it has no run.yaml")
    return run


# The two pages below bring SciPy and matplotlib, for which the first one need not wait.
def _evaluation(run: Run | None) -> None:
    from helpers.app import evaluation

    evaluation.show(run)


def _predictions(run: Run | None) -> None:
    from helpers.app import predictions

    predictions.show(run)
