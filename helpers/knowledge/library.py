"""What a run looks things up in: the passages of `retrieval.sources`, indexed in the run folder, and synonyms."""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from helpers import PROJECT_ROOT
from helpers.files import project_path, read_json, write_json, write_jsonl
from helpers.knowledge.documents import Passage
from helpers.knowledge.importing import Added
from helpers.knowledge.index import Index
from helpers.knowledge.synonyms import Synonyms, widen
from helpers.questions.multiple_choice import ChoiceQuestion
from helpers.run_dir.folder import Run

CONTEXTS = "contexts.jsonl"  # in the run's retrieval/contexts/
HANDBOOK = PROJECT_ROOT / "helpers/data" / "handbook.jsonl"


@dataclass(frozen=True)
class Library:
    """An index, what its last import did, and a table of synonyms where one is set."""

    index: Index
    added: Added
    synonyms: Synonyms | None

    def widened(self, question: str) -> str:
        return widen(question, self.synonyms) if self.synonyms else question

    @cached_property
    def names(self) -> set[str]:
        """All that a question may call a document which was there at the first look (see `holds`)."""
        parts = (source.split("#") for source in self.index.sources())
        return {"#".join(each[start:]) for each in parts for start in range(len(each))}


def open_library(run: Run, questions: Iterable[ChoiceQuestion] = ()) -> Library:
    """The run's library, made or brought up to date: files that have not changed are not read again.

    The contexts of `questions` (PubMedQA's abstracts) are documents of it too, under what the question names as
    `answered_by`, as long as it is asked. An index of other sources than those set is made anew.
    """
    path, settings = run / "retrieval/index.sqlite", run.config.retrieval
    record, contexts = run / "retrieval/sources.json", run / "retrieval/contexts"
    if record.is_file() and read_json(record) != settings.sources:
        for part in path.parent.glob(f"{path.name}*"):
            shutil.rmtree(part) if part.is_dir() else part.unlink()
    path.parent.mkdir(exist_ok=True)
    write_json(record, settings.sources)
    rows = {q.answered_by: q.context.replace("\n", "\n\n") for q in questions if q.context}
    contexts.mkdir(exist_ok=True)
    if rows:
        write_jsonl(contexts / CONTEXTS, [{"id": name, "title": "Abstract", "text": rows[name]} for name in rows])
    else:
        (contexts / CONTEXTS).unlink(missing_ok=True)
    index = open_index(path, settings.embedder)
    added = index.add([*map(source_path, settings.sources), contexts])
    table = run / "retrieval/synonyms.sqlite"
    synonyms = Synonyms.from_sources(map(project_path, settings.synonyms), table) if settings.synonyms else None
    return Library(index, added, synonyms)


def open_index(path: Path, embedder: str | None) -> Index:
    """The index in that file, which ranks by meaning too where an embedder is named."""
    if not embedder:
        return Index(path)
    from helpers.knowledge.dense import FusedIndex  # numpy and the hub's client

    return FusedIndex(path, embedder)


def source_path(name: str) -> Path:
    """The file or folder of a source's name; `handbook` is the packaged one."""
    return HANDBOOK if name == "handbook" else project_path(name)


def holds(passage: Passage, relevant: str | None) -> bool:
    """Whether a passage is of the document that a question names: by its source, or its row in a .jsonl file."""
    return relevant is not None and (passage.source == relevant or passage.source.endswith(f"#{relevant}"))
