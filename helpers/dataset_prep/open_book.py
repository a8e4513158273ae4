"""Rows that carry passages, so that a tuned model learns to use and to ignore them; and text to train on as text."""

import hashlib
import re
from collections.abc import Sequence
from typing import Any

from helpers import InputError
from helpers.knowledge.corpora import read_documents
from helpers.knowledge.documents import Deletion, Document, Rejection, passages
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
    any page. Passages that would make a row longer than `max_length` tokens are left out. A changed row has
    `passages`: `sources`, and `beside` (found for another row).
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
            about = {"sources": [each.source for each in kept], "beside": beside}
            changed[row["line"]] = {**row, "Question": with_passages(row["Question"], kept), "passages": about}
    return [changed.get(row["line"], row) if row["split"] == "train" else row for row in rows]


def corpus_rows(sources: Sequence[str], seed: int) -> list[Row]:
    """The passages of `data.corpus` in reading order: source, title, text, and `split`, "train" or "unseen".

    UNSEEN of the documents are kept out of training, at least one of two or more. InputError if nothing can be read.
    """
    latest: dict[tuple[str, str], Document | Deletion] = {}
    rejected: list[Rejection] = []
    for name in sources:
        for item in read_documents(source_path(name)):
            if isinstance(item, Rejection):
                rejected.append(item)
                continue
            # As in the index: what has no version is known by its name within its source, notes.md say.
            key = ("" if item.version else name, item.source)
            if key not in latest or latest[key].version <= item.version:
                latest[key] = item
    documents = {key: item for key, item in latest.items() if isinstance(item, Document)}
    if not documents:
        why = f": {rejected[0].where}: {rejected[0].why}" if rejected else ""
        raise InputError(f"data.corpus = {list(sources)}: no document could be read{why}")
    ranked = sorted(documents, key=lambda key: hashlib.sha256(f"{seed} {key[1]}".encode()).digest())
    unseen = set(ranked[: max(round(UNSEEN * len(ranked)), min(1, len(ranked) - 1))])
    return [
        {"source": key[1], "title": each.title, "text": each.text, "split": "unseen" if key in unseen else "train"}
        for key, document in documents.items()
        for each in passages(document)
    ]
