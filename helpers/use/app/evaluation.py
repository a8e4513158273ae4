"""The page with a run's figures: what the evaluation found, curves, training, and what became of the data."""

import threading
from typing import Any

import streamlit as st
from matplotlib import style

from helpers.report.results import RESULTS, figures, headline, results, verdicts
from helpers.run_dir import Run
from helpers.use.app.parts import escaped, heading

ON_THE_PAGE = {"savefig.transparent": True}
_drawing = threading.Lock()  # a style holds for all threads


def show(run: Run | None) -> None:
    """The page, without the figures of stages that have not run."""
    heading("Evaluation")
    if run is None:
        st.info("There is no finished run yet: `make run` makes one.")
        return
    st.caption(f"Run folder {escaped(run.label)}, profile {run.config.profile}")
    found = results(run)
    st.subheader("Did it help?", anchor=False)
    if found["evaluation"]:
        _headline(run)
    else:
        st.info("Not known yet: 05_evaluation has not run.")
    if pictures := _pictures(run, str(run.path), changed(run), st.context.theme.type == "dark"):
        st.subheader("Figures", anchor=False)
        for row in range(0, len(pictures), 2):  # a row at a time: on a phone they stay in order
            for column, (caption, picture) in zip(st.columns(2), pictures[row : row + 2], strict=False):
                column.image(picture, caption, width="stretch")
    if found["training"]:
        st.subheader("Training", anchor=False)
        _training(found["training"])
    if found["data"]:
        st.subheader("Data", anchor=False)
        _data(found["data"])


def changed(run: Run) -> tuple[int, ...]:
    """When each of a run's results was last written, in nanoseconds: a key for caches."""
    files = (run / path for path in RESULTS.values())
    return tuple(file.stat().st_mtime_ns for file in files if file.is_file())


def _headline(run: Run) -> None:
    names = ("measure", "base", "tuned", "difference (95% interval)")
    st.table([dict(zip(names, row, strict=True)) for row in headline(run)], hide_index=True)
    for verdict in verdicts(run):
        st.text(verdict)


@st.cache_data(max_entries=8, show_spinner="Drawing …")
def _pictures(_run: Run, path: str, changed: tuple[int, ...], dark: bool) -> list[tuple[str, bytes]]:
    """Caption and PNG of each figure. The next two arguments are the cache's key of the run."""
    with _drawing, style.context(["dark_background" if dark else {}, ON_THE_PAGE]):
        return [(caption, figure._repr_png_()) for caption, figure in figures(_run)]


def _training(training: dict[str, Any]) -> None:
    before, after = (training["validation_nll"][when] for when in ("before", "after"))
    steps, loss, speed, memory = st.columns(4)
    steps.metric("Optimizer steps", training["steps"])
    loss.metric("Validation loss", f"{after:.3f}", f"{after - before:+.3f}", delta_color="inverse")
    speed.metric("Tokens a second", f"{training['tokens_per_second']:,.0f}")
    memory.metric("Peak memory", f"{training['peak_memory_gib']:.1f} GiB")


def _data(report: dict[str, Any]) -> None:
    """Each rule with the rows that came in and went out, and why the others were left out."""
    splits = ", ".join(f"{rows} {name}" for name, rows in report["splits"].items())
    st.text("\n".join([f"From {report['provenance']['source']}: {splits} rows.", *report.get("remarks", [])]))
    st.table(
        [
            {
                "rule": step["rule"],
                "rows in": step["rows_in"],
                "rows out": step["rows_out"],
                "left out": ", ".join(f"{number} {reason}" for reason, number in step["reasons"].items()),
            }
            for step in report["steps"]
        ],
        hide_index=True,
    )
