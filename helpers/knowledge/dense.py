"""Search by meaning beside the search by words: an embedder's vectors of an index's passages, and both ranks fused.

Nothing uses it by default, and its gain has not been measured here: measure it on your own questions, with 07's way of
finding, before you rely on it.
"""

import os
import threading
from collections.abc import Hashable, Iterable
from dataclasses import replace
from glob import escape
from pathlib import Path
from typing import TypeVar

import numpy as np

from helpers import InputError
from helpers.knowledge.documents import Passage
from helpers.knowledge.embedder import Embedder, short_hash
from helpers.knowledge.index import Index
from helpers.knowledge.store import errors_in_one_line

RRF_K = 60  # Cormack, Clarke, Büttcher: Reciprocal Rank Fusion outperforms Condorcet ..., SIGIR 2009
DEPTH = 100  # places of each ranking, at least, that are fused
T = TypeVar("T", bound=Hashable)


class Dense:
    """Vectors of an index's passages by `model_name`, an embedder's hub id or folder, which is loaded when needed.

    They lie beside the index in float16: `NAME.dense-EMBEDDER-STATE.npy`, an array of (row, vector). Raises InputError,
    in one line, for an embedder that cannot be used.
    """

    def __init__(self, index: Index, model_name: str) -> None:
        self.index, self.embedder = index, Embedder(model_name)
        self._lock, self._loaded = threading.Lock(), (Path(), np.empty(0))

    def build(self) -> Path:
        """The file of vectors, made anew where the index has changed; atomic. InputError if it changes meanwhile."""
        return self._built()[1]

    def search(self, query: str, k: int = 10) -> list[Passage]:
        """The k passages nearest in meaning, by cosine, after `build`; [] for a blank query or an empty index."""
        if not isinstance(k, int) or k < 1:
            raise InputError(f"k is {k!r}: it has to be 1 or more")
        if not query.strip():
            return []
        wanted, found = self.embedder.embed([query])[0], None
        while found is None:  # again where the index has changed since
            state, path = self._built()
            with self._lock, errors_in_one_line(path):
                if self._loaded[0] != path:
                    self._loaded = path, np.load(path, mmap_mode="r")
                table = self._loaded[1]
            blocks = (table[i : i + 8192]["vector"].astype(np.float32) @ wanted for i in range(0, len(table), 8192))
            scores = np.concatenate([np.empty(0, np.float32), *blocks])
            best = np.argsort(-scores, kind="stable")[:k]
            found = self.index.passages_at([(int(table["row"][i]), float(scores[i])) for i in best], state)
        return found

    def _built(self) -> tuple[str, Path]:
        with self._lock:
            state, _ = self.index.rows(limit=0)
            stem = f"{self.index.path.name}.dense-{self.embedder.identity}"
            path = self.index.path.with_name(f"{stem}-{short_hash(state)}.npy")
            if not path.is_file():
                self._write(path, state)
                for old in path.parent.glob(f"{escape(stem)}-*.npy"):
                    old.unlink() if old != path else None
            return state, path

    def _write(self, path: Path, state: str) -> None:
        kind = np.dtype([("row", "<i8"), ("vector", "<f2", len(self.embedder.embed(["x"])[0]))])
        head = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": (len(self.index),)}
        temporary, last = path.with_name(f".{path.name}.{os.getpid()}.tmp"), 0
        try:
            with errors_in_one_line(path), open(temporary, "wb") as file:
                np.lib.format.write_array_header_2_0(file, head)
                while True:
                    now, rows = self.index.rows(last, 32)
                    if now != state:
                        raise InputError(f"the index {self.index.path} changed while its vectors were made: try again")
                    if not rows:
                        break
                    vectors = self.embedder.embed([text for _, text in rows])
                    file.write(np.array([(row, v) for (row, _), v in zip(rows, vectors, strict=True)], kind).tobytes())
                    last = rows[-1][0]
                file.flush()
                os.fsync(file.fileno())
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def fused(index: Index, dense: Dense, query: str, k: int = 10) -> list[Passage]:
    """The k best passages of BM25's ranking and the embedder's together; `score` is the fused one."""
    rankings = [[replace(each, score=0.0) for each in one.search(query, max(k, DEPTH))] for one in (index, dense)]
    return [replace(each, score=score) for each, score in fuse(rankings)[:k]]


def fuse(rankings: Iterable[Iterable[T]]) -> list[tuple[T, float]]:
    """Reciprocal rank fusion: each item with the sum of 1 / (RRF_K + rank), ranks from 1; equals as they came."""
    scores: dict[T, float] = {}
    for ranking in rankings:
        for rank, item in enumerate(dict.fromkeys(ranking), 1):
            scores[item] = scores.get(item, 0.0) + 1 / (RRF_K + rank)
    return sorted(scores.items(), key=lambda each: -each[1])
