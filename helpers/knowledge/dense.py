"""Search by meaning beside the search by words: an embedder's vectors of an index's passages, and both ranks fused.

Nothing uses it by default, and its gain has not been measured here: measure it on your own questions, with 07's way of
finding, before you rely on it. A vector is the mean of the last layer's over the attention mask, normalised, as most
sentence-transformers models take it; one that pools otherwise, or wants words before a text, is not served well.
"""

import hashlib
import os
import threading
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from glob import escape
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from helpers import InputError
from helpers.files import fingerprint, project_path
from helpers.knowledge.documents import Passage
from helpers.knowledge.index import Index
from helpers.knowledge.store import errors_in_one_line
from helpers.sources.hub import ask_first, explain, is_hub_id

MOST_TOKENS = 512  # of a text; 200 words have some 300
RRF_K = 60  # Cormack, Clarke, Büttcher: Reciprocal Rank Fusion outperforms Condorcet ..., SIGIR 2009
DEPTH = 100  # places of each ranking, at least, that are fused
T = TypeVar("T", bound=Hashable)


class Dense:
    """Vectors of an index's passages by `model_name`, an embedder's hub id or folder, loaded when first needed.

    They lie beside the index in float16: `NAME.dense-EMBEDDER-STATE.npy`, an array of (row, vector). Raises InputError,
    in one line, for an embedder that cannot be used.
    """

    def __init__(self, index: Index, model_name: str) -> None:
        folder = project_path(model_name)
        if not folder.is_dir() and not is_hub_id(model_name):
            raise InputError(f"the embedder {model_name}: no such folder, and not a hub id like organisation/model")
        self.index, self.name, self._folder = index, model_name, folder if folder.is_dir() else None
        self._lock, self._loaded = threading.Lock(), (Path(), np.empty(0))

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (texts, size), each row of length 1; what a text has beyond MOST_TOKENS does not count."""
        import torch

        tokenizer, model = self._model
        most = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None) or MOST_TOKENS)
        how = {"padding": True, "truncation": True, "max_length": min(most, MOST_TOKENS), "return_tensors": "pt"}
        with torch.inference_mode():
            # Half a character, which a query may have, would be an error.
            inputs = tokenizer([text.encode(errors="replace").decode() for text in texts], **how).to(model.device)
            mask = inputs["attention_mask"].unsqueeze(-1)
            summed = (model(**inputs).last_hidden_state * mask).sum(1)
            vectors = torch.nn.functional.normalize(summed / mask.sum(1).clamp(min=1), dim=-1).cpu().numpy()
        if not np.isfinite(vectors).all():
            raise InputError(f"the embedder {self.name}: its vectors are not finite numbers")
        return vectors

    def build(self) -> Path:
        """The file of vectors, made anew where the index has changed; atomic. InputError if it changes meanwhile."""
        return self._built()[1]

    def search(self, query: str, k: int = 10) -> list[Passage]:
        """The k passages nearest in meaning, by cosine, after `build`; [] for a blank query or an empty index."""
        if not isinstance(k, int) or k < 1:
            raise InputError(f"k is {k!r}: it has to be 1 or more")
        if not query.strip():
            return []
        wanted, found = self.embed([query])[0], None
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
            stem = f"{self.index.path.name}.dense-{self._identity}"
            path = self.index.path.with_name(f"{stem}-{_short_hash(state)}.npy")
            if not path.is_file():
                self._write(path, state)
                for old in path.parent.glob(f"{escape(stem)}-*.npy"):
                    old.unlink() if old != path else None
            return state, path

    def _write(self, path: Path, state: str) -> None:
        kind = np.dtype([("row", "<i8"), ("vector", "<f2", len(self.embed(["x"])[0]))])
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
                    vectors = self.embed([f"{each.title}\n{each.text}" for _, _, each in rows])
                    pairs = [(row, vector) for (row, _, _), vector in zip(rows, vectors, strict=True)]
                    file.write(np.array(pairs, kind).tobytes())
                    last = rows[-1][0]
                file.flush()
                os.fsync(file.fileno())
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @cached_property
    def _identity(self) -> str:
        """A short name for these very weights: of the folder's content, or the commit on the hub."""
        commit = self._model[1].config._commit_hash
        return _short_hash(fingerprint(self._folder) if self._folder else f"{self.name} {commit}")

    @cached_property
    def _model(self) -> tuple[Any, Any]:
        """Tokenizer and model, on a GPU where there is one."""
        from torch import cuda, float32
        from transformers import AutoModel, AutoTokenizer

        source = str(self._folder or self.name)
        try:
            if not self._folder:
                ask_first(source)
            tokenizer, model = AutoTokenizer.from_pretrained(source), AutoModel.from_pretrained(source, dtype=float32)
        except Exception as error:  # libraries and the disk, each with errors of its own
            raise InputError(f"the embedder {self.name}: {explain(error, self.name)}") from None
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        return tokenizer, model.eval().to("cuda" if cuda.is_available() else "cpu")


def _short_hash(text: str) -> str:
    """12 hex digits of SHA-256, for a file's name."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


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
