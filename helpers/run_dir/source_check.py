"""Check what a run's settings name, files and what is on the hub, before its folder is made or changed."""

from collections import Counter
from collections.abc import Collection

from helpers import InputError
from helpers.config import CORPUS, Config, marked
from helpers.files import project_path


def check_sources(config: Config, changed: Collection[str]) -> None:
    """Look at the sources that the `changed` settings name; InputError for a wrong one, before any stage runs.

    Unchanged ones are not looked at: a finished folder may outlive the files that it was made from. Of models and of
    `hub` nothing is downloaded: the hub is asked once, and where it does not answer, the cache must have them.
    """
    if {"evaluation.questions", "evaluation.max_questions"} & set(changed) and config.evaluation.questions != [
        "sample"
    ]:
        from helpers.questions.multiple_choice import choice_questions

        choice_questions(config.evaluation.questions, config.evaluation.max_questions)
    source = config.data.source
    if (source, config.data.config) != ("sample", None) and any(key.startswith("data.") for key in changed):
        _check_rows(config)
    if {"model.name", "model.revision"} & set(changed) and config.model.name not in ("tiny", "embedded"):
        _check_model("model.name", config.model.name, config.model.revision)
    if config.retrieval.embedder and "retrieval.embedder" in changed:
        _check_model("retrieval.embedder", config.retrieval.embedder)
    for key in marked(CORPUS):
        for name in config.flat()[key] if key in changed else ():
            if name != "handbook" and not project_path(name).exists():
                raise InputError(f"{key}: {name} does not exist")


def _check_rows(config: Config) -> None:
    """InputError for a source that cannot be read, or that leaves nothing to train and to validate on."""
    from helpers.sources.hub import HUB_CONFIG, HUB_DATASET, check_dataset, hub_dataset
    from helpers.sources.rows import INSTEAD, fault, read_rows

    source = config.data.source
    if (source, config.data.config) == ("hub", None):  # whose rows are known to be good
        check_dataset(HUB_DATASET, HUB_CONFIG, "train", config.data.revision, INSTEAD)
        return
    if source != "sample" and not hub_dataset(source) and not project_path(source).is_file():
        others = "nor a data set's id on the hub (owner/name)"
        raise InputError(f"data.source = {source!r} is neither sample nor hub nor an existing file {others}")
    rows, _ = read_rows(config.data, config.seed)
    faults = Counter(filter(None, map(fault, rows)))
    if len(rows) - faults.total() < 2:
        why = ", ".join(f"{count} x {reason}" for reason, count in faults.items())
        found = f"rows that can be used: {len(rows) - faults.total()} of {len(rows)}" + (f" ({why})" if why else "")
        raise InputError(f"{source}: {found}; to train and to validate takes 2")


def _check_model(key: str, name: str, revision: str | None = None) -> None:
    """InputError for a name that is neither a folder nor a hub id, and for a model that cannot be had now."""
    from httpx import HTTPError

    from helpers.sources.hub import ask_first, explain, is_hub_id

    if project_path(name).is_dir():
        return
    if not is_hub_id(name):
        raise InputError(f"{key}: {name} is neither a folder nor a hub id like organisation/model")
    try:
        ask_first(name, revision)
    except (OSError, HTTPError, UnicodeEncodeError) as error:
        raise InputError(f"{key}: cannot get {name}: {explain(error, name, revision)}") from None
