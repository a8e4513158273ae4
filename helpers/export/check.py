"""Does an exported file still say the same? llama.cpp with a GGUF file beside transformers with the merged folder."""

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from statistics import fmean
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import psutil

from helpers.files import read_jsonl
from helpers.generation import generate_in_batches
from helpers.losses import token_nlls
from helpers.machine import GIB, describe_machine
from helpers.models.loading import compute_dtype, load_tokenizer
from helpers.prompts.encoding import encode_example, encode_prompt
from helpers.run_dir import Run
from helpers.statistics import nats_apart, paired_difference

# Nats a token by which a file's mean loss may differ from the merged model's. Of a tuned SmolLM2-135M, on 512 tokens:
# f16 -0.0001, q8_0 +0.001 and q4_k_m +0.049, with standard errors of 0.0002, 0.004 and 0.015; a larger model loses less
# by rounding. Where the merged model has to compute in bfloat16, that adds its own noise.
BOUNDS = {"f16": 0.02, "q8_0": 0.03, "q4_k_m": 0.2}
FORCE = 1000.0  # added to a token's logit, which float32 then still knows to 6e-5
MARGIN = 20.0  # nats: the lesser of two forced tokens is drawn once in 5e8, and not lost among float32's smallest


@dataclass(frozen=True)
class Reference:
    """The merged model's word, from transformers; lists of token ids all.

    `replies` are its greedy ones to `prompts`. `rows` are validation rows, prompt and completion, and `nlls` the losses
    in nats of the last few tokens of each, of which the very last ends the sequence.
    """

    prompts: list[list[int]]
    replies: list[list[int]]
    rows: list[list[int]]
    nlls: list[list[float]]


def reference(
    run: Run, questions: Sequence[str], max_new_tokens: int = 32, rows: int = 8, last_tokens: int | None = None
) -> Reference | None:
    """Greedy replies to `questions`, and losses over the `last_tokens` of the `rows` shortest validation rows.

    Where there are too few of these for an interval, training rows make up the number: any text compares two programs.

    The same tokens are compared in both programs, so that a few show a small difference: 64, or 16 of a model beyond
    2 GiB, of which llama.cpp makes one or two a second on two cores. None where the model does not fit in memory.
    """
    import torch
    from transformers import AutoModelForCausalLM

    merged, machine = run.require("export/merged", "the merging step of 06_export"), describe_machine()
    on_gpu = machine.gpu_free_gib or 0
    size = sum(file.stat().st_size for file in merged.glob("*.safetensors"))  # in 16 bit
    # llama.cpp adds up in float32 too; a T4 has no room for an 8B model in it.
    exact = 2 * size / GIB < 0.8 * on_gpu
    dtype = torch.float32 if exact else getattr(torch, compute_dtype(run.config))
    if _too_large(size * dtype.itemsize / 2, on_gpu):
        return None
    if last_tokens is None:
        last_tokens = 64 if size < 2 * GIB else 16
    validation = read_jsonl(run.require("data/validation.jsonl", "03_dataset_prep"))
    tokenizer, style = load_tokenizer(run.config.model), run.config.model.prompt_style
    prompts = [encode_prompt(tokenizer, question, style) for question in questions]
    if len(validation) < rows:
        validation += read_jsonl(run.require("data/train.jsonl", "03_dataset_prep"))[: rows - len(validation)]
    encoded = (encode_example(tokenizer, row, run.config.model.max_length, style) for row in validation)
    shortest = sorted((row for row in encoded if row), key=lambda row: len(row["input_ids"]))[:rows]
    for row in shortest:
        row["labels"] = [-100] * len(row["labels"][:-last_tokens]) + row["labels"][-last_tokens:]
    # What does not fit on the GPU stays in main memory; without one there is only that.
    device_map = "auto" if machine.gpu else None
    model = AutoModelForCausalLM.from_pretrained(merged, dtype=dtype, device_map=device_map).eval()
    greedy = run.config.generation.model_copy(
        update={"temperature": 0, "max_new_tokens": max_new_tokens, "batch_size": 1}  # padding would change rounding
    )
    replies: dict[int, list[int]] = {}
    generate_in_batches(model, tokenizer, prompts, greedy, run.config.seed, range(len(prompts)), replies.__setitem__)
    nlls = token_nlls(model, shortest, tokenizer.pad_token_id, "rows of the merged model")
    return Reference(prompts, [replies[i] for i in range(len(prompts))], [row["input_ids"] for row in shortest], nlls)


