"""Serving a run's models to other programs by engines that exist: llama.cpp in this process, or vLLM on a GPU."""

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from helpers import PROJECT_ROOT, InputError
from helpers.config import Config
from helpers.files import read_json, write_text
from helpers.knowledge.index import Index
from helpers.machine.hardware import describe_machine, llama_cpp_threads
from helpers.models.loading import load_tokenizer, model_source
from helpers.models.packaged import embedded_gguf
from helpers.prompts.chat_template import chat_template
from helpers.prompts.families import END_THINK
from helpers.run_dir.folder import Run
from helpers.use.client import MAX_QUESTION, Endpoint, is_local
from helpers.use.proxy import Proxy

REASONING_PARSER = PROJECT_ROOT / "helpers/data" / "vllm_reasoning_parser.py"
GRACE_SECONDS = 5  # for the replies in progress when a server is stopped
REPLYING = r"^llamacpp:requests_(?:processing|deferred) (\d+)"  # in its metrics


@dataclass(frozen=True)
class ServerSettings:
    """`parallel` requests run concurrently, each in a context of `context` tokens; further requests are queued.

    None leaves either to the engine: vLLM measures its GPU, llama.cpp gets `fitted`.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str = field(default="", repr=False)
    parallel: int | None = None
    context: int | None = None

    def fitted(self, config: Config) -> "ServerSettings":
        """With 4 slots, and a context that holds the longest question and the longest reply of a run's settings."""
        longest_reply = max(config.model.max_length, config.generation.max_new_tokens)
        longest = MAX_QUESTION // 4 + longest_reply  # 4 letters a token
        return replace(self, parallel=self.parallel or 4, context=self.context or max(4096, longest))

    def __post_init__(self) -> None:
        """InputError where anybody on the network could use the server."""
        if not self.api_key and not is_local(self.host):
            raise InputError(f"listening on {self.host} requires an API key: pass --api-key, or set AI_DOCTOR_API_KEY")


def sides(run: Run | None) -> list[str]:
    """What llama.cpp can serve: "base" where its GGUF file is packaged, "tuned" once 06 has exported the run."""
    found = ["base"] if run is None or run.config.model.name == "embedded" else []
    return found + (["tuned"] if run and _exported(run) else [])


def gguf_file(run: Run | None, side: str) -> Path:
    """The file that llama.cpp loads for "base" or "tuned"; without a run there is only the embedded base model."""
    if side == "base":
        if run and run.config.model.name != "embedded":
            raise InputError(f"llama.cpp has no file of {run.config.model.name}: serve it with vLLM, or ask --base")
        return embedded_gguf()
    files = _exported(run)
    if not files:
        raise InputError(f"{run.label} has no GGUF file yet: run 06_export first")
    return files[0]


def _exported(run: Run) -> list[Path]:
    """The exported files: the one that 06 chose, then the smallest first, since each token reads all of a file."""
    report = run / "export/report.json"
    chosen = read_json(report).get("use") if report.is_file() else None
    return sorted((run / "export").glob("model-*.gguf"), key=lambda file: (file.name != chosen, file.stat().st_size))


@contextmanager
def llama_cpp(
    gguf: Path, template: str, settings: ServerSettings, name: str, cache_prompt: bool = True
) -> Iterator[Any]:
    """llama.cpp's own server in this process, at its `listening_address`. Leaving the block waits for its replies.

    With `cache_prompt` it computes only what is new in a prompt. InputError where it cannot load the file or listen.
    """
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.model_alias = str(gguf), {name}
    params.hostnames, params.port = [settings.host], settings.port
    params.api_keys = [settings.api_key] if settings.api_key else []
    params.n_parallel, params.n_ctx = settings.parallel, settings.parallel * settings.context
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = llama_cpp_threads()
    params.chat_template, params.use_jinja = template, True
    params.cache_prompt = cache_prompt
    params.cache_ram_mib = 1024  # of prompts that may come again; its own default would grow to 8 GiB
    # Its own defaults would leave out all but the 40 likeliest tokens, which no client of this API can take back.
    params.sampling.top_k, params.sampling.min_p = 0, 0.0
    # A reply to be continued would go past the template, and its special tokens with it.
    params.prefill_assistant = False
    # Each queued request holds a thread, and so does a silent connection, until it times out (seconds). With as many
    # threads as cores a health check would wait behind the replies.
    params.n_threads_http, params.timeout_read, params.timeout_write = 128, 60, 60
    # A web page must not use a server without a key behind its reader's back.
    params.cors_origins = f"http://{settings.host}:{settings.port}"
    params.ui = params.endpoint_slots = params.warmup = False
    params.endpoint_metrics = True
    params.verbosity = -1
    try:
        server = xllamacpp.Server(params)
    except RuntimeError:
        raise InputError(f"llama.cpp cannot load {gguf}: is it damaged, or too large for the memory?") from None
    try:
        yield server
    finally:
        del server  # stops it; the class has no close()


@contextmanager
def local_server(run: Run | None, side: str, parallel: int = 2, context: int | None = None) -> Iterator[Endpoint]:
    """One side of a run behind a port of this machine, with a random key."""
    config = _config(run)
    settings = ServerSettings(port=0, api_key=secrets.token_urlsafe(), parallel=parallel, context=context)
    # A prompt in the cache was computed in other batches than a new one, which rounds otherwise: at temperature 0 the
    # first reply to a question would differ from the next ones.
    with llama_cpp(gguf_file(run, side), _template(config), settings.fitted(config), side, False) as server:
        yield Endpoint(f"{server.listening_address}/v1", settings.api_key, side)


