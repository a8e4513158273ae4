"""For maintainers: the committed notebooks' outputs, and the repository's address in all the places that repeat it.

python -m tools.notebooks refresh [RUN_DIR]
python -m tools.notebooks address https://github.com/OWNER/NAME
"""

import re
import sys
from pathlib import Path

import nbformat

from helpers import PROJECT_ROOT, InputError
from helpers.files import write_text
from helpers.run_dir.folder import open_run
from helpers.run_dir.layout import STAGES
from helpers.series.runner import execute, repository_address

SERIES = ("00_run_all", *STAGES)
# Every file that repeats the address; a test looks for others.
ADDRESSED = ("pyproject.toml", "README.md", *(f"notebooks/{name}.ipynb" for name in SERIES))


def refresh(run_dir: str | Path, profile: str = "laptop") -> None:
    """Run the series, 00 and through it the others, and put the outputs into notebooks/.

    Stages that `run_dir` holds already are not run again: for wholly new outputs give a new folder.
    """
    run = open_run(profile, run_dir)
    execute(run, SERIES[0])
    for name in SERIES:
        committed, executed = PROJECT_ROOT / f"notebooks/{name}.ipynb", run / f"notebooks/{name}.ipynb"
        notebook = with_outputs(nbformat.read(committed, as_version=4), nbformat.read(executed, as_version=4))
        write_text(committed, nbformat.writes(notebook, indent=1) + "\n")


def with_outputs(source: nbformat.NotebookNode, executed: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """`source` with the outputs of `executed`, matched by cell id and numbered from 1, and nothing else of it."""
    ran = {cell.id: cell for cell in executed.cells if cell.cell_type == "code"}
    code = [cell for cell in source.cells if cell.cell_type == "code"]
    for number, cell in enumerate(code, 1):
        cell.execution_count = number
        # A file cannot show the bars that a model's first loading draws.
        cell.outputs = [each for each in ran[cell.id].outputs if "widget" not in "".join(each.get("data", {}))]
        for output in cell.outputs:
            output.pop("transient", None)
            data = output.get("data", {})
            if "text/html" in data and " at 0x" in data.get("text/plain", ""):
                del data["text/plain"]  # an address in memory, another one in every run
            if output.output_type == "execute_result":
                output.execution_count = number
    return source


def change_address(url: str) -> list[str]:
    """Put `url` in place of the present address everywhere; returns the files that changed."""
    if not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", url):
        raise InputError(f"{url!r} is not of the form https://github.com/OWNER/NAME")
    old, new = (address.removeprefix("https://github.com/") for address in (repository_address(), url))
    changed = []
    for name in ADDRESSED:
        path = PROJECT_ROOT / name
        text = path.read_text(encoding="utf-8")
        if old != new and old in text:
            write_text(path, text.replace(old, new))
            changed.append(name)
    return changed


def main() -> None:
    """Refresh the notebooks' outputs from a `laptop` run, or write the repository's new address everywhere."""
    match sys.argv[1:]:
        case ["refresh", *rest] if len(rest) < 2:
            refresh(Path.cwd() / (rest[0] if rest else "runs/notebooks"))
        case ["address", url]:
            try:
                print("\n".join(f"changed {path}" for path in change_address(url)))
            except InputError as error:
                sys.exit(f"error: {error}")
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
