"""What readers of the Streamlit app meet, many at once, over the websocket and the protobuf messages of its own page.

    python benchmarks/app.py FILE.json [--readers 1,10,50] [--limit 32] [--server-cores 0] [--client-cores 1]

It starts `streamlit run app.py` in a process group and on cores of its own (Linux), with the embedded model behind it.
Every reader opens the page, sends one of the packaged questions by the form's button and reads until the reply is over.
No browser draws anything, so this is the server's share alone. A question that the app refuses is counted with what
the page says; `longest_silence` is the longest time without any message between the question and its end.
"""

import asyncio
import os
import re
import subprocess
import sys
import time
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any

import typer
import websockets
from serving import SAMPLE, machine, on, spread
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

from helpers import PROJECT_ROOT
from helpers.files import read_jsonl, write_json
from helpers.run_dir.folder import open_run
from helpers.use.app.engine import ENDPOINTS

OVER = re.compile(r"(\d+) tokens a second\\, (\d+) in all")  # the remark below a reply that is over
# As a browser does: it sends no pings, and waits.
WIRE: dict[str, Any] = {"subprotocols": ["streamlit"], "max_size": None, "open_timeout": 300, "ping_interval": None}
SILENCE = 120  # seconds without a message: nothing more will come
DULL = ("…", "None.")  # what stands where text will come


def main(
    out: Path,
    readers: str = "1,10,50",
    limit: int = 32,
    at_once: int = 4,
    server_cores: str = "0",
    client_cores: str = "1",
    port: int = 8013,
) -> None:
    on(client_cores)
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port)]
    command += ["--", "--at-once", str(at_once), "--run-dir", str(embedded_run(out, limit))]
    environment = {name: value for name, value in os.environ.items() if name not in ENDPOINTS.values()}
    with open(out.with_suffix(".log"), "wb") as log:
        how = {"stdout": log, "stderr": log, "process_group": 0, "preexec_fn": partial(on, server_cores)}
        process = subprocess.Popen(command, cwd=PROJECT_ROOT, env=environment, **how)
        try:
            wait_for(f"http://localhost:{port}/_stcore/health", process)
            asyncio.run(read(port, 0))  # loads the model
            results = {}
            for number in map(int, readers.split(",")):
                results[number] = asyncio.run(together(port, number))
                print(number, "readers", results[number], flush=True)
        finally:
            process.terminate()
            process.wait(60)
    settings = {"limit": limit, "at_once": at_once, "server_cores": server_cores, "client_cores": client_cores}
    settings |= {"load_average_before": os.getloadavg()[2]}
    write_json(out, {**machine(), "settings": settings, "results": results})


def embedded_run(out: Path, limit: int) -> Path:
    """A run folder without results, for which the app asks the embedded model, and its limit of new tokens."""
    return open_run("laptop", out.with_suffix(".run").resolve(), {"generation.max_new_tokens": limit}).path


def wait_for(url: str, process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    raise SystemExit("the app did not start")


async def together(port: int, readers: int) -> dict[str, Any]:
    started = time.monotonic()
    found = await asyncio.gather(*(read(port, number) for number in range(readers)))
    whole, answered = time.monotonic() - started, [each for each in found if not each["error"]]
    return {
        "readers": readers,
        "answered": len(answered),
        "errors": sorted({each["error"] for each in found if each["error"]}),
        "waited_in_the_queue": sum(each["queued"] for each in found),
        "tokens_per_second": sum(each["tokens"] for each in answered) / whole,
        "page_seconds": spread([each["page"] for each in found]),
        "first_token_seconds": spread([each["first"] for each in answered if each["first"]]),
        "reply_seconds": spread([each["end"] for each in answered]),
        "longest_silence": max(each["silence"] for each in found),
    }


async def read(port: int, number: int) -> dict[str, Any]:
    """One reader's question. All times in seconds: `page` until the page is drawn, the others since the question."""
    question, opened = read_jsonl(SAMPLE)[number % 100]["Question"], time.monotonic()
    found = {"error": "", "queued": False, "tokens": 0, "page": 0.0, "first": None, "end": 0.0, "silence": 0.0}
    try:
        address = f"ws://localhost:{port}/_stcore/stream"
        async with websockets.connect(address, **WIRE) as socket:
            await socket.send(BackMsg(rerun_script={}).SerializeToString())
            widgets: dict[str, str] = {}
            async for message in messages(socket):
                widgets |= named(message)
                if message.WhichOneof("type") == "script_finished":
                    break
            asked = last = time.monotonic()
            found["page"] = asked - opened
            await socket.send(question_of(widgets, question).SerializeToString())
            async for message in messages(socket):
                now = time.monotonic()
                found["silence"], last = max(found["silence"], now - last), now
                kind, text = shown(message)
                if kind == "alert":
                    found["error"] = text
                elif "Waiting for a free slot" in text:
                    found["queued"] = True
                elif kind == "text" and text not in (*DULL, question) and found["first"] is None:
                    found["first"] = now - asked
                elif kind == "markdown" and (over := OVER.search(text)):
                    found["tokens"] = int(over[2])
                elif text.startswith(("Broke off", "Stopped")):
                    found["error"] = text
                if found["error"] or found["tokens"]:
                    found["end"] = now - asked
                    break
    except (OSError, TimeoutError, websockets.WebSocketException) as error:
        found["error"] = f"{error!r} after {time.monotonic() - opened:.0f} s, queued: {found['queued']}"
    return found


async def messages(socket: Any) -> Any:
    while True:
        yield ForwardMsg.FromString(await asyncio.wait_for(socket.recv(), SILENCE))


def named(message: Any) -> dict[str, str]:
    """The id of the question's box or of the button, where the message draws it."""
    element = message.delta.new_element
    kind = element.WhichOneof("type")
    if kind == "text_area":
        return {"box": element.text_area.id}
    if kind == "button" and element.button.label == "Ask":
        return {"button": element.button.id}
    return {}


def question_of(widgets: dict[str, str], question: str) -> BackMsg:
    """The form as the page would send it."""
    message = BackMsg()
    states = message.rerun_script.widget_states.widgets
    states.add(id=widgets["box"], string_value=question)
    states.add(id=widgets["button"], trigger_value=True)
    return message


def shown(message: Any) -> tuple[str, str]:
    element = message.delta.new_element
    kind = element.WhichOneof("type") or ""
    return kind, getattr(getattr(element, kind, None), "body", "") if kind in ("text", "markdown", "alert") else ""


if __name__ == "__main__":
    typer.run(main)
