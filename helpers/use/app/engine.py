"""The servers behind the app, one for each side and shared by all readers, and their slots."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urldefrag

import streamlit as st

from helpers import InputError
from helpers.run_dir.folder import Run
from helpers.use import server as serving
from helpers.use.client import Endpoint, key_for

# Running servers, as http://127.0.0.1:8000/v1; #NAME at the end chooses one of several models.
ENDPOINTS = {"base": "AI_DOCTOR_BASE_ENDPOINT", "tuned": "AI_DOCTOR_TUNED_ENDPOINT"}
WAIT_SECONDS, POLL_SECONDS = 600.0, 2.0  # a reader sees how many wait before, and may leave


def sides(run: Run | None) -> list[str]:
    """The sides to ask. Where a server is named, only named ones: the run's own files may be of another model."""
    return [side for side, name in ENDPOINTS.items() if os.environ.get(name)] or serving.sides(run)


def endpoint(run: Run | None, side: str, parallel: int) -> Endpoint:
    if address := os.environ.get(ENDPOINTS[side]):
        url, model = urldefrag(address)
        return Endpoint(url, key_for(url), model)
    file = serving.gguf_file(run, side)
    return _started(run, side, parallel, str(run and run.path), str(file), file.stat().st_mtime_ns)[0]


@st.cache_resource(max_entries=2, on_release=lambda started: started[1].close(), show_spinner=False)
def _started(
    _run: Run | None, side: str, parallel: int, path: str, file: str, changed: int
) -> tuple[Endpoint, ExitStack]:
    """A server and what closes it. The last three are the cache's key: a new file is a new model."""
    server = ExitStack()
    return server.enter_context(serving.local_server(_run, side, parallel)), server


@st.cache_resource
def _queue(slots: int) -> tuple[threading.Condition, list[object]]:
    """Who has asked, in order: the first `slots` are being answered, the others wait. One for each number of slots."""
    return threading.Condition(), []


@contextmanager
def slot(slots: int) -> Iterator[None]:
    """One of `slots` concurrent questions, first come, first served; InputError when none becomes free in time."""
    changed, asked = _queue(slots)
    note, deadline, reader = st.empty(), time.monotonic() + WAIT_SECONDS, object()
    with changed:
        asked.append(reader)
    try:
        while True:
            with changed:
                changed.wait_for(lambda: asked.index(reader) < slots, min(POLL_SECONDS, WAIT_SECONDS))
                before = asked.index(reader) - slots
            if before < 0:
                break
            if time.monotonic() > deadline:
                raise InputError(f"no free slot (at most {slots} concurrent): try again shortly")
            # Drawing also ends the wait of a reader who has left.
            note.caption(f"Waiting for a free slot (at most {slots} concurrent; {before} before you) …")
        note.empty()
        yield
    finally:
        with changed:
            asked.remove(reader)
            changed.notify_all()
