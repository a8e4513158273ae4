"""The page that puts a question to base and tuned model, or to one of them, and shows the replies as they come."""

import time
from collections import deque
from textwrap import shorten

import streamlit as st

from helpers import InputError
from helpers.config import Config, GenerationSettings
from helpers.knowledge.index import Index
from helpers.questions.multiple_choice import baseline_questions
from helpers.run_dir.folder import Run
from helpers.use.app import engine
from helpers.use.app.parts import NAMES, Panel, changed, escaped, heading, plain
from helpers.use.app.replies import Reply, Turn, answering
from helpers.use.citations import find_index, look_up, source_line, source_lines
from helpers.use.client import MAX_QUESTION, check_question

EXAMPLES = 3
REDRAW_SECONDS = 0.1
TURNS = 20  # kept in a session


def show(run: Run | None, at_once: int) -> None:
    """The page. A question is answered in the run of the script that follows its form's callback."""
    state = st.session_state
    question = state.pop("asked", None)
    turns = state.setdefault("turns", deque(maxlen=TURNS))
    heading("Ask the models")
    sides = engine.sides(run)
    if not sides:
        st.info(f"{escaped(run.label)} cannot be asked yet: run 06_export, which makes its file for llama.cpp.")
        return
    settings, chosen, with_sources = _sidebar(run, sides, busy=question is not None)
    _form(busy=question is not None)
    if problem := state.pop("problem", None):
        st.error(escaped(problem))
    newest = st.container()
    for number, turn in enumerate(reversed(turns)):
        _finished(turn, expanded=number == 0 and question is None)
    if question is not None:
        try:
            looked_up = question, []
            if with_sources:
                file, embedder = run / "retrieval/index.sqlite", run.config.retrieval.embedder
                index = _index(run, str(file), changed([file]), embedder)
                looked_up = look_up(index, question, run.config.retrieval.k)
            turn = Turn(question, settings, {side: Reply() for side in chosen}, *looked_up)
            with newest:
                _answer(run, turn, turns, at_once)
        except InputError as error:
            state.problem = _sentence(error)
        st.rerun()  # unlocks the widgets


@st.cache_resource(max_entries=1, on_release=lambda index: index.close(), show_spinner=False)
def _index(_run: Run, path: str, written: tuple[int, ...], embedder: str | None) -> Index:
    """The run's index, kept between questions for an embedder's vectors. The last three are the cache's key."""
    return find_index(_run, None)


def _sidebar(run: Run | None, sides: list[str], busy: bool) -> tuple[GenerationSettings, list[str], bool]:
    """Sampling for both sides, the sides to ask, and whether to look the question up. Locked while busy: a change would
    end the reply."""
    config = run.config if run else Config.resolve("laptop")
    usual = config.generation
    longest = max(config.model.max_length, usual.max_new_tokens)
    with st.sidebar:
        st.caption(f"Run folder {escaped(run.label)}" if run else "No finished run yet: the embedded model alone")
        chosen = sides
        if len(sides) > 1:
            options = {"Both, side by side": sides} | {NAMES[side]: [side] for side in sides}
            chosen = options[st.radio("Ask", options, key="sides", persist_state="session", disabled=busy)]
        temperature = st.slider(
            "Temperature", 0.0, 1.5, usual.temperature, 0.05, key="temperature", persist_state="session", disabled=busy,
            help="0 takes the likeliest token each time, which rounding can change while other readers ask too. R1's "
            "makers advise 0.6.",
        )  # fmt: skip
        limit = st.slider(
            "Tokens, at most", 16, longest, usual.max_new_tokens, 16, key="limit", persist_state="session",
            disabled=busy,
            help="Reasoning and answer together. A reply that reaches the limit is cut off.",
        )  # fmt: skip
        with_sources = bool(run and (run / "retrieval/index.sqlite").is_file()) and st.toggle(
            "Look it up first", key="look_up", persist_state="session", disabled=busy,
            help="Passages that the question finds in the run's library go in front of it.",
        )  # fmt: skip
    return usual.model_copy(update={"temperature": temperature, "max_new_tokens": limit}), chosen, with_sources


def _form(busy: bool) -> None:
    with st.form("box", border=False):
        st.text_area("Clinical question", key="question", max_chars=MAX_QUESTION, height=140, persist_state="session")
        st.form_submit_button("Ask", type="primary", on_click=_send, disabled=busy)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption("Examples", width="content")
        for example in baseline_questions()[:EXAMPLES]:
            st.button(shorten(example, 29, placeholder=" …"), on_click=_fill, args=[example], disabled=busy)


def _send() -> None:
    try:
        st.session_state.asked = check_question(st.session_state.question)
    except InputError as error:
        st.session_state.problem = _sentence(error)


def _sentence(error: InputError) -> str:
    message = str(error)
    return f"{message[:1].upper()}{message[1:]}{'' if message.endswith(('.', '?')) else '.'}"


def _fill(example: str) -> None:
    st.session_state.question = example


def _answer(run: Run | None, turn: Turn, turns: deque[Turn], at_once: int) -> None:
    """Show the replies while they come. However this ends, the servers stop and the slot is free."""
    with st.container(border=True):
        st.button("Stop", icon=":material/stop_circle:")  # like every widget it restarts the script, which ends this
        with engine.slot(at_once):
            with st.spinner("Loading the model …"):
                endpoints = {side: engine.endpoint(run, side, at_once) for side in turn.replies}
            turns.append(turn)
            panels = _panels(turn, expanded=True)
            with answering(turn, endpoints):
                while not all(reply.over for reply in turn.replies.values()):
                    _draw(turn, panels)
                    time.sleep(REDRAW_SECONDS)
            _draw(turn, panels)


def _finished(turn: Turn, expanded: bool) -> None:
    turn.end()  # Streamlit starts this run beside the one that it ends, which may not have got there yet
    with st.container(border=True):
        _draw(turn, _panels(turn, expanded))
        _sources(turn)
        limit = turn.settings.max_new_tokens
        st.caption(f"Temperature {turn.settings.temperature:g}, at most {limit} tokens.")


def _sources(turn: Turn) -> None:
    if turn.passages:
        with st.expander(f"Sources ({len(turn.passages)})", expanded=True):
            for n, each in enumerate(turn.passages, 1):
                plain(source_line(n, each))
                plain(each.text)
        for side, reply in turn.replies.items():
            for line in source_lines(turn.passages, reply.text)[len(turn.passages) :]:
                st.warning(escaped(f"{NAMES[side]}: {line}"))


def _panels(turn: Turn, expanded: bool) -> dict[str, Panel]:
    plain(turn.question)
    panels = {}
    for side, column in zip(turn.replies, st.columns(len(turn.replies)), strict=True):
        with column:
            panels[side] = Panel(side, expanded)
    return panels


def _draw(turn: Turn, panels: dict[str, Panel]) -> None:
    for side, reply in turn.replies.items():
        panels[side].draw(reply.text, reply.remark(), reply.over)
