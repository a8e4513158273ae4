"""What `python -m helpers serve` does under load and how fast it is, by the official client.

    python benchmarks/serving.py load URL FILE.json [--clients 1,4,16,50] [--each 2] [--limit 64]
    python benchmarks/serving.py pinned FILE.json [--clients 1,10,50,100] [--server-cores 0] [--client-cores 1]
    python benchmarks/serving.py engine FILE.json --engine vllm [--model FOLDER | --run-dir RUN [--base]]

`load` asks a server that runs: every client asks `each` of the packaged questions, one after the other, up to `limit`
new tokens, all of them streamed. Time to the first token counts from the request, so it has the wait for a place in it.
AI_DOCTOR_API_KEY is the key. During the load `/health` is asked twice a second.

`pinned` is `load` against a server that it starts itself, in a process group of its own and on cores of its own (Linux;
both empty: wherever the system likes). `app.py` beside this file does the same for the Streamlit app.

`engine` starts the server itself and, beside the load of 50 clients, looks at what it must keep (the reasoning apart, a
question's special tokens as text) and, of vLLM, measures decoding on the prompts of `decoding.py`, all at once, each to
its limit. FOLDER is a merged model's. What the server prints goes to FILE.log. Exit status 1 where a check fails.
"""

import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import typer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from helpers import PROJECT_ROOT
from helpers.files import read_jsonl, write_json
from helpers.machine.hardware import describe_machine
from helpers.models.loading import load_tokenizer
from helpers.prompts.chat_template import chat_template
from helpers.prompts.encoding import encode_prompt, special_strings
from helpers.run_dir.folder import Run, open_run, versions

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
SAMPLE = PROJECT_ROOT / "helpers/data/sample.jsonl"
KEY = os.environ.get("AI_DOCTOR_API_KEY", "none")


@app.command("load")
def put_under_load(url: str, out: Path, clients: str = "1,4,16,50", each: int = 2, limit: int = 64) -> None:
    """Ask with every number of clients in turn, print what they met, and write it."""
    results = {number: measured(url, number, each, limit) for number in map(int, clients.split(","))}
    write_json(out, {**machine(), "settings": {"each": each, "limit": limit}, "results": results})


@app.command("pinned")
def put_a_pinned_server_under_load(
    out: Path,
    clients: str = "1,10,50,100",
    each: int = 2,
    limit: int = 32,
    server_cores: str = "0",
    client_cores: str = "1",
    port: int = 8012,
    options: str = "--base",
) -> None:
    """The same with a server started here, whose options are those of `serve`."""
    on(client_cores)
    with serving([*options.split(), "--port", str(port)], out.with_suffix(".log"), port, 300, server_cores) as seconds:
        numbers = map(int, clients.split(","))
        results = {number: measured(f"http://127.0.0.1:{port}/v1", number, each, limit) for number in numbers}
    settings = {"each": each, "limit": limit, "options": options, "server_cores": server_cores}
    settings |= {"client_cores": client_cores, "load_average_before": os.getloadavg()[2]}
    write_json(out, {**machine(), "settings": settings, "start_seconds": seconds, "results": results})


def on(cores: str) -> None:
    """Keep this process on some cores, like "0" or "0,1"; empty leaves it where it is."""
    if cores:
        os.sched_setaffinity(0, map(int, cores.split(",")))


@app.command("engine")
def try_engine(
    out: Path,
    engine: str = "vllm",
    model: str = "",
    run_dir: str = "",
    base: bool = False,
    port: int = 8011,
    prompts: int = 96,
    limit: int = 256,
    clients: int = 50,
    start_seconds: int = 420,
    options: str = "",
) -> None:
    """Start the server, check it, put it under load, measure decoding; write what was found after each step."""
    with tempfile.TemporaryDirectory() as folder:
        if model:
            run = run_of(model, Path(folder))
        else:  # the embedded model, where no run is named
            run = open_run("auto" if run_dir else "laptop", Path(run_dir or folder).resolve())
        words = ["--run-dir", str(run.path), "--engine", engine, "--port", str(port), *options.split()]
        found: dict[str, Any] = {**machine(), "settings": {"engine": engine, "model": model or run.config.model.name}}
        with serving([*words, *(["--base"] if base else [])], out.with_suffix(".log"), port, start_seconds) as seconds:
            url = f"http://127.0.0.1:{port}/v1"
            found["start_seconds"] = seconds
            steps = {"checks": lambda: check(url, run), "load": lambda: measured(url, clients, 2, 64)}
            if engine == "vllm":  # the door before llama.cpp takes conversations alone, no token ids
                steps["decoding"] = lambda: decoding(url, run, prompts, limit)
                steps["ending"] = lambda: [ending(url, run, places, limit) for places in (8, 32, 96)]
            for name, step in steps.items():
                found[name] = step()
                print(name, found[name], flush=True)
                write_json(out, found)
    failed = [name for name, passed in found["checks"].items() if passed is False]
    failed += ["load"] if found["load"]["errors"] else []
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def run_of(model: str, folder: Path) -> Run:
    """A run folder whose merged model is the one in a folder."""
    run = open_run("smoke", folder, {"model.name": model})
    (run / "export").mkdir()
    (run / "export/merged").symlink_to(Path(model).resolve(), target_is_directory=True)
    return run


