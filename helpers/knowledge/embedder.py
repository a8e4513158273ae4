"""Texts to vectors, by a transformers model from the hub or a folder.

A vector is the mean of the last layer's over the attention mask, normalised, as most sentence-transformers models take
it. An embedder that pools otherwise, or wants words before a text ("query: "), is not served well by this.
"""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from helpers import InputError
from helpers.files import fingerprint, project_path
from helpers.sources.hub import ask_first, explain, is_hub_id

MOST_TOKENS = 512  # of a text; 200 words have some 300


class Embedder:
    """The model `name`, a hub id or a folder, loaded when first needed; on a GPU where there is one.

    Raises InputError, in one line, where it cannot be loaded or its vectors are not numbers.
    """

    def __init__(self, name: str) -> None:
        folder = project_path(name)
        if not folder.is_dir() and not is_hub_id(name):
            raise InputError(f"the embedder {name}: no such folder, and not a hub id like organisation/model")
        self.name, self._folder = name, folder if folder.is_dir() else None

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (texts, size), each row of length 1; what a text has beyond MOST_TOKENS does not count."""
        import torch

        tokenizer, model = self._loaded
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

    @cached_property
    def identity(self) -> str:
        """A short name for these very weights: of the folder's content, or the commit on the hub."""
        commit = self._loaded[1].config._commit_hash
        return short_hash(fingerprint(self._folder) if self._folder else f"{self.name} {commit}")

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from torch import cuda, float32
        from transformers import AutoModel, AutoTokenizer

        source = str(self._folder or self.name)
        try:
            if not self._folder:
                ask_first(source)
            how: dict[str, Any] = {"trust_remote_code": False}
            tokenizer = AutoTokenizer.from_pretrained(source, **how)
            model = AutoModel.from_pretrained(source, dtype=float32, use_safetensors=True, **how)
        except Exception as error:  # libraries and the disk, each with errors of its own
            raise InputError(f"the embedder {self.name}: {explain(error, self.name)}") from None
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        return tokenizer, model.eval().to("cuda" if cuda.is_available() else "cpu")


def short_hash(text: str) -> str:
    """12 hex digits of SHA-256, for a file's name."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]
