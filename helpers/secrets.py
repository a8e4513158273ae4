"""Find secrets: environment, Colab, Kaggle or a stored login. None is printed or asked for."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

# Secrets, each with the variables that its library reads one from.
SECRETS = {
    "HF_TOKEN": ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
    "WANDB_API_KEY": ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"),
    "NCBI_API_KEY": ("NCBI_API_KEY",),
}
FOUND = "AI_DOCTOR_SECRETS"
# Where the process that started this one found each secret; empty in one that was started otherwise.
INHERITED = json.loads(os.environ.get(FOUND, "{}"))
_silent: set[str] = set()  # stores that did not answer this process


def export_secrets(names: Iterable[str] = tuple(SECRETS)) -> dict[str, str]:
    """Put secrets where the libraries look for them; returns where each was found by name, never its value.

    Where: the environment, Colab's or Kaggle's secrets, a stored login (which the libraries find by themselves), or
    "not set". None is ever printed, stored or asked for. A process that this one starts is told in the environment.
    """
    found = {name: _find(name) for name in names}
    os.environ[FOUND] = json.dumps(json.loads(os.environ.get(FOUND, "{}")) | found)
    return found


def _find(name: str) -> str:
    if any(os.environ.get(variable) for variable in SECRETS[name]):
        known = json.loads(os.environ.get(FOUND, "{}")).get(name)
        return known if known in STORES else "environment"
    for store in STORES:
        if value := _read(store, name):
            os.environ[name] = value
            return store
    logins = {"HF_TOKEN": _stored_hub_login, "WANDB_API_KEY": _stored_wandb_login}
    return "stored login" if name in logins and logins[name]() else "not set"


def _read(store: str, name: str) -> str | None:
    """A secret from a store, None if it has none; a store that fails to answer is not asked again.

    Colab's page answers its own kernel at once and leaves every other one waiting for 10 s; the kernels that this
    project starts are others, so in them no store is asked.
    """
    if INHERITED or store in _silent:
        return None
    try:
        return STORES[store](name)
    except Exception as error:
        # Elsewhere than on their own machines these raise half a dozen kinds of error, all of them "no secret here".
        if type(error).__name__ not in ("SecretNotFoundError", "NotebookAccessError", "BackendError"):
            _silent.add(store)
        return None


def _colab_secret(name: str) -> str | None:
    from google.colab import userdata

    return userdata.get(name)


def _kaggle_secret(name: str) -> str | None:
    from kaggle_secrets import UserSecretsClient

    return UserSecretsClient().get_secret(name)


STORES = {"Colab secrets": _colab_secret, "Kaggle secrets": _kaggle_secret}


def _stored_hub_login() -> bool:
    from huggingface_hub import constants

    token = Path(constants.HF_TOKEN_PATH)
    return token.is_file() and bool(token.read_text(encoding="utf-8").strip())


def _stored_wandb_login() -> bool:
    """Whether `wandb login` has left a key in .netrc or W&B's own settings, by W&B's own look-up, without a network."""
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb
    from wandb.sdk.lib import wbauth
    from wandb.sdk.wandb_setup import singleton

    settings = singleton().settings
    try:
        return bool(settings.api_key or wbauth.read_netrc_auth(host=settings.base_url))
    except wandb.Error:  # a key that cannot be one
        return False
