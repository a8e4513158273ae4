"""The page to browse the evaluation's replies: base and tuned side by side, those that got worse first."""

from typing import Any

import streamlit as st

from helpers.files import read_jsonl
from helpers.run_dir.folder import Run
from helpers.use.app.parts import NAMES, Panel, changed, escaped, heading, plain

OUTCOMES = ["worse", "better", "same"]


def show(run: Run | None) -> None:
    heading("Predictions")
    files = [run / f"evaluation/predictions.{side}.jsonl" for side in NAMES] if run else []
    if not files or not all(file.is_file() for file in files):
        st.info("There are no predictions yet: 05_evaluation makes them.")
        return
    st.caption(
        f"Run folder {escaped(run.label)}. A reply is worse or better where a multiple-choice answer turned wrong or "
        "right, or where an open question lost or gained an answer."
    )
    pairs = _chosen(_pairs(run, str(run.path), changed(files)))
    if not pairs:
        st.info("No pair of replies is like that.")
        return
    number = st.number_input(f"Pair, of {len(pairs)}", 1, len(pairs), key=f"pair of {len(pairs)}")
    _pair(pairs[number - 1])


@st.cache_data(max_entries=4, show_spinner="Reading …")
def _pairs(_run: Run, path: str, changed: tuple[int, ...]) -> list[dict[str, Any]]:
    """`metrics.side_by_side` of the run's predictions, and with each pair what is `right`."""
    from helpers.evaluation.metrics import side_by_side  # takes seconds, with PyTorch behind it

    base, tuned = (read_jsonl(_run / f"evaluation/predictions.{side}.jsonl") for side in NAMES)
    right = {(row["task"], row["id"]): row.get("reference") or row["answer_idx"] for row in base}
    return [pair | {"right": right[pair["task"], pair["id"]]} for pair in side_by_side(base, tuned)]


def _chosen(pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The pairs that the two filters let through; a filter with nothing chosen lets all through."""
    one, two = st.columns(2)
    counts = {name: sum(pair["outcome"] == name for pair in pairs) for name in OUTCOMES}
    outcomes = one.pills(
        "The tuned reply is", OUTCOMES, selection_mode="multi", format_func=lambda name: f"{name} ({counts[name]})"
    )
    tasks = two.pills("Task", sorted({pair["task"] for pair in pairs}), selection_mode="multi", format_func=escaped)
    return [
        pair for pair in pairs if (not outcomes or pair["outcome"] in outcomes) and (not tasks or pair["task"] in tasks)
    ]


def _pair(pair: dict[str, Any]) -> None:
    with st.container(border=True):
        st.caption(escaped(f"{pair['task']} · {pair['id']} · {pair['outcome']}"))
        plain(pair["question"])
        with st.expander("Right answer"):
            plain(pair["right"])
    for side, column in zip(NAMES, st.columns(2), strict=True):
        with column:
            Panel(side, expanded=True).draw(pair[side])
