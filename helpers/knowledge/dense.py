"""Search by meaning beside the search by words: an embedder's vectors of an index's passages, and both ranks fused.

Off unless `retrieval.embedder` is set; docs/RETRIEVAL.md has what it gains. A vector is the mean of the last layer's
over the attention mask, normalised, as most sentence-transformers models take it; one that pools otherwise, or wants
words before a text, is not served well.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from helpers import InputError
from helpers.files import project_path
from helpers.knowledge.documents import Passage
from helpers.knowledge.index import Index
from helpers.sources.hub import ask_first, explain, is_hub_id

MOST_TOKENS = 512  # of a text; 200 words have some 300
RRF_K = 60  # Cormack, Clarke, Büttcher: Reciprocal Rank Fusion outperforms Condorcet ..., SIGIR 2009
DEPTH = 100  # places of each ranking, at least, that are fused


class FusedIndex(Index):
    """An index whose search also ranks by meaning, by `embedder`: a hub id or folder, else InputError.

    Vectors are in memory, computed anew when the index has changed.
    """

    def __init__(self, path: str | Path, embedder: str) -> None:
        super().__init__(path)
        folder = project_path(embedder)
        if not folder.is_dir() and not is_hub_id(embedder):
            raise InputError(f"the embedder {embedder}: no such folder, and not a hub id like organisation/model")
        self.embedder, self._source = embedder, str(folder) if folder.is_dir() else embedder
        self._known: tuple[str, list[Passage], np.ndarray] | None = None

    def search(self, query: str, k: int = 10) -> list[Passage]:
        """The k best passages by reciprocal rank fusion: `score` is the sum of 1 / (RRF_K + rank), ranks from 1."""
        scores: dict[Passage, float] = {}
        for ranking in (super().search, self.nearest):
            for rank, found in enumerate(ranking(query, max(k, DEPTH)), 1):
                passage = replace(found, score=0.0)
                scores[passage] = scores.get(passage, 0.0) + 1 / (RRF_K + rank)
        best = sorted(scores, key=lambda passage: -scores[passage])[:k]
        return [replace(passage, score=scores[passage]) for passage in best]

    def nearest(self, query: str, k: int = 10) -> list[Passage]:
        """The k passages nearest in meaning, by cosine; [] for a blank query or an empty index."""
        if not query.strip() or not len(self):
            return []
        with self._lock:  # a server's threads wait for the vectors
            if self._known is None or self._known[0] != self.state:
                state, rows = self.rows()
                texts = [f"{passage.title}\n{passage.text}" for _, passage in rows]
                blocks = [self.embed(texts[i : i + 32]) for i in range(0, len(texts), 32)]
                self._known = state, [passage for _, passage in rows], np.concatenate(blocks)
            _, passages, vectors = self._known
        scores = vectors @ self.embed([query])[0]
        return [replace(passages[i], score=float(scores[i])) for i in np.argsort(-scores, kind="stable")[:k]]

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
            raise InputError(f"the embedder {self.embedder}: its vectors are not finite numbers")
        return vectors

    @cached_property
    def _model(self) -> tuple[Any, Any]:
        from torch import cuda, float32
        from transformers import AutoModel, AutoTokenizer

        source = self._source
        try:
            if not Path(source).is_dir():
                ask_first(source)
            how: dict[str, Any] = {"trust_remote_code": False}
            tokenizer = AutoTokenizer.from_pretrained(source, **how)
            model = AutoModel.from_pretrained(source, dtype=float32, use_safetensors=True, **how)
        except Exception as error:  # libraries and the disk, each with errors of its own
            raise InputError(f"the embedder {self.embedder}: {explain(error, self.embedder)}") from None
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        return tokenizer, model.eval().to("cuda" if cuda.is_available() else "cpu")
