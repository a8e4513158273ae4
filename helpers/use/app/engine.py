"""What answers a question: a server for each side, started once for all readers, and who may use it when."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urldefrag

import streamlit as st

from helpers import InputError
from helpers.run_dir import Run
from helpers.use import server as serving
from helpers.use.client import Endpoint, key_for

# Servers that run already, as http://127.0.0.1:8000/v1 or, where one has several models, with #NAME behind it.
ENDPOINTS = {"base": "AI_DOCTOR_BASE_ENDPOINT", "tuned": "AI_DOCTOR_TUNED_ENDPOINT"}
WAIT_SECONDS, LOOK_SECONDS = 60.0, 2.0


def sides(run: Run | None) -> list[str]:
    """What can be asked. As soon as one side's server is named, those alone: others might be of another model."""
    return [side for side, name in ENDPOINTS.items() if os.environ.get(name)] or serving.sides(run)


def endpoint(run: Run | None, side: str, parallel: int) -> Endpoint:
    """The server for a side; llama.cpp, where none is named, in this process and until it ends."""
    address = os.environ.get(ENDPOINTS[side])
    if address:
        return _named(address)
    file = serving.gguf_file(run, side)
    return _started(run, side, parallel, str(run and run.path), str(file), file.stat().st_mtime_ns)[0]


@st.cache_resource(show_spinner=False)
def _named(address: str) -> Endpoint:
    url, model = urldefrag(address)
    return Endpoint(url, key_for(url), model)


@st.cache_resource(max_entries=2, on_release=lambda started: started[1].close(), show_spinner="Loading the model …")
def _started(
    _run: Run | None, side: str, parallel: int, path: str, file: str, changed: int
) -> tuple[Endpoint, ExitStack]:
    """A server and what ends it. The last three stand for the run among the cache's keys: a new file is a new model."""
    server = ExitStack()
    return server.enter_context(serving.local_server(_run, side, parallel)), server


@st.cache_resource
def _places(number: int) -> threading.BoundedSemaphore:
    return threading.BoundedSemaphore(number)


@contextmanager
def place(number: int) -> Iterator[None]:
    """One of `number` places for a question that is being answered; InputError when none gets free in time."""
    places, note, until = _places(number), st.empty(), time.monotonic() + WAIT_SECONDS
    while not places.acquire(timeout=min(LOOK_SECONDS, WAIT_SECONDS)):
        if time.monotonic() > until:
            raise InputError(f"all places are taken ({number} at once): try again in a moment")
        note.caption(f"Waiting for a place: {number} at once …")  # to draw ends the wait of a reader who has left
    try:
        note.empty()
        yield
    finally:
        places.release()
