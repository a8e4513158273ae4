"""GGUF files for llama.cpp and Ollama, and Ollama's Modelfile."""

from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader

from helpers.export.quantise import quantise
from helpers.files import read_json, write_text
from helpers.models.converter import convert_folder
from helpers.prompts.chat_template import ollama_template
from helpers.prompts.families import end_token_ids
from helpers.run_dir.folder import Run, alone


class Reader(GGUFReader):
    """By slices of a plain array over the mapped file: by memmap's own, a vocabulary of 128,000 takes 4 s, not 1."""

    data = property(lambda self: self.plain, lambda self, mapped: setattr(self, "plain", np.asarray(mapped)))


@alone
def convert(run: Run, kind: str) -> Path:
    """Write export/model-`kind`.gguf: f16 from the merged folder by llama.cpp's converter, other types from that file.

    The converter can write q8_0 too, to the same bytes, in one thread. Unsloth's `save_pretrained_gguf` needs a
    llama.cpp that it downloads and compiles first.
    """
    target = run / f"export/model-{kind}.gguf"
    if kind == "f16":
        convert_folder(run.require("export/merged", "the merging step of 06_export"), target)
    else:
        quantise(Reader(run.require("export/model-f16.gguf", "the step before in 06_export")), target, kind)
    return target


def write_modelfile(run: Run, tokenizer: Any, gguf: Path) -> Path:
    """Write export/Modelfile for Ollama: the prompt of training, the stop tokens and the sampling settings."""
    settings, model = run.config.generation, run.config.model
    config = run / "export/merged/generation_config.json"
    ids = end_token_ids(tokenizer, read_json(config).get("eos_token_id") if config.is_file() else None)
    stops = "".join(f'PARAMETER stop "{token}"\n' for token in tokenizer.convert_ids_to_tokens(ids))
    text = (
        f"FROM ./{gguf.name}\n"
        "# The prompt of the training. Ollama reads a special token's text in a question as that token;\n"
        "# `python -m helpers serve` reads it as plain text.\n"
        f'TEMPLATE """{ollama_template(tokenizer, model.prompt_style)}"""\n'
        f"{stops}"
        f"PARAMETER temperature {settings.temperature}\n"
        f"PARAMETER top_p {settings.top_p}\nPARAMETER top_k 0\nPARAMETER min_p 0\n"  # its own would be 40
        # Ollama forgets the question when a long thought has filled this.
        f"PARAMETER num_ctx {max(4096, model.max_length + settings.max_new_tokens)}\n"
    )
    write_text(run / "export/Modelfile", text)
    return run / "export/Modelfile"
