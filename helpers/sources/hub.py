"""The Hugging Face hub: data sets from it or its cache, its errors in one line, and a base model's public name."""

import errno
import mimetypes
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from helpers import InputError
from helpers.config import Config, ModelSettings
from helpers.files import project_path
from helpers.sources.tables import ENDINGS, brief

HUB_DATASET = "FreedomIntelligence/medical-o1-reasoning-SFT"
HUB_CONFIG = "en"
SITE = "https://huggingface.co"
TOKENS = f"{SITE}/settings/tokens"
UNREACHED = (httpx.TransportError, ConnectionError, TimeoutError)
# The hub cannot answer now; the libraries retry for a minute before they raise.
OUT_OF_ORDER = (408, 429, 500, 502, 503, 504)


def hub_table(
    dataset: str, config: str | None, split: str, revision: str | None, instead: str
) -> tuple[Iterable[dict[str, Any]], str, str | None]:
    """A split of a data set on the hub, or in the cache where the hub cannot be reached: rows, commit, configuration.

    `config` None takes the only configuration. Raises InputError, which ends in `instead`: what to do without it.
    """
    with _in_one_line(dataset, revision, instead):
        table = _load(dataset, config, split, revision)
        # The commit is in the path: load_dataset silently falls back on another commit in the cache.
        commit = Path(table.cache_files[0]["filename"]).parent.name
        return table, commit, table.info.config_name


def check_dataset(dataset: str, config: str | None, split: str, revision: str | None, instead: str) -> None:
    """InputError where `hub_table` would raise it, without a download: neither the hub nor the cache has it."""
    with _in_one_line(dataset, revision, instead):
        _load(dataset, config, split, revision, download=False)


