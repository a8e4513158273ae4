"""How many clients a server holds: `python -m helpers serve` under load, by the official client.

    python benchmarks/serving.py URL FILE.json [--clients 1,4,16,50] [--each 2] [--limit 64]

Every client asks `each` of the packaged questions, one after the other, up to `limit` new tokens, all of them streamed.
Time to the first token counts from the request, so it has the wait for a place in it. AI_DOCTOR_API_KEY is the key.
"""

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import openai
import typer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from helpers.dataset_prep import SAMPLE
from helpers.run_dir import read_jsonl, versions, write_json
from helpers.setup import describe_machine


def main(url: str, out: Path, clients: str = "1,4,16,50", each: int = 2, limit: int = 64) -> None:
    """Ask with every number of clients in turn, print what they met, and write it."""
    questions = [row["Question"] for row in read_jsonl(SAMPLE)]
    results = {}
    for number in map(int, clients.split(",")):
        results[number] = found = asyncio.run(load(url, questions, number, each, limit))
        first, seconds = found["first_token_seconds"], found["request_seconds"]
        print(
            f"{number:4} clients  {found['tokens_per_second']:6.1f} tokens/s  first token {first['median']:6.2f} s "
            f"(95th percentile {first['p95']:6.2f})  request {seconds['median']:6.2f} s  {found['errors']} errors",
            flush=True,
        )
    machine = {"hardware": describe_machine().model_dump(), "versions": versions()}
    write_json(out, {**machine, "settings": {"each": each, "limit": limit}, "results": results})


async def load(url: str, questions: list[str], clients: int, each: int, limit: int) -> dict[str, Any]:
    """What `clients` at once meet: tokens a second of all together, waits in seconds, and how many requests failed."""
    firsts, seconds, tokens, errors = [], [], 0, []

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

    async with openai.AsyncOpenAI(
        base_url=url, api_key=os.environ.get("AI_DOCTOR_API_KEY", "none"), max_retries=0
    ) as connection:
        name = (await connection.models.list()).data[0].id
        started = time.monotonic()
        await asyncio.gather(*map(client, range(clients)))
        whole = time.monotonic() - started
    return {
        "requests": clients * each,
        "errors": len(errors),
        "first_errors": errors[:3],
        "tokens_per_second": tokens / whole,
        "first_token_seconds": _spread(firsts),
        "request_seconds": _spread(seconds),
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "median": float(np.median(values)),
        "p95": float(np.percentile(values, 95)),
        "max": max(values, default=float("nan")),
    }


if __name__ == "__main__":
    typer.run(main)
