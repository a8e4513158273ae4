"""Find secrets: environment, Colab, Kaggle or a stored login. None is printed or asked for."""

import os
import sys
from collections.abc import Iterable
from netrc import NetrcParseError, netrc
from pathlib import Path
from urllib.parse import urlsplit

# Secrets, each with the variables that its library reads one from.
SECRETS = {
    "HF_TOKEN": ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
    "WANDB_API_KEY": ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"),
    "NCBI_API_KEY": ("NCBI_API_KEY",),
}
_exported: dict[str, str] = {}  # by name, the store from which this process has put a secret into the environment


def export_secrets(names: Iterable[str] = tuple(SECRETS)) -> dict[str, str]:
    """Put secrets where the libraries look for them; returns where each was found by name, never its value.

    Where: the environment, Colab's or Kaggle's secrets, a stored login (which the libraries find by themselves), or
    "not set". None is ever printed, stored or asked for. The kernels of a series find them in the environment.
    """
    return {name: _find(name) for name in names}


def _find(name: str) -> str:
    if any(os.environ.get(variable) for variable in SECRETS[name]):
        return _exported.get(name, "environment")
    for store, read in STORES.items():
        try:
            value = read(name)
        except Exception:  # elsewhere than on their own machines these raise half a dozen kinds of error
            continue
        if value:
            os.environ[name], _exported[name] = value, store
            return store
    logins = {"HF_TOKEN": _stored_hub_login, "WANDB_API_KEY": _stored_wandb_login}
    return "stored login" if name in logins and logins[name]() else "not set"


def _colab_secret(name: str) -> str | None:
    if "google.colab" not in sys.modules:  # not the page's own kernel: any other waits for 10 s, in vain
        return None
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


def wandb_address() -> str:
    """The server of Weights & Biases."""
    return os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"


def _stored_wandb_login() -> bool:
    """Whether `wandb login` has left a key, which it does in .netrc."""
    try:
        return bool(netrc(os.environ.get("NETRC")).authenticators(urlsplit(wandb_address()).netloc))
    except (OSError, NetrcParseError):
        return False
