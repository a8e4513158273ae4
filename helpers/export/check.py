"""Does an exported file compute what the merged model computes? llama.cpp and transformers, on the same tokens."""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import httpx
import psutil

from helpers.files import read_jsonl
from helpers.losses import token_nlls
from helpers.machine.hardware import GIB, describe_machine, llama_cpp_threads
from helpers.models.loading import compute_dtype, load_tokenizer
from helpers.prompts.encoding import encode_example, encode_prompt
from helpers.run_dir.folder import Run
from helpers.scoring.statistics import nats_apart, paired_difference

# Nats a token by which a file's mean loss may differ from the merged model's. Of a tuned SmolLM2-135M, on 512 tokens:
# f16 -0.0001, q8_0 +0.001 and q4_k_m +0.049, with standard errors of 0.0002, 0.004 and 0.015; a larger model loses less
# by quantisation. Where the merged model has to compute in bfloat16, that adds its own noise.
BOUNDS = {"f16": 0.02, "q8_0": 0.03, "q4_k_m": 0.2}
LONGEST = 512  # tokens of the file's answer: an 8B model is slow on two cores
FORCE = 1000.0  # added to a token's logit, which float32 then still resolves to 6e-5
MARGIN = 20.0  # nats: the lesser of two forced tokens is drawn once in 5e8, and does not underflow in float32


@dataclass(frozen=True)
class ReferenceOutputs:
    """What the merged model computes in transformers.

    `rows` are the token ids of validation rows, prompt and completion, and `nlls` the losses, in nats, of the last few
    tokens of each; the very last token ends the sequence.
    """

    rows: list[list[int]]
    nlls: list[list[float]]


def reference_outputs(run: Run, rows: int = 8, last_tokens: int | None = None) -> ReferenceOutputs | None:
    """Losses of the `last_tokens` of the `rows` shortest validation rows.

    Training rows make up the number where validation has too few for an interval. By default 64 tokens a row, or 16 of
    a model beyond 2 GiB, of which llama.cpp computes one or two a second on two cores. None where the model does not
    fit in memory.
    """
    import torch
    from transformers import AutoModelForCausalLM

    merged, machine = run.require("export/merged", "the merging step of 06_export"), describe_machine()
    on_gpu = machine.gpu_free_gib or 0
    size = sum(file.stat().st_size for file in merged.glob("*.safetensors"))  # in 16 bit
    # llama.cpp accumulates in float32 too; a T4 has no room for an 8B model in float32.
    exact = 2 * size / GIB < 0.8 * on_gpu
    dtype = torch.float32 if exact else getattr(torch, compute_dtype(run.config))
    if _too_large(size * dtype.itemsize / 2, on_gpu):
        return None
    if last_tokens is None:
        last_tokens = 64 if size < 2 * GIB else 16
    tokenizer, style = load_tokenizer(run.config.model), run.config.model.prompt_style
    examples = read_jsonl(run.require("data/validation.jsonl", "03_dataset_prep"))
    if len(examples) < rows:
        examples += read_jsonl(run.require("data/train.jsonl", "03_dataset_prep"))[: rows - len(examples)]
    encoded = (encode_example(tokenizer, row, run.config.model.max_length, style) for row in examples)
    shortest = sorted((row for row in encoded if row), key=lambda row: len(row["input_ids"]))[:rows]
    for row in shortest:
        row["labels"] = [-100] * len(row["labels"][:-last_tokens]) + row["labels"][-last_tokens:]
    # "auto" leaves in main memory what does not fit on the GPU.
    device_map = "auto" if machine.gpu else None
    model = AutoModelForCausalLM.from_pretrained(merged, dtype=dtype, device_map=device_map).eval()
    nlls = token_nlls(model, shortest, tokenizer.pad_token_id, "rows of the merged model")
    return ReferenceOutputs([row["input_ids"] for row in shortest], nlls)


def check_file(run: Run, gguf: Path, reference: ReferenceOutputs | None) -> dict[str, Any]:
    """Load a GGUF file with llama.cpp and compare it with the merged model.

    `passes` is True where the 95% interval of the difference in mean loss lies within the bound, the file's
    end-of-sequence token is the tokenizer's, and every row stops there; None where the file or the merged model does
    not fit in memory. `verdict` also separates a failure from too few tokens. It does not show what quantisation does
    to long replies or to answers.
    """
    kind = gguf.stem.removeprefix("model-")
    if reason := _too_large(gguf.stat().st_size) if reference else "the merged model does not fit in memory":
        return {"passes": None, "verdict": f"not checked: {reason}"}
    tokenizer = load_tokenizer(run.config.model)
    with llama_server(gguf, max(2048, run.config.model.max_length)) as server:
        end_token = server.get("props").json()["eos_token"]  # by the file's metadata
        nll = _nll_difference(server, reference) | {"bound": BOUNDS[kind]}
        ends = _ends(server, reference, tokenizer.eos_token_id)
    low, high = nll["ci95"] or (-math.inf, math.inf)
    verdict = "passes" if max(-low, high) <= nll["bound"] else "not shown to pass"
    if max(low, -high) > nll["bound"] or end_token != tokenizer.eos_token or ends["stopped"] < ends["rows"]:
        verdict = "fails"
    found = {"nll": nll, "end_token": end_token, "ends": ends}
    return {"passes": verdict == "passes", "verdict": verdict, **found}


def _too_large(size: float, gpu_gib: float = 0) -> str:
    """Why `size` bytes of weights do not fit into free memory and `gpu_gib` on a GPU; "" if they do."""
    free = psutil.virtual_memory().available / GIB
    fits = size / GIB <= 0.8 * free + gpu_gib
    return "" if fits else f"{size / GIB:.1f} GiB to load, {free + gpu_gib:.1f} GiB of memory free"


