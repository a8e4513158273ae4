"""The adapter merged into the base model, one weight file at a time."""

import math
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from helpers import InputError
from helpers.config import ModelSettings
from helpers.export.files import SHARD, WEIGHTS, WEIGHTS_INDEX, whole
from helpers.files import atomic_dir, read_json, write_json
from helpers.machine.hardware import describe_machine
from helpers.models.loading import from_source, load_tokenizer, model_source, save_tokenizer
from helpers.models.portable import portable_config
from helpers.run_dir.folder import Run, alone
from helpers.run_dir.layout import ADAPTER


@alone
def merge(run: Run) -> Path:
    """Write export/merged/: the base model with the adapter's matrices added, in 16 bit.

    Holds SHARD bytes of weights in memory: the whole model, or one of its files, can be more than a free Colab has.
    Raises InputError where the base cannot be loaded, is not in safetensors, or is quantised (which would round the
    change away), and where a file of it or of the adapter is damaged; RuntimeError where the adapter has a matrix that
    the base has no place for.
    """
    from peft import LoraConfig
    from safetensors.torch import load_file

    weights, settings = (whole(run.require(name, "04_lora_training")) for name in ADAPTER)
    base, files = _base_files(run.config.model)
    lora = LoraConfig.from_pretrained(str(settings.parent))
    scaling = lora.lora_alpha / (math.sqrt(lora.r) if lora.use_rslora else lora.r)
    matrices = load_file(weights)
    with atomic_dir(run / "export/merged") as folder:
        dtype = _write_merged([base / file for file in files], folder, matrices, scaling)
        if matrices:
            raise RuntimeError(f"the base model has no place for the adapter's {min(matrices)}")
        config = read_json(base / "config.json") | {"dtype": str(dtype).removeprefix("torch.")}
        write_json(folder / "config.json", portable_config(config))
        if (base / "generation_config.json").is_file():
            shutil.copy(base / "generation_config.json", folder)
        save_tokenizer(load_tokenizer(run.config.model), run.config.model, folder)
    return run / "export/merged"


def _base_files(settings: ModelSettings) -> tuple[Path, list[str]]:
    """The base model's folder, downloaded if need be, and the weight files in it that transformers reads."""
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
        whole(base / file)
    if read_json(base / "config.json").get("quantization_config"):
        raise InputError(f"cannot merge into {settings.name}: it is quantised; set model.name to the 16-bit model")
    return base, files


def _write_merged(files: list[Path], folder: Path, matrices: dict[str, Any], scaling: float) -> Any:
    """Write the base's weights, in 16 bit and with their adapter pairs added, to files named as in transformers.

    Takes the pairs out of `matrices`, and returns the tensor type of most of the bytes.
    """
    import torch
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors import safe_open
    from safetensors.torch import save_file

    device = "cuda" if describe_machine().gpu else "cpu"
    sources, outline, sizes = {}, {}, Counter()
    for path in files:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 (it is not a dict)
                tensor = file.get_tensor(key).to("meta")  # nothing is read of it yet
                halved = tensor.is_floating_point() and tensor.dtype != torch.bfloat16
                outline[key], sources[key] = tensor.to(torch.float16) if halved else tensor, path
                sizes[outline[key].dtype] += outline[key].nbytes

    def merged(key: str) -> Any:
        with safe_open(sources[key], framework="pt") as file:
            tensor = file.get_tensor(key)
        # Files of a model that reads images too hold its text part under a name of its own.
        pair = "base_model.model." + key.removesuffix(".weight").replace("model.language_model.", "model.")
        if f"{pair}.lora_A.weight" in matrices:
            a, b = (matrices.pop(f"{pair}.lora_{side}.weight").to(device, torch.float32) for side in "AB")
            tensor = torch.addmm(tensor.to(device, torch.float32), b, a, alpha=scaling)
        return tensor.to("cpu", outline[key].dtype)

    plan = split_torch_state_dict_into_shards(outline, max_shard_size=SHARD)
    for name, keys in plan.filename_to_tensors.items():
        save_file({key: merged(key) for key in keys}, folder / name, metadata={"format": "pt"})
    if plan.is_sharded:
        write_json(folder / WEIGHTS_INDEX, {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename})
    return max(sizes, key=sizes.get)
