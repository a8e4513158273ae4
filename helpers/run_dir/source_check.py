"""Check the user's own files before a run folder is made or changed."""

from collections import Counter
from collections.abc import Collection

from helpers import InputError
from helpers.config import CORPUS, Config, marked
from helpers.files import project_path


def check_sources(config: Config, changed: Collection[str]) -> None:
    """Read the sources that the `changed` settings name; InputError for a wrong one, before any stage runs.

    Unchanged sources are not read: a finished folder may outlive the files that it was made from.
    """
    if {"evaluation.questions", "evaluation.max_questions"} & set(changed) and config.evaluation.questions != [
        "sample"
    ]:
        from helpers.questions.multiple_choice import choice_questions

        choice_questions(config.evaluation.questions, config.evaluation.max_questions)
    source = config.data.source
    own = (source, config.data.config) not in (("sample", None), ("hub", None))
    if own and any(key.startswith("data.") for key in changed):
        _check_rows(config)
    embedder = config.retrieval.embedder
    if embedder and "retrieval.embedder" in changed and not project_path(embedder).is_dir():
        from helpers.sources.hub import is_hub_id

        if not is_hub_id(embedder):
            raise InputError(f"retrieval.embedder: {embedder} is no folder, and not a hub id like organisation/model")
    for key in marked(CORPUS):
        for name in config.flat()[key] if key in changed else ():
            if name != "handbook" and not project_path(name).exists():
                raise InputError(f"{key}: {name} does not exist")


def _check_rows(config: Config) -> None:
    """InputError for a source that cannot be read, or that leaves nothing to train and to validate on."""
    from helpers.sources.hub import hub_dataset
    from helpers.sources.rows import fault, read_rows

    source = config.data.source
    if source != "sample" and not hub_dataset(source) and not project_path(source).is_file():
        others = "nor a data set's id on the hub (owner/name)"
        raise InputError(f"data.source = {source!r} is neither sample nor hub nor an existing file {others}")
    rows, _ = read_rows(config.data, config.seed)
    faults = Counter(filter(None, map(fault, rows)))
    if len(rows) - faults.total() < 2:
        why = ", ".join(f"{count} x {reason}" for reason, count in faults.items())
        found = f"rows that can be used: {len(rows) - faults.total()} of {len(rows)}" + (f" ({why})" if why else "")
        raise InputError(f"{source}: {found}; to train and to validate takes 2")
