"""What the committed notebooks promise: form, one parameters cell, clean outputs, one address."""

import json
import re
import subprocess

import nbformat
import pytest

from helpers import PROJECT_ROOT
from helpers.series.runner import repository_address
from tools.notebooks import ADDRESSED, SERIES, change_address, with_outputs

NOTEBOOKS = [PROJECT_ROOT / f"notebooks/{name}.ipynb" for name in SERIES]
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
SECRET = re.compile(r"hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|\b[0-9a-f]{40}\b|AKIA[0-9A-Z]{16}|wandb_v1_\w{20,}")


def code_cells(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def texts_of(outputs):
    for output in outputs:
        yield output.get("text", "")
        yield from (value for mime, value in output.get("data", {}).items() if not mime.startswith("image/"))


def test_the_series_is_complete_and_in_order():
    assert sorted(path.name for path in (PROJECT_ROOT / "notebooks").glob("*.ipynb")) == [p.name for p in NOTEBOOKS]


@each_notebook
def test_it_is_a_valid_notebook_that_papermill_can_parameterise(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.metadata.kernelspec.language == "python"
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    names = re.findall(r"^(\w+) =", tagged[0].source, flags=re.M)
    assert names == ["PROFILE", "RUN_DIR", "OVERRIDES"]


@each_notebook
def test_outputs_are_those_of_one_clean_run_from_top_to_bottom(path):
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output.get("text")
            assert not any("widget" in mime for mime in output.get("data", {}))
    shown = "\n".join(str(text) for cell in cells for text in texts_of(cell.outputs))
    for debris in ("Traceback", "Warning:", "warnings.warn", "it/s]", "\r"):
        assert debris not in shown
    assert not re.search(r"(?<![\w.:/])/(?:root|home|Users|work|tmp|content)/", shown), "an absolute path"
    assert any(cell.outputs for cell in cells)


@each_notebook
def test_it_is_small_and_holds_no_secret(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.encode()) < 500_000
    without_images = re.sub(r'"image/png": "[^"]*"', "", text)
    assert not SECRET.search(without_images)


def test_every_notebook_opens_with_the_same_colab_cell_and_its_own_badge():
    address = repository_address()
    cells = {code_cells(path)[0].source for path in NOTEBOOKS}
    assert len(cells) == 1
    assert address in cells.pop()
    for path in NOTEBOOKS:
        first = nbformat.read(path, as_version=4).cells[0].source
        inside = address.removeprefix("https://github.com/")
        assert f"https://colab.research.google.com/github/{inside}/blob/main/notebooks/{path.name}" in first


def test_the_address_stands_nowhere_else_and_one_command_changes_it_everywhere(tmp_path, monkeypatch):
    owner = repository_address().removeprefix("https://github.com/")
    tracked = subprocess.run(["git", "ls-files"], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True).stdout
    files = [name for name in tracked.splitlines() if (PROJECT_ROOT / name).is_file()]
    holders = {name for name in files if owner in (PROJECT_ROOT / name).read_text(encoding="utf-8", errors="ignore")}
    assert holders == set(ADDRESSED)
    for name in ADDRESSED:
        copy = tmp_path / name
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes((PROJECT_ROOT / name).read_bytes())
    for module in ("tools.notebooks", "helpers.series.runner"):
        monkeypatch.setattr(f"{module}.PROJECT_ROOT", tmp_path)
    assert change_address("https://github.com/someone/else") == list(ADDRESSED)
    assert not any(owner in (tmp_path / name).read_text(encoding="utf-8") for name in ADDRESSED)
    assert repository_address() == "https://github.com/someone/else"


@pytest.mark.parametrize("url", ["github.com/a/b", "https://github.com/a", "https://github.com/a/b/c", ""])
def test_a_malformed_address_is_refused(url):
    with pytest.raises(ValueError, match="OWNER/NAME"):
        change_address(url)


def test_refreshing_takes_outputs_by_cell_and_leaves_the_injected_parameters_out():
    v4 = nbformat.v4
    source = v4.new_notebook(cells=[v4.new_code_cell("a = 1", id="one"), v4.new_code_cell("a", id="two")])
    ran = json.loads(json.dumps(source))
    ran = nbformat.from_dict(ran)
    ran.cells.insert(1, v4.new_code_cell("a = 2", metadata={"tags": ["injected-parameters"]}))
    table = {"text/plain": "<Styler object at 0x7f25>", "text/html": "<table>"}
    bar = v4.new_output("display_data", {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "0%"})
    ran.cells[2].outputs = [bar, v4.new_output("execute_result", table, execution_count=3)]
    result = with_outputs(source, ran)
    assert result.cells[1].outputs[0].data == {"text/html": "<table>"}  # an address differs from run to run
    assert [cell.source for cell in result.cells] == ["a = 1", "a"]
    assert result.cells[1].outputs[0].execution_count == result.cells[1].execution_count == 2


@each_notebook
def test_it_stays_a_tutorial_in_size(path):
    cells = code_cells(path)
    sizes = [len([line for line in cell.source.splitlines() if line.strip()]) for cell in cells]
    assert len(cells) <= 20
    assert max(sizes) <= 30
