"""Publishing a run's adapter, merged model and GGUF files on the Hugging Face hub, a repository and one commit each."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id

from helpers import InputError
from helpers.config import nearest
from helpers.export.files import TOKENIZER_FILES, WEIGHTS_INDEX
from helpers.files import read_json
from helpers.report.model_card import KINDS
from helpers.report.results import model_card
from helpers.run_dir import Run
from helpers.sources.hub import nameless_base, public_name

# What a repository is called after the adapter's; -GGUF is how the hub's users look for such files.
SUFFIXES = {"adapter": "", "merged": "-merged", "gguf": "-GGUF"}
# Only files of these names leave: no rows, no replies, nothing that another program left in a folder.
FILES = {
    "adapter": ("adapter_model.safetensors", "adapter_config.json", *TOKENIZER_FILES),
    "merged": ("config.json", "generation_config.json", "*.safetensors", WEIGHTS_INDEX, *TOKENIZER_FILES),
    "gguf": ("Modelfile", "model-*.gguf"),
}
# Those without which a form is not whole; {} is the kind of GGUF that the card names.
NEEDED = {
    "adapter": ("adapter_model.safetensors", "adapter_config.json"),
    "merged": ("config.json",),
    "gguf": ("Modelfile", "model-{}.gguf"),
}
STAGES = {"adapter": "04_lora_training", "merged": "06_export", "gguf": "06_export"}
# Where PEFT and transformers note what a model was loaded from, which may be a folder on this machine.
ORIGIN = {"adapter_config.json": "base_model_name_or_path", "config.json": "_name_or_path"}


@dataclass(frozen=True)
class Repository:
    """A repository as it is to be: `files` maps names there to a file here, or to the content where it differs."""

    id: str
    private: bool
    files: dict[str, Path | bytes]

    def describe(self) -> str:
        """Everything that would be sent, for a reader: each file with its size in bytes, and the whole card."""
        sizes = {name: _size(content) for name, content in self.files.items()}
        lines = [f"{size:>17,}  {name}" for name, size in sizes.items()]
        head = f"{self.id} ({'private' if self.private else 'public'})"
        total = f"{sum(sizes.values()):>17,}  bytes in {len(sizes)} files"
        return "\n".join([head, *lines, total, "", "README.md:", "", self.files["README.md"].decode("utf-8")])


def push_to_hub(
    run: Run,
    repo_id: str,
    what: Sequence[str] = ("adapter",),
    private: bool = True,
    dry_run: bool = False,
    tell: Callable[[str], None] = print,
) -> list[Repository]:
    """Send `what` (adapter, merged, gguf) to `repo_id`, `repo_id`-merged and `repo_id`-GGUF; returns what was sent.

    With `dry_run` nothing is sent, and no token or network is needed: `tell` is given all that would be. Raises
    InputError for a wrong name, a form that the run does not have yet, a missing token, and all that the hub refuses.
    """
    repositories = plan(run, repo_id, what, private)
    if warning := nameless_base(run.config):
        tell(warning)
    if dry_run:
        for repository in repositories:
            tell(repository.describe())
        return repositories
    api = HfApi(token=_token())
    for repository in repositories:
        tell(f"sent {len(repository.files)} files to {_send(api, repository)}")
    return repositories


def plan(run: Run, repo_id: str, what: Sequence[str], private: bool) -> list[Repository]:
    """The repositories that `push_to_hub` would make, in the order of KINDS, without a look at the hub."""
    for kind in what:
        if kind not in KINDS:
            raise InputError(f"cannot push {kind!r}{nearest(kind, list(KINDS))}")
    ids = {kind: _checked_id(repo_id + SUFFIXES[kind]) for kind in KINDS if kind in what}
    repositories = []
    for kind, name in ids.items():
        files = _files(run, kind)
        card = model_card(run, kind, name, ids.get("merged") if kind == "gguf" else None)
        repositories.append(Repository(name, private, {"README.md": card.encode("utf-8"), **files}))
    return repositories


def _checked_id(repo_id: str) -> str:
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise InputError(_short(error)) from None
    if "/" not in repo_id:
        raise InputError(f"{repo_id!r} names no owner: give it as USER/NAME")
    return repo_id


def _files(run: Run, kind: str) -> dict[str, Path | bytes]:
    folder = run / KINDS[kind].folder
    for name in NEEDED[kind]:
        run.require(f"{KINDS[kind].folder}/{name.format(run.config.export.kinds[-1])}", STAGES[kind])
    paths = [path for pattern in FILES[kind] for path in sorted(folder.glob(pattern))]
    return {path.name: _content(path, public_name(run.config)) for path in paths}


def _content(path: Path, base_model: str) -> Path | bytes:
    """The file, or its content with the base model's public name where it names something else."""
    key = ORIGIN.get(path.name)
    settings = read_json(path) if key else {}
    if settings.get(key, base_model) == base_model:
        return path
    return json.dumps({**settings, key: base_model}, indent=2, ensure_ascii=False).encode("utf-8")


def _size(content: Path | bytes) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _token() -> str:
    token = get_token()
    if not token:
        where = "make one that may write at https://huggingface.co/settings/tokens"
        raise InputError(f"no Hugging Face token: {where}, then `hf auth login` or set HF_TOKEN")
    return token


def _send(api: HfApi, repository: Repository) -> str:
    """Make the repository if need be and commit all files at once; returns its address and who can see it."""
    with _readable(repository.id):
        url = api.create_repo(repository.id, private=repository.private, exist_ok=True)
        public = not api.model_info(repository.id, expand=["private"]).private
    if public and repository.private:
        raise InputError(f"{repository.id} is there already and is public: say --public, or choose another name")
    additions = [CommitOperationAdd(name, content) for name, content in repository.files.items()]
    with _readable(repository.id):
        api.create_commit(repository.id, additions, commit_message="Publish a run of ai-doctor")
    return f"{url} ({'public' if public else 'private'})"


@contextmanager
def _readable(repo_id: str) -> Iterator[None]:
    """Of everything that can go wrong on the way, one line."""
    try:
        yield
    except Exception as error:  # of the hub's library, of the two below it that send, and of the disk
        raise InputError(f"cannot push to {repo_id}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    while isinstance(error, RuntimeError) and error.__cause__:  # the hub's library says which file, and no more
        error = error.__cause__
    if isinstance(error, HfHubHTTPError):
        status, said = error.response.status_code, error.server_message
        meaning = {401: "the token is not valid", 403: "the token may not write there"}.get(
            status, "the hub refused it"
        )
        return f"{meaning} (HTTP {status}{': ' + _short(said) if said else ''})"
    if isinstance(error, HTTPError | ConnectionError):
        return f"the hub cannot be reached ({_short(error)})"
    return _short(error)


def _short(said: BaseException | str) -> str:
    return shorten(str(said), 300) or type(said).__name__