def check_file(run: Run, gguf: Path, reference: Reference | None) -> dict[str, Any]:
    """Load a GGUF file with llama.cpp and compare it with the merged model.

    `passes`: that the mean loss differs by no more than the kind's bound is shown (by its 95% interval), the file's
    end-of-sequence token is the tokenizer's, and every reply ends there. None where the file or the merged model does
    not fit in memory. `verdict` says so, and tells what fails from what too few tokens cannot show. The greedy
    agreement is there to be read and has no bound: a near-tie that rounding tips makes two good replies part early.

    The loss is llama.cpp's own, so it holds weights, kernels and the file's shape of the model together, on a few
    hundred tokens. It does not show what rounding does to long replies or to answers: 05_evaluation asks the adapter.
    """
    kind = gguf.stem.removeprefix("model-")
    reason = _too_large(gguf.stat().st_size) if reference else "the merged model does not fit in memory"
    if reason:
        return {"passes": None, "verdict": f"not checked: {reason}"}
    tokenizer = load_tokenizer(run.config.model)
    with llama_server(gguf, max(2048, run.config.model.max_length)) as server:
        end_token = _end_token(server)
        greedy = _greedy_agreement(server, reference)
        nll = _nll_difference(server, reference) | {"bound": BOUNDS[kind]}
        ends = _ends(server, reference, tokenizer.eos_token_id)
    low, high = nll["ci95"] or (-math.inf, math.inf)
    verdict = "passes" if max(-low, high) <= nll["bound"] else "not shown to pass"
    if max(low, -high) > nll["bound"] or end_token != tokenizer.eos_token or ends["stopped"] < ends["rows"]:
        verdict = "fails"
    found = {"nll": nll, "end_token": end_token, "ends": ends, "greedy": greedy}
    return {"passes": verdict == "passes", "verdict": verdict, **found}


def _too_large(size: float, elsewhere_gib: float = 0) -> str:
    """Why so many bytes of weights cannot be loaded into free memory, and `elsewhere_gib` on a GPU; "" if they can."""
    free = psutil.virtual_memory().available / GIB
    fits = size / GIB <= 0.8 * free + elsewhere_gib
    return "" if fits else f"{size / GIB:.1f} GiB to load, {free + elsewhere_gib:.1f} GiB of memory free"


def choose_file(checks: Mapping[str, dict[str, Any]], files: Mapping[str, Path]) -> Path:
    """The file to use, of `files` and their `checks` by kind: the smallest that passes; where none does, the smallest
    that was not checked, since the machine that cannot load them is small; else f16, rounded least."""
    for verdict in (True, None):
        if alike := [files[kind] for kind, check in checks.items() if check["passes"] is verdict]:
            return min(alike, key=lambda file: file.stat().st_size)
    return files["f16"]


def checks_table(checks: Mapping[str, dict[str, Any]]) -> list[dict[str, str]]:
    """Each file's check in words, for a table."""
    rows = []
    for kind, check in checks.items():
        row = {"file": kind, "verdict": check["verdict"]}
        if check["passes"] is None:
            rows.append(row)
            continue
        nll, greedy, ends = check["nll"], check["greedy"], check["ends"]
        row |= {
            "NLL minus merged (95% interval)": nats_apart(nll["difference"], nll["ci95"], 4),
            "bound": f"{nll['bound']:g}",
        }
        row["n"] = f"{nll['rows']} rows, {nll['tokens']} tokens"
        row["tokens before the first other"] = f"{greedy['same']:.0%} of {greedy['tokens']}"
        rows.append(row | {"stops at the end": f"{ends['stopped']} of {ends['rows']}"})
    return rows


def answer_from(run: Run, gguf: Path, question: str, max_new_tokens: int = 512) -> dict[str, Any]:
    """One question put to the exported file through llama.cpp, as a user of it would; greedy, on the CPU.

    At most as long as the run's replies, and no longer than `max_new_tokens`: on two cores an 8B model is slow.
    """
    tokenizer = load_tokenizer(run.config.model)
    prompt = encode_prompt(tokenizer, question, run.config.model.prompt_style)
    with llama_server(gguf) as server:
        reply = complete(server, prompt, min(max_new_tokens, run.config.generation.max_new_tokens))
    return {"question": question, "reply": reply.text, "tokens": len(reply.tokens), "stopped": reply.stopped}


@contextmanager
def llama_server(gguf: Path, context: int = 2048) -> Iterator[Any]:
    """llama.cpp in this process, with the model loaded."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(gguf)
    params.n_ctx, params.n_parallel, params.warmup, params.verbosity = context, 1, False, -1
    server = xllamacpp.Server(params)
    try:
        yield server
    finally:
        del server  # frees the model; the class has no close()


@dataclass(frozen=True)
class Completion:
    """llama.cpp's reply: its text, and all its tokens with the end-of-sequence token if it came."""

    text: str
    tokens: list[int]
    stopped: bool  # ended by itself


