"""The page with a run's figures: the run's own page, index.html, as it would be written now."""

import re

import streamlit as st

from helpers.report.results import RESULTS, index_page, results
from helpers.run_dir.folder import Run
from helpers.use.app.parts import changed, escaped, heading

HEIGHT = 1000  # pixels, and the rest by scrolling: the page lets no script in that could measure it


def show(run: Run | None) -> None:
    """The page, without the figures of stages that have not run."""
    heading("Evaluation")
    if run is None:
        st.info("There is no finished run yet: `make run` makes one.")
        return
    st.caption(f"Run folder {escaped(run.label)}, profile {run.config.profile}")
    if not results(run)["evaluation"]:
        st.info("Whether it helped is not known yet: 05_evaluation has not run.")
    st.iframe(_page(run, str(run.path), changed(run / path for path in RESULTS.values())), height=HEIGHT)


@st.cache_data(max_entries=4, show_spinner="Drawing …")
def _page(_run: Run, path: str, changed: tuple[int, ...]) -> str:
    """The page without its links, which lead to files of this machine. The last two are the cache's key of the run."""
    return re.sub(r'<a href="[^"]*">(.*?)</a>', r"\1", index_page(_run))
