"""The code that a stage runs: the modules of this package that a source imports, and the files that they read."""

import ast
import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

PACKAGE = Path(__file__).parent.parent
# These affect no file that a later stage reads. They, and what only they import, are in no stage's key, so that a new
# plot trains no model.
LEFT_OUT = {
    # Sentences, pictures and pages for a reader; a model's card, which `push` writes anew.
    *("dataset_prep/remarks.py", "evaluation/remarks.py", "export/remarks.py", "lora_training/remarks.py"),
    "retrieval/remarks.py",
    *("report/drawings.py", "report/markdown.py", "report/model_card.py", "report/plots.py", "report/results.py"),
    *("scoring/verdicts.py", "index.html.j2"),
    # Who works in a folder, how long, and how far; copies elsewhere.
    *("lora_training/budget.py", "lora_training/stopping.py", "run_dir/backup.py", "run_dir/owner.py"),
    *("run_dir/stopping.py", "tracking/progress.py", "tracking/secrets.py", "tracking/wandb_run.py"),
    # What counts in another way: settings, the benchmarks that are asked, the stages and their files.
    *("profiles.yaml", "questions/benchmarks.py", "run_dir/layout.py", "run_dir/modules.py"),
    # What only lets a run begin, or refuses it.
    *("__init__.py", "prompts/refusals.py", "run_dir/source_check.py", "setup.py"),
}


def code_of(source: str, left_out: Collection[str] = LEFT_OUT, package: Path = PACKAGE) -> dict[str, str]:
    """Fingerprints, by name, of the modules that `source` imports, directly or not, and of the files that they name.

    Imports inside functions count; comments and docstrings do not.
    """
    files = {path.name: path for path in package.rglob("*") if path.suffix != ".py" and path.is_file()}
    files |= {path.name: path for path in (package / "data").glob("*.py")}
    found: dict[str, str] = {}
    waiting = [source]
    while waiting:
        code = read_code(waiting.pop())
        for path in (_module(package, name) for name in code.imports):
            name = path.relative_to(package).as_posix()
            if path.is_file() and name not in {*found, *left_out}:
                text = path.read_text(encoding="utf-8")
                found[name] = read_code(text).fingerprint
                waiting.append(text)
        for name in code.strings & files.keys() - found.keys() - set(left_out):
            found[name] = hashlib.sha256(files[name].read_bytes()).hexdigest()[:16]
    return dict(sorted(found.items()))


def fingerprints(names: Sequence[str]) -> list[str]:
    return [read_code(_module(PACKAGE, name).read_text(encoding="utf-8")).fingerprint for name in names]


@dataclass(frozen=True)
class Code:
    """Python code without comments, docstrings and layout; `imports` are names in this package."""

    fingerprint: str
    imports: frozenset[str]
    strings: frozenset[str]


@lru_cache(maxsize=1024)
def read_code(source: str) -> Code:
    tree = ast.parse(source)
    names, strings = set(), set()
    for node in ast.walk(tree):
        if isinstance(body := getattr(node, "body", None), list):  # a docstring is a string that stands alone
            body[:] = [
                each for each in body if not (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))
            ]
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            strings.add(node.value)
    inside = {name.removeprefix("helpers.") for name in names if name.startswith("helpers.")}
    digest = hashlib.sha256(ast.unparse(tree).encode()).hexdigest()
    return Code(digest[:16], frozenset(inside), frozenset(strings))


def _module(package: Path, name: str) -> Path:
    path = package.joinpath(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
