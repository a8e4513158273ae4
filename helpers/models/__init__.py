"""Models and their tokenizers: from the hub, a folder, or this project's own packages."""

from helpers.models.loading import load_tokenizer

__all__ = ["load_tokenizer"]