def serve_until_stopped(
    run: Run | None,
    side: str,
    settings: ServerSettings,
    engine: str = "auto",
    vllm: str = "",
    index: Index | None = None,
) -> None:
    """Serve one side of a run (none: the embedded model), with an index also its passages, until Ctrl+C or SIGTERM."""
    program = vllm_program(engine, vllm)
    # llama.cpp's own server would take what ends it; vLLM's tokens would fill the proxy's core.
    alone = program and index is None
    with nullcontext((settings, "")) if alone else _proxy(run, settings, index) as (own, address):
        if program:
            _serve_by_vllm(run, side, own, program)
        else:
            _serve_by_llama_cpp(run, side, own.fitted(_config(run)), address)


@contextmanager
def _proxy(run: Run | None, settings: ServerSettings, index: Index | None) -> Iterator[tuple[ServerSettings, str]]:
    """The proxy before an engine: yields the settings of the engine behind it, and the proxy's own address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    engine = replace(settings, host="127.0.0.1", port=port, api_key=secrets.token_urlsafe())
    behind = (port, engine.api_key)
    proxy = Proxy(settings.host, settings.port, settings.api_key, behind, index, _config(run).retrieval.k)
    with proxy.listening() as address:
        if index is not None:
            print(f"with sources from {index.path}, {index.documents:,} documents, at {address}/v1", file=sys.stderr)
        yield engine, address


def _serve_by_llama_cpp(run: Run | None, side: str, settings: ServerSettings, address: str) -> None:
    gguf = gguf_file(run, side)
    # In this order: llama.cpp's server takes Ctrl+C for itself as it starts.
    with llama_cpp(gguf, _template(_config(run)), settings, side) as server, _stop_signal() as stopped:
        print(f"the {side} model ({gguf.name}) at {address}/v1; Ctrl+C stops it", file=sys.stderr)
        print("generated text for study, not medical advice", file=sys.stderr, flush=True)
        # In short waits: the signal can reach one of llama.cpp's threads, which does not wake this one.
        while not stopped.wait(0.5):
            pass
        print("stopping", file=sys.stderr, flush=True)
        deadline = time.monotonic() + GRACE_SECONDS
        # Replies in progress or waiting.
        while any(map(int, re.findall(REPLYING, server.handle_metrics(), re.MULTILINE))):
            if time.monotonic() > deadline:
                os._exit(0)  # leaving the block would wait for the replies, for minutes, and ignore signals
            time.sleep(0.2)


def vllm_program(engine: str, path: str = "") -> str:
    """The command of vLLM where it is asked for, or found beside a GPU; "" where llama.cpp serves.

    vLLM pins its own torch and transformers: `path` is its environment, or the `vllm` in it; else PATH is searched.
    """
    named = os.path.expanduser(path or "vllm")  # unlike pathlib, these take any text
    program = shutil.which(os.path.join(named, "bin/vllm") if path and os.path.isdir(named) else named)
    if not program and (path or engine == "vllm"):
        raise InputError(f"no vLLM at {path or 'PATH'}: --vllm takes its environment, or the `vllm` in it")
    by_vllm = program and (engine == "vllm" or (engine == "auto" and describe_machine().gpu))
    return program if by_vllm else ""


def vllm_options(run: Run | None, side: str, settings: ServerSettings, template: Path) -> list[str]:
    """vLLM's arguments for the merged folder or the base model; the key goes through the environment instead."""
    config = _config(run)
    if side == "base" or run is None:
        model, commit = model_source(config.model.name), config.model.commit or config.model.revision
    else:
        model, commit = str(run.require("export/merged", "06_export")), None
    options = ["serve", model, "--served-model-name", side, "--host", settings.host, "--port", str(settings.port)]
    options += ["--revision", commit] if commit else []
    options += ["--allowed-origins", json.dumps([f"http://{settings.host}:{settings.port}"])]
    options += ["--chat-template", str(template), "--reasoning-parser"]
    if END_THINK in load_tokenizer(config.model).get_vocab():
        options += ["deepseek_r1"]
    else:  # deepseek_r1 requires each tag to be one token
        options += ["text_tags", "--reasoning-parser-plugin", str(REASONING_PARSER)]
    # "auto": as much of the model's context as fits on the GPU, where vLLM would else refuse to start.
    options += ["--max-model-len", str(settings.context or "auto")]
    return options + (["--max-num-seqs", str(settings.parallel)] if settings.parallel else [])


def _serve_by_vllm(run: Run | None, side: str, settings: ServerSettings, program: str) -> None:
    environment = os.environ | ({"VLLM_API_KEY": settings.api_key} if settings.api_key else {})
    with TemporaryDirectory() as folder, _stop_signal() as stopped:
        template = Path(folder) / "chat_template.jinja"
        write_text(template, _template(_config(run)))
        command = [program, *vllm_options(run, side, settings, template)]
        with subprocess.Popen(command, env=environment) as process:
            while process.poll() is None and not stopped.wait(0.5):
                pass
            process.terminate()
    if not stopped.is_set():
        raise InputError(f"vLLM ended by itself, with status {process.returncode}: its own message is above")


@contextmanager
def _stop_signal() -> Iterator[threading.Event]:
    stopped = threading.Event()
    before = {each: signal.signal(each, lambda *_: stopped.set()) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _config(run: Run | None) -> Config:
    return run.config if run else Config.resolve("laptop")


def _template(config: Config) -> str:
    return chat_template(load_tokenizer(config.model), config.model.prompt_style)