@contextmanager
def serving(words: list[str], log: Path, port: int, patience: float, cores: str = "") -> Iterator[float]:
    """The server in a process group of its own; gives the seconds until it was healthy, and ends it."""
    started = time.monotonic()
    with open(log, "wb") as file:
        command = [sys.executable, "-m", "helpers", "serve", *words]
        how = {"stdout": file, "stderr": subprocess.STDOUT, "process_group": 0, "preexec_fn": partial(on, cores)}
        process = subprocess.Popen(command, cwd=PROJECT_ROOT, **how)
        try:
            while not healthy(port):
                if process.poll() is not None or time.monotonic() - started > patience:
                    raise SystemExit(f"the server did not start; the end of {log}:\n{log.read_text()[-3000:]}")
                time.sleep(0.5)
            yield time.monotonic() - started
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


def check(url: str, run: Run) -> dict[str, Any]:
    """What clients rely on: True or False by name, and what was seen."""
    client = openai.OpenAI(base_url=url, api_key=KEY, max_retries=0)
    tokenizer, name = load_tokenizer(run.config.model), client.models.list().data[0].id

    def asked(question: str, **how: Any) -> Any:
        talk = [{"role": "user", "content": question}]
        return client.chat.completions.create(model=name, messages=talk, temperature=1, seed=1, max_tokens=24, **how)

    def reasoning(message: Any) -> str:
        more = message.model_extra or {}
        return more.get("reasoning_content") or more.get("reasoning") or ""

    reply = asked("Which nerve is compressed in carpal tunnel syndrome?").choices[0].message
    deltas = [c.choices[0].delta for c in asked("Which nerve is compressed?", stream=True) if c.choices]
    special = "".join(sorted(special_strings(tokenizer)))
    template = chat_template(tokenizer, run.config.model.prompt_style)
    expected = {
        question: tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], chat_template=template, add_generation_prompt=True, tokenize=True
        )["input_ids"]
        for question in ("harmless", special)
    }
    added = {i for text, i in tokenizer.get_added_vocab().items() if text.strip()}
    marks = [[i for i in ids if i in added] for ids in expected.values()]
    counted = {question: asked(question).usage.prompt_tokens for question in expected}
    return {
        "reasoning_comes_apart": bool(reasoning(reply)),
        "streamed_reasoning_comes_apart": sum(bool(reasoning(delta)) for delta in deltas) > 1,
        "no_tag_in_the_answer": "think>" not in (reply.content or "") + "".join(d.content or "" for d in deltas),
        "special_tokens_stay_text": marks[0] == marks[1],
        "prompts_have_the_tokenizers_tokens": all(counted[q] == len(ids) for q, ids in expected.items()),
        "prompt_tokens": {"server": list(counted.values()), "tokenizer": [len(ids) for ids in expected.values()]},
        "reply": {"reasoning": reasoning(reply)[:200], "content": (reply.content or "")[:200]},
    }


def decoding(url: str, run: Run, prompts: int, limit: int) -> dict[str, float]:
    """New tokens a second over all prompts of `decoding.py` at once, none of which may end before the limit."""
    return {"prompts": prompts, "limit": limit, **answered(url, run, [limit] * prompts, prompts, 0)}


def ending(url: str, run: Run, places: int, limit: int, mean: int = 50) -> dict[str, float]:
    """New tokens a second in replies that end unequally, as in `engines.py`: two prompts a place, as many at once.

    The lengths are drawn beforehand (exponentially, at most `limit`), since random weights end no reply.
    """
    draw = random.Random(places)
    lengths = [min(limit, 1 + int(draw.expovariate(1 / mean))) for _ in range(2 * places)]
    return {"places": places, **answered(url, run, lengths, places, 1)}