def choose_file(checks: Mapping[str, dict[str, Any]], files: Mapping[str, Path]) -> Path:
    """The file to use, by quantisation type: the smallest that passes; else the smallest that was not shown to fail,
    since a machine that could not check the others is small; else f16, which loses least."""
    passed = [files[kind] for kind, check in checks.items() if check["passes"]]
    doubtful = [files[kind] for kind, check in checks.items() if check["verdict"] != "fails"]
    return min(passed or doubtful or [files["f16"]], key=lambda file: file.stat().st_size)


def checks_table(checks: Mapping[str, dict[str, Any]]) -> list[dict[str, str]]:
    """A row of text for each file's check."""
    rows = []
    for kind, check in checks.items():
        row = {"file": kind, "verdict": check["verdict"]}
        if check["passes"] is not None:
            nll, ends = check["nll"], check["ends"]
            row |= {
                "NLL minus merged (95% interval)": nats_apart(nll["difference"], nll["ci95"], 4),
                "bound": f"{nll['bound']:g}",
                "n": f"{nll['rows']} rows, {nll['tokens']} tokens",
                "stops at the end": f"{ends['stopped']} of {ends['rows']}",
            }
        rows.append(row)
    return rows


def answer_from(run: Run, gguf: Path, question: str) -> dict[str, Any]:
    """The exported file's greedy reply to one question, by llama.cpp on the CPU."""
    tokenizer = load_tokenizer(run.config.model)
    prompt = encode_prompt(tokenizer, question, run.config.model.prompt_style)
    with llama_server(gguf) as server:
        reply = complete(server, prompt, min(LONGEST, run.config.generation.max_new_tokens))
    stopped = reply["stop_type"] == "eos"
    return {"question": question, "reply": reply["content"], "tokens": len(reply["tokens"]), "stopped": stopped}


@contextmanager
def llama_server(gguf: Path, context: int = 2048) -> Iterator[httpx.Client]:
    """llama.cpp in this process with the model loaded; yields a client of its HTTP server."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(gguf)
    params.n_ctx, params.n_parallel, params.warmup, params.verbosity = context, 1, False, -1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = llama_cpp_threads()
    server = xllamacpp.Server(params)
    # A proxy from the environment cannot reach this machine; an 8B model may take minutes for a reply.
    how = {"trust_env": False, "timeout": None, "limits": httpx.Limits(max_keepalive_connections=0)}
    try:
        with httpx.Client(base_url=server.listening_address, **how) as client:
            yield client
    finally:
        del server  # frees the model; the class has no close()


def complete(
    server: httpx.Client, prompt: Sequence[int], max_new_tokens: int, forced: int | None = None
) -> dict[str, Any]:
    """llama.cpp's greedy reply to token ids: `content`, `tokens` with the end-of-sequence token, and `stop_type`.

    `forced` is a token to reply with whatever its probability. The endpoint is llama.cpp's own, which returns all
    tokens; the OpenAI-compatible one leaves out those that begin a character.
    """
    bias = {} if forced is None else {forced: FORCE}
    return _complete(server, prompt, bias, n_predict=max_new_tokens, temperature=0, return_tokens=True)


def token_loss(server: httpx.Client, prompt: Sequence[int], token: int, whole: int) -> float:
    """llama.cpp's loss of `token` after a prompt, in nats, by the model's own probabilities.

    llama.cpp reports the probability of the token that it replies with, so `token` is forced. It reports nothing for a
    token that only begins a character, as of an arrow or of Chinese. Such a token is compared with `whole`, any token
    that is reported: both get a logit bias above all others, `whole` MARGIN nats more, and the ratio of their
    probabilities after that bias gives the loss.
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


def _complete(server: httpx.Client, prompt: Sequence[int], bias: Mapping[int, float], **settings: Any) -> Any:
    request = {"prompt": list(prompt), "logit_bias": list(bias.items()), **settings}
    reply = server.post("completion", json=request)
    if reply.is_error:
        raise RuntimeError(f"llama.cpp refused the prompt: {reply.text}")
    return reply.json()


def _nll_difference(server: httpx.Client, reference: ReferenceOutputs) -> dict[str, Any]:
    """Both mean losses in nats a token, over the same tokens. Rows are the units: tokens of one row are correlated."""
    merged, gguf = [], []
    for row, nlls in zip(reference.rows, reference.nlls, strict=True):
        positions = range(len(row) - len(nlls), len(row))
        merged.append(fmean(nlls))
        gguf.append(fmean(token_loss(server, row[:i], row[i], whole=row[-1]) for i in positions))
    found = paired_difference(merged, gguf)
    return {
        "rows": found["n"],
        "tokens": sum(map(len, reference.nlls)),
        "merged": found["base"],
        "gguf": found["tuned"],
        "difference": found["delta"],
        "ci95": found["delta_ci95"],
    }


def _ends(server: httpx.Client, reference: ReferenceOutputs, end: int) -> dict[str, int]:
    """Does llama.cpp stop at the end-of-sequence token, without printing it, after each row?

    `by_itself` counts rows after which the model generates it, as the model has learnt; elsewhere it is forced.
    `stopped` counts the rows where llama.cpp stops, as the file's metadata tell it to.
    """
    by_itself = stopped = 0
    for row in reference.rows:
        reply = complete(server, row[:-1], 1)
        if reply["tokens"] == [end]:
            by_itself += 1
        else:
            reply = complete(server, row[:-1], 1, forced=end)
        stopped += reply["stop_type"] == "eos" and not reply["content"]
    return {"rows": len(reference.rows), "by_itself": by_itself, "stopped": stopped}
