"""Rows that carry passages, so that a tuned model learns to use and to ignore them; and text to train on as text."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from helpers import InputError
from helpers.knowledge.index import Index
from helpers.knowledge.library import Library, source_path
from helpers.prompts.encoding import encode_example
from helpers.prompts.passages import fit_passages, with_passages
from helpers.sources.rows import Row, seeded_rank

BESIDE = 0.25  # the share of open-book rows whose passages were found for another row
UNSEEN = 0.05  # the share of a corpus's documents that are kept out of training, to measure what was learnt
# A row's options, from the first to the end: they stay out of the query, as in 07.
OPTIONS = re.compile(r"\n\s*\(?A[.):].*", re.DOTALL)


def add_passages(
    rows: Sequence[Row], library: Library, share: float, k: int, seed: int, tokenizer: Any, max_length: int, style: str
) -> list[Row]:
    """The rows, `share` of the training ones with up to `k` passages in front of the question, as 07 writes them.

    Which rows, and whose passages, depends on the seed and the rows' content. One row in four of them gets what was
    found for another row, none of it found for its own: a model that only ever sees the right page learns to believe
    any page. Passages that would make a row longer than `max_length` tokens are left out. A changed row has `passages`.
    """
    train = sorted((row for row in rows if row["split"] == "train"), key=lambda row: seeded_rank(row, seed))
    chosen = train[: round(share * len(train))]
    found = [library.index.search(library.widened(OPTIONS.sub("", row["Question"])), k) for row in chosen]
    changed: dict[int, Row] = {}
    for i, row in enumerate(chosen):
        beside = i < round(BESIDE * len(chosen)) and len(chosen) > 1
        shown = found[i]
        if beside:
            own = {each.source for each in found[i]}
            others = ([each for each in other if each.source not in own] for other in found[i + 1 :] + found[:i])
            shown = next(filter(None, others), [])
        bare = encode_example(tokenizer, row, 10**9, style)
        room = max_length - (len(bare["labels"]) - bare["labels"].count(-100)) if bare else 0
        if kept := fit_passages(tokenizer, row["Question"], shown, room, style):
            about = {"sources": [each.source for each in kept], "beside": beside}  # found for another row
            changed[row["line"]] = {**row, "Question": with_passages(row["Question"], kept), "passages": about}
    return [changed.get(row["line"], row) if row["split"] == "train" else row for row in rows]


def corpus_rows(sources: Sequence[str], seed: int) -> list[Row]:
    """The passages of `data.corpus` in reading order: source, title, text, and `split`, "train" or "unseen".

    UNSEEN of the documents are kept out of training, at least one of two or more. InputError if nothing can be read.
    """
    with TemporaryDirectory() as folder, Index(Path(folder) / "corpus.sqlite") as index:
        added = index.add(map(source_path, sources))  # of versions the newest, as where one searches
        _, found = index.rows()
    documents = {number: passage.source for number, passage in found}
    if not documents:
        why = f": {added.rejected[0].where}: {added.rejected[0].why}" if added.rejected else ""
        raise InputError(f"data.corpus = {list(sources)}: no document could be read{why}")
    ranked = sorted(documents, key=lambda number: hashlib.sha256(f"{seed} {documents[number]}".encode()).digest())
    unseen = set(ranked[: max(round(UNSEEN * len(ranked)), min(1, len(ranked) - 1))])
    return [
        {"source": each.source, "title": each.title, "text": each.text}
        | {"split": "unseen" if number in unseen else "train"}
        for number, each in found
    ]