def answered(url: str, run: Run, lengths: list[int], places: int, temperature: float) -> dict[str, float]:
    """Tokens and seconds of a reply of each of these lengths, `places` at once, longest prompt first; run twice."""
    tokenizer, rows = load_tokenizer(run.config.model), read_jsonl(SAMPLE)
    asked = [encode_prompt(tokenizer, rows[i % len(rows)]["Question"]) for i in range(len(lengths))]
    asked.sort(key=len, reverse=True)

    async def whole() -> int:
        room = asyncio.Semaphore(places)
        async with openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0, timeout=600) as client:
            how = {"model": (await client.models.list()).data[0].id, "temperature": temperature}

            async def one(ids: list[int], length: int) -> int:
                extra = {"ignore_eos": True}
                async with room:
                    reply = await client.completions.create(prompt=ids, max_tokens=length, extra_body=extra, **how)
                return reply.usage.completion_tokens

            return sum(await asyncio.gather(*map(one, asked, lengths)))

    asyncio.run(whole())  # the first starts kernels
    started = time.monotonic()
    tokens = asyncio.run(whole())
    seconds = time.monotonic() - started
    return {"tokens": tokens, "seconds": seconds, "tokens_per_second": tokens / seconds}


def machine() -> dict[str, Any]:
    return {"hardware": describe_machine().model_dump(), "versions": versions()}


def measured(url: str, clients: int, each: int, limit: int) -> dict[str, Any]:
    """What so many clients met, which is printed."""
    found = asyncio.run(load(url, [row["Question"] for row in read_jsonl(SAMPLE)], clients, each, limit))
    first, seconds = found["first_token_seconds"], found["request_seconds"]
    print(
        f"{clients:4} clients  {found['tokens_per_second']:6.1f} tokens/s  first token {first['p50']:6.2f} s "
        f"(p95 {first['p95']:6.2f}, p99 {first['p99']:6.2f})  request {seconds['p50']:6.2f} s "
        f"(p95 {seconds['p95']:6.2f})  health at most {found['health_seconds']['max']:.2f} s  {found['errors']} errors",
        flush=True,
    )
    return found


async def load(url: str, questions: list[str], clients: int, each: int, limit: int) -> dict[str, Any]:
    """What `clients` at once meet: tokens a second of all together, waits in seconds, and how many requests failed."""
    firsts, seconds, health, tokens, errors = [], [], [], 0, []

    async def ask_health() -> None:
        async with httpx.AsyncClient(timeout=60) as asker:
            while True:
                asked = time.monotonic()
                try:
                    (await asker.get(url.removesuffix("/v1") + "/health")).raise_for_status()
                except httpx.HTTPError as error:
                    errors.append(f"health: {error!r}")
                health.append(time.monotonic() - asked)
                await asyncio.sleep(0.5)

    async def client(number: int) -> None:
        nonlocal tokens
        for turn in range(each):
            question = questions[(number * each + turn) % len(questions)]
            started, first = time.monotonic(), None
            try:
                stream = await connection.chat.completions.create(
                    model=name, messages=[{"role": "user", "content": question}], max_tokens=limit, stream=True,
                    stream_options={"include_usage": True},
                )  # fmt: skip
                async for chunk in stream:
                    first = first or time.monotonic()
                    tokens += chunk.usage.completion_tokens if chunk.usage else 0
            except openai.APIError as error:
                errors.append(str(error))
                continue
            firsts.append(first - started)
            seconds.append(time.monotonic() - started)

    async with openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as connection:
        name = (await connection.models.list()).data[0].id
        started, asking = time.monotonic(), asyncio.create_task(ask_health())
        await asyncio.gather(*map(client, range(clients)))
        whole = time.monotonic() - started
        asking.cancel()
    return {
        "requests": clients * each,
        "errors": len(errors),
        "first_errors": errors[:3],
        "tokens_per_second": tokens / whole,
        "first_token_seconds": spread(firsts),
        "request_seconds": spread(seconds),
        "health_seconds": spread(health),
    }


def spread(values: list[float]) -> dict[str, float | None]:
    """Percentiles; None where nothing was measured."""
    found = {f"p{n}": float(np.percentile(values, n)) if values else None for n in (50, 95, 99)}
    return found | {"max": max(values, default=None)}


if __name__ == "__main__":
    app()
