"""Inputs and outputs of each stage: a stage runs again when one of its inputs has changed."""

import hashlib
import inspect
import json
import os
from typing import Any

import nbformat

from helpers import PROJECT_ROOT
from helpers.config import CORPUS, FILE, marked
from helpers.files import fingerprint, project_path
from helpers.knowledge.library import source_path
from helpers.questions.benchmarks import BENCHMARKS, one_by_one
from helpers.run_dir.folder import Run
from helpers.run_dir.layout import STAGES
from helpers.run_dir.modules import code_of, read_code

# What 03 reads beside that where rows get passages; a run without them does not depend on its library.
FOR_PASSAGES = ("retrieval.sources", "retrieval.synonyms", "retrieval.embedder", "retrieval.k")
# What decides on the weights of a training. A change of another module, a message say, must not cost hours of it.
# `checkpoints` only has one go on; what `hardware` and gpus.yaml chose stands in run.yaml, the rows in data/. The tiny
# model's chat template would set every other model's training aside too.
WEIGHTS = (
    *("lora_training/backends.py", "lora_training/batches.py", "lora_training/train.py", "losses.py"),
    *("models/loading.py", "models/packaged.py", "prompts/encoding.py", "prompts/families.py"),
)
Inputs = dict[str, dict[str, Any]]


def stage_inputs(run: Run, stage: str) -> Inputs:
    """Everything that a stage's results depend on: its settings' values, and fingerprints of its files and code."""
    read, flat = STAGES[stage].settings, run.config.flat()
    if stage == "03_dataset_prep" and flat["data.passages"]:
        read += FOR_PASSAGES
    settings = {key: value for key, value in flat.items() if key in read or key.split(".")[0] in read}
    files = {name: fingerprint(run / name) for name in STAGES[stage].reads}
    for name in one_by_one(_named(settings, FILE)):
        if name not in ("sample", "hub"):
            files[name] = _benchmark(name) if name in BENCHMARKS else fingerprint(project_path(name))
    files |= {name: _listing(name) for name in _named(settings, CORPUS)}
    source = notebook_code(stage)
    modules = {"notebook": read_code(source).fingerprint, **code_of(source)}
    return {"settings": settings, "files": files, "modules": modules}


def _named(settings: dict[str, Any], mark: str) -> list[str]:
    values = [settings[key] for key in marked(mark) if key in settings]
    return [name for value in values for name in ([value] if isinstance(value, str) else value)]


def _benchmark(name: str) -> str:
    """Of a row in BENCHMARKS, what decides on its questions."""
    row = BENCHMARKS[name]
    facts = [row.dataset, row.config, row.split, inspect.getsource(row.question)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _listing(name: str) -> str:
    """The names, sizes and times of a corpus's files: reading all of PubMed takes hours."""
    path = source_path(name)
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    facts = [(str(file), *(file.stat()[6:9:2] if os.path.isfile(file) else ())) for file in files]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def notebook_code(stage: str) -> str:
    """The code of a stage's notebook after the parameters cell; what comes before installs the project."""
    notebook = nbformat.read(PROJECT_ROOT / f"notebooks/{stage}.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    start = next((i for i, cell in enumerate(code, 1) if "parameters" in cell.metadata.get("tags", [])), 0)
    return "\n".join(cell.source for cell in code[start:])


def changes(before: Inputs, now: Inputs) -> list[str]:
    """Names of the inputs that have changed since the stage last finished; none if it never did (`before` is {})."""
    missing = object()
    return [
        f"helpers/{name}" if name.endswith(".py") else name
        for part, values in now.items()
        if (old := before.get(part)) is not None
        for name in {**old, **values}
        if old.get(name, missing) != values.get(name, missing)
    ]


def trained_by_other_code(before: Inputs, now: Inputs) -> bool:
    """Whether one of WEIGHTS has changed since; after another change 04 runs again, and keeps its training."""
    there = before.get("modules")
    return there is not None and any(there.get(name) != now["modules"][name] for name in WEIGHTS)