@contextmanager
def _in_one_line(dataset: str, revision: str | None, instead: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # three libraries and the disk, each with errors of its own
        reason = explain(error, dataset, revision, dataset=True)
        raise InputError(f"cannot get {dataset}: {reason}; {instead}") from error


def _load(dataset: str, config: str | None, split: str, revision: str | None, download: bool = True) -> Any:
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    try:
        # Without a network this fails within seconds; load_dataset may retry for long.
        commit = HfApi().dataset_info(dataset, revision=revision, timeout=10).sha
        return load_dataset(dataset, config, split=split, revision=commit) if download else None
    except DatasetNotFoundError:
        HfApi().auth_check(dataset, repo_type="dataset")  # raises what this error hides: whether a token was refused
        raise
    except Exception as error:
        chain = _chain(error)
        if not any(isinstance(one, UNREACHED) or _status(one) in OUT_OF_ORDER for one in chain):
            raise
        try:
            return _load_cached(dataset, config, split, revision)
        except (ValueError, OSError):
            raise error from None


def _load_cached(dataset: str, config: str | None, split: str, revision: str | None) -> Any:
    """The newest commit in the cache, or `revision`; ValueError or OSError where it is missing."""
    from datasets.packaged_modules.cache.cache import Cache

    names = {"repo_id": dataset, "dataset_name": dataset.rpartition("/")[2]}
    cached = Cache(config_name=config, version="auto", hash="auto", **names)
    if revision not in (None, constants.DEFAULT_REVISION, cached.hash):
        cached = Cache(config_name=cached.config.name, version=str(cached.config.version), hash=revision, **names)
    cached.download_and_prepare()
    return cached.as_dataset(split=split)


def hub_dataset(source: str) -> str | None:
    """The hub id of the data set in `data.source`; None for `sample` and for what looks like a file."""
    if source == "hub":
        return HUB_DATASET
    path = project_path(source)
    in_a_folder = path.exists() or path.parent.is_dir()
    is_file = path.suffix.lower() in ENDINGS or mimetypes.guess_type(source)[0]
    return source if is_hub_id(source) and not in_a_folder and not is_file else None


def is_hub_id(name: str) -> bool:
    """Whether a name has the form organisation/name; a folder may have it too."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name


def public_name(config: Config) -> str:
    """The base model's name for an adapter's metadata and a model card, without a path on this machine.

    Of a folder: `export.base_model`, else the id in a hub cache's path, else the folder's own name.
    """
    if config.export.base_model or config.model.name == "embedded":
        return config.export.base_model or "HuggingFaceTB/SmolLM2-135M-Instruct"
    folder = project_path(config.model.name)
    if not folder.is_dir():
        return config.model.name if is_hub_id(config.model.name) else folder.name
    if cached := re.search(r"models--([^-][^/]*?)--([^/]+)", folder.as_posix()):  # huggingface_hub's cache
        return f"{cached[1]}/{cached[2]}"
    # Kaggle's folders end in a version number, snapshots in a hash.
    return [part for part in folder.parts if not re.fullmatch(r"\d+|[0-9a-f]{40}", part)][-1]


def nameless_base(config: Config) -> str | None:
    """A warning where the base model's public name is unknown, so that others cannot find the adapter's base."""
    name = public_name(config)
    if "/" in name or config.model.name == "tiny":
        return None
    return f"no public name is known of {config.model.name}: set export.base_model to its hub id (organisation/name)"


def ask_first(name: str, revision: str | None = None, cached: Sequence[str] = ("config.json",)) -> None:
    """Ask the hub once for a model, unless one of the files `cached` is; InputError if its weights are pickles alone.

    Raises at once what transformers would retry for a minute: no network, a hub that is out of order.
    """
    if any(isinstance(try_to_load_from_cache(name, file, revision=revision), str) for file in cached):
        return
    try:
        files = HfApi().model_info(name, revision=revision, timeout=10).siblings or ()
    except HfHubHTTPError as error:
        if _status(error) in OUT_OF_ORDER or isinstance(error, RepositoryNotFoundError | RevisionNotFoundError):
            raise
        return
    kinds = {Path(file.rfilename).suffix for file in files}
    if kinds & {".bin", ".pt", ".pth"} and ".safetensors" not in kinds:
        raise InputError(f"{name} has no weights in safetensors, and others (.bin, .pt) are not opened")


def model_commit(model: ModelSettings) -> str | None:
    """The newest commit of a model on the hub, in the cache where the hub does not answer; None for a folder."""
    if not is_hub_id(model.name) or project_path(model.name).is_dir():
        return None
    try:
        HfApi().model_info(model.name, revision=model.revision, timeout=10)  # downloading would retry for a minute
        # The cache notes which commit the revision is, so that a new folder needs no network.
        return Path(hf_hub_download(model.name, "config.json", revision=model.revision)).parent.name
    except (OSError, httpx.HTTPError, UnicodeEncodeError):  # also the hub's own; loading the model says what they mean
        cached = try_to_load_from_cache(model.name, "config.json", revision=model.revision)
        return Path(cached).parent.name if isinstance(cached, str) else None


def explain(error: BaseException, name: str, revision: str | None = None, dataset: bool = False) -> str:
    """Why a model or data set could not be loaded or stored, and what to do about it, in one line."""
    chain = _chain(error)
    page = f"{SITE}/{'datasets/' if dataset else ''}{name}"
    if full := next(filter(None, map(_disk, chain)), None):
        return full
    if any(isinstance(one, UnicodeEncodeError) for one in chain):
        return f"HF_TOKEN has a letter that is not ASCII: set it to a token ({TOKENS}), or remove it"
    answers = [one for one in chain if _status(one) and not isinstance(one, EntryNotFoundError)]
    return _answer(answers[0], page, revision) if answers else _unreached(chain, revision) or brief(error)


def _chain(error: BaseException) -> list[BaseException]:
    """An error and its causes, also behind `from None`, the nearest first."""
    chain: list[BaseException] = [error]
    for one in chain:
        chain += [cause for cause in (one.__cause__, one.__context__) if cause and cause not in chain]
    return chain


def _status(error: BaseException) -> int | None:
    return error.response.status_code if isinstance(error, HfHubHTTPError | httpx.HTTPStatusError) else None


def _disk(error: BaseException) -> str | None:
    code, place = getattr(error, "errno", None), getattr(error, "filename", None)
    full = r"no space left|not enough disk space|disk quota exceeded|os error 28\b"
    if code in (errno.ENOSPC, errno.EDQUOT) or re.search(full, str(error), re.IGNORECASE):
        where = f" ({place})" if place else ""
        return f"the disk is full{where}: free some space, or set HF_HOME ({constants.HF_HOME}) to a folder on another"
    if isinstance(error, PermissionError) or code == errno.EROFS:
        place = place or constants.HF_HOME
        return f"no permission for {place}: make it readable and writable, or set HF_HOME to another folder"
    return None


def _answer(error: Any, page: str, revision: str | None) -> str:
    status, headers = error.response.status_code, error.response.headers
    sent_token = "authorization" in error.response.request.headers
    if isinstance(error, GatedRepoError):
        return (
            f"it is gated: accept its terms at {page}, and set HF_TOKEN to a token of that account that may read gated "
            f"repositories ({TOKENS})"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"it has no revision {revision or 'main'!r}: take a branch, tag or commit of {page}/commits/main"
    # Without a token the hub answers 401 for what does not exist, too.
    if isinstance(error, RepositoryNotFoundError) and (not sent_token or "X-Error-Code" in headers):
        return f"it is not on the hub ({page}), or private: then set HF_TOKEN to a token that may read it ({TOKENS})"
    if status in OUT_OF_ORDER:
        what = "it had too many requests" if status == 429 else "it is out of order"
        return f"the hub cannot answer ({status}: {what}): try again in a few minutes (https://status.huggingface.co)"
    message = headers.get("X-Error-Message") or error.response.reason_phrase
    advice = f": set HF_TOKEN to a new token ({TOKENS}), or remove it" if status == 401 else ""
    return f"the hub refused it ({status}: {message}){advice}"


def _unreached(chain: list[BaseException], revision: str | None) -> str | None:
    reasons = [one for one in chain if isinstance(one, UNREACHED)]
    missing = any(isinstance(one, LocalEntryNotFoundError) for one in chain)
    if not reasons and not missing:
        return None
    uncached = "it is not in the cache" + (f" at revision {revision!r}" if revision else "")
    if constants.HF_HUB_OFFLINE:
        return f"offline mode is on (HF_HUB_OFFLINE), and {uncached} ({constants.HF_HUB_CACHE})"
    why = f" ({brief(reasons[-1])})" if reasons else ""
    return f"the hub cannot be reached{why}, and {uncached}"