def complete(server: Any, prompt: Sequence[int], max_new_tokens: int, forced: int | None = None) -> Completion:
    """llama.cpp's greedy reply to token ids, or `forced`, a token to answer with whatever its probability.

    From its own endpoint, which names all tokens; the OpenAI-style one leaves out those that begin a character.
    """
    bias = {} if forced is None else {forced: FORCE}
    reply = _complete(server, prompt, bias, n_predict=max_new_tokens, temperature=0, return_tokens=True)
    return Completion(reply["content"], reply["tokens"], reply["stop_type"] == "eos")


def token_loss(server: Any, prompt: Sequence[int], token: int, whole: int) -> float:
    """llama.cpp's loss of `token` after a prompt, in nats, by the model's own probabilities.

    llama.cpp reports the probability of the token that it answers with, so `token` is forced. Where it only begins a
    character, as of an arrow or of Chinese, llama.cpp waits for the rest and reports nothing. Such a token is weighed
    against `whole`, any token that is reported: both are lifted above all others, `whole` so far that its weight is
    MARGIN nats and it is the answer, and their probabilities after that tell one from the other.
    """
    reply = _complete(server, prompt, {token: FORCE}, n_predict=1, temperature=0, n_probs=1)
    if reported := reply.get("completion_probabilities"):
        return -reported[0]["logprob"]
    if token == whole:
        raise RuntimeError(f"llama.cpp reports no probability of token {token}")
    lift = FORCE + MARGIN + token_loss(server, prompt, whole, whole)
    sampling = {"temperature": 1, "samplers": ["temperature"], "post_sampling_probs": True}
    reply = _complete(server, prompt, {token: FORCE, whole: lift}, n_predict=1, n_probs=2, **sampling)
    shares = {each["id"]: each["prob"] for each in reply["completion_probabilities"][0]["top_probs"]}
    return math.log(shares[whole] / max(shares[token], sys.float_info.min)) - MARGIN


def _complete(server: Any, prompt: Sequence[int], bias: Mapping[int, float], **settings: Any) -> dict[str, Any]:
    request = {"prompt": list(prompt), "logit_bias": list(bias.items()), **settings}
    try:
        return _ask(server, "completion", request)
    except HTTPError as error:
        raise RuntimeError(f"llama.cpp refused the prompt: {error.read().decode(errors='replace')}") from None


def _ask(server: Any, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """What the server answers to a GET, or to a POST of `body`."""
    data = None if body is None else json.dumps(body).encode()
    request = Request(f"{server.listening_address}/{path}", data, {"Content-Type": "application/json"})
    direct = build_opener(ProxyHandler({}))  # a proxy for the internet cannot reach this machine
    with direct.open(request) as answer:
        return json.load(answer)


def _greedy_agreement(server: Any, reference: Reference) -> dict[str, Any]:
    """`same` is the share of tokens up to and without the first that differs, over all prompts: past that one the two
    answer different texts. A share near 0 is a fault: a wrong template, a wrong tokenizer, broken weights.
    """
    rows = []
    for prompt, ours in zip(reference.prompts, reference.replies, strict=True):
        theirs = complete(server, prompt, len(ours)).tokens
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ours, theirs, strict=False)))
        rows.append((same, len(ours)))
    tokens = sum(length for _, length in rows)
    return {
        "prompts": len(rows),
        "tokens": tokens,
        "same": sum(same for same, _ in rows) / tokens,
        "prompts_all_same": sum(same == length for same, length in rows),
    }


def _nll_difference(server: Any, reference: Reference) -> dict[str, Any]:
    """Mean losses in nats a token of both, over the same tokens; rows are the units, since a row's tokens are alike."""
    merged, ours = [], []
    for row, nlls in zip(reference.rows, reference.nlls, strict=True):
        places = range(len(row) - len(nlls), len(row))
        merged.append(fmean(nlls))
        ours.append(fmean(token_loss(server, row[:i], row[i], whole=row[-1]) for i in places))
    found = paired_difference(merged, ours)
    return {
        "rows": found["n"],
        "tokens": sum(map(len, reference.nlls)),
        "merged": found["base"],
        "gguf": found["tuned"],
        "difference": found["delta"],
        "ci95": found["delta_ci95"],
    }


def _ends(server: Any, reference: Reference, end: int) -> dict[str, int]:
    """At the end of each row: where the end-of-sequence token comes, by itself or forced, does llama.cpp stop there,
    without writing it out? `by_itself` is what the model knows, `stopped` what the file's metadata make of it.
    """
    by_itself = stopped = 0
    for row in reference.rows:
        reply = complete(server, row[:-1], 1)
        if reply.tokens == [end]:
            by_itself += 1
        else:
            reply = complete(server, row[:-1], 1, forced=end)
        stopped += reply.stopped and not reply.text
    return {"rows": len(reference.rows), "by_itself": by_itself, "stopped": stopped}


def _end_token(server: Any) -> str:
    """The text of the token that ends a sequence, by the file's metadata as llama.cpp has read them."""
    return _ask(server, "props")["eos_token"]
