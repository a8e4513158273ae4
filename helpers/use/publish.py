"""Publishing a run's adapter, merged model and GGUF files on the Hugging Face hub, a repository and one commit each."""

import json
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from helpers import InputError
from helpers.config import nearest
from helpers.export.files import whole
from helpers.files import read_json
from helpers.report.model_card import KINDS, LLAMA_LICENCE, from_llama, model_card
from helpers.run_dir.folder import Run
from helpers.sources.hub import TOKENS, nameless_base, public_name

Files = dict[str, Path | bytes]  # names in a repository to a file here, or to its content where that differs


# What Llama's licence asks of whoever passes on a model made from it, beside a copy of the licence.
NOTICE = (
    "Llama 3.1 is licensed under the Llama 3.1 Community License, "
    "Copyright © Meta Platforms, Inc. All Rights Reserved.\n"
)
# Where PEFT and transformers note what a model was loaded from, which may be a folder on this machine.
ORIGIN = {"adapter_config.json": "base_model_name_or_path", "config.json": "_name_or_path"}


def push_to_hub(
    run: Run, repo_id: str, what: Sequence[str] = ("adapter",), private: bool = True, dry_run: bool = False
) -> None:
    """Send `what` (adapter, merged, gguf) to `repo_id`, `repo_id`-merged and `repo_id`-GGUF, and print what was sent.

    With `dry_run` nothing is sent, no token or network is needed, and all that would be sent is printed. InputError for
    a wrong name, a form that the run does not have yet, a damaged file, a missing token, and all that the hub refuses.
    """
    if unknown := [kind for kind in what if kind not in KINDS]:
        raise InputError(f"cannot push {unknown[0]!r}{nearest(unknown[0], list(KINDS))}")
    ids = {kind: _checked_id(repo_id + KINDS[kind].suffix) for kind in KINDS if kind in what}
    repositories, notice = {}, {"NOTICE": NOTICE.encode("utf-8")} if from_llama(run) else {}
    for kind, name in ids.items():
        files = _files(run, kind)  # before the card, which reads some of them
        card = model_card(run, kind, name, ids.get("merged") if kind == "gguf" else None)
        repositories[name] = {"README.md": card.encode("utf-8"), **notice, **files}
    if notice:
        wrong = "" if repo_id.partition("/")[2].startswith("Llama") else ", and a name that begins with Llama"
        print(f"before others see it, Llama's licence asks for a copy of it beside the model{wrong}: {LLAMA_LICENCE}")
    if warning := nameless_base(run.config):
        print(warning)
    api = None if dry_run else HfApi(token=_token())
    for name, files in repositories.items():
        print(_send(api, name, private, files) if api else _described(name, private, files))


def _checked_id(repo_id: str) -> str:
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise InputError(_one_line(error)) from None
    if "/" not in repo_id:
        raise InputError(f"{repo_id!r} has no owner: give it as USER/NAME")
    return repo_id


def _files(run: Run, kind: str) -> Files:
    form = KINDS[kind]
    required = [name.format(run.config.export.kinds[-1]) for name in form.required]
    paths = {name: run.require(f"{form.folder}/{name}", form.stage) for name in required}
    paths |= {path.name: path for pattern in form.patterns for path in sorted((run / form.folder).glob(pattern))}
    return {name: _content(whole(path), public_name(run.config)) for name, path in paths.items()}


def _content(path: Path, base_model: str) -> Path | bytes:
    """The file, or its content with the base model's public name where it names something else."""
    key = ORIGIN.get(path.name)
    settings = read_json(path) if key else {}
    if settings.get(key, base_model) == base_model:
        return path
    return json.dumps({**settings, key: base_model}, indent=2, ensure_ascii=False).encode("utf-8")


def _token() -> str:
    token = get_token()
    if not token:
        raise InputError(
            f"no Hugging Face token: make one that may write at {TOKENS}, then `hf auth login` or HF_TOKEN"
        )
    return token


def _described(name: str, private: bool, files: Files) -> str:
    """Everything that would be sent, for a reader: each file with its size in bytes, and the whole card."""
    sizes = {
        file: len(content) if isinstance(content, bytes) else content.stat().st_size for file, content in files.items()
    }
    lines = [f"{name} ({'private' if private else 'public'})"]
    lines += [f"{size:>17,}  {file}" for file, size in sizes.items()]
    lines += [f"{sum(sizes.values()):>17,}  bytes in {len(sizes)} files", "", "README.md:", ""]
    return "\n".join([*lines, files["README.md"].decode("utf-8")])


def _send(api: HfApi, name: str, private: bool, files: Files) -> str:
    """Make the repository if need be and commit all files at once; returns what was sent, where and who can see it."""
    additions = [CommitOperationAdd(file, content) for file, content in files.items()]
    try:
        url = api.create_repo(name, private=private, exist_ok=True)
        public = not api.model_info(name, expand=["private"]).private
        if public and private:
            raise InputError(f"{name} exists and is public: pass --public, or choose another name")
        api.create_commit(name, additions, commit_message="Publish a run of ai-doctor")
    except InputError:
        raise
    except Exception as error:  # of the hub's library, of the two below it that send, and of the disk
        # Of an upload the library says which file failed, and no more: why is in the cause.
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
        raise InputError(f"cannot push to {name}: {_one_line(cause)}") from error
    return f"sent {len(files)} files to {url} ({'public' if public else 'private'})"


def _one_line(error: BaseException) -> str:
    return shorten(str(error), 300) or type(error).__name__
