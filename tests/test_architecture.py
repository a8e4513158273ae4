"""docs/ARCHITECTURE.md names every room of helpers in an order in which none imports from a later one."""

import ast
import graphlib
import importlib
import re

import pytest

from helpers import PROJECT_ROOT

PAGE = PROJECT_ROOT / "docs/ARCHITECTURE.md"
PACKAGE = PROJECT_ROOT / "helpers"


def rooms():
    table = PAGE.read_text(encoding="utf-8").partition("| room |")[2].partition("\n\n")[0]
    firsts = [line.split("|")[1] for line in table.splitlines()[2:]]
    return [re.sub(r"\.py$|/$", "", name) for first in firsts for name in re.findall(r"`([^`]+)`", first)]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "helpers":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("helpers."):
            yield node.module.split(".")[1]


def test_the_page_is_short_and_names_every_room():
    assert len(PAGE.read_text(encoding="utf-8").splitlines()) <= 80
    there = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert sorted(name for name in rooms() if not name.endswith(".yaml")) == sorted(there - {"__init__"})


def test_nothing_imports_from_a_later_room_and_no_stage_from_another():
    order = rooms()
    stages = {"baseline_inference", "dataset_prep", "lora_training", "evaluation", "export", "retrieval"}
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room in order:
            found = [name for name in imported(path) if name in order and name != room]
            assert [name for name in found if order.index(name) > order.index(room)] == [], path
            assert room not in stages or not stages & set(found), path


def test_no_modules_import_each_other_in_a_circle():
    paths = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    graph = {}
    for name, path in paths.items():
        nodes = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if hasattr(node, "names")]
        froms = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
        named = {f"{node.module}.{alias.name}" for node in froms for alias in node.names}
        named |= {node.module for node in froms}
        graph[name] = {found for each in named if (found := each.removeprefix("helpers.")) in paths} - {name}
    assert len(graph["use.server"]) > 5
    graphlib.TopologicalSorter(graph).prepare()  # CycleError names a circle


@pytest.mark.parametrize(
    ("package", "names"),
    {
        "prompts": {"build_prompt", "split_reasoning"},
        "dataset_prep": {"encode_example"},
        "evaluation": {"extract_choice", "compare_paired"},
        "models": {"load_tokenizer"},
        "retrieval": {"Index", "Passage"},
    }.items(),
)
def test_what_others_call_by_name_stays_where_they_import_it(package, names):
    """The packages' own `__init__` have these names for code outside the project, and no others."""
    module = importlib.import_module(f"helpers.{package}")
    assert set(module.__all__) == names
    assert all(hasattr(module, name) for name in names)
