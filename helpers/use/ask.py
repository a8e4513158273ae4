"""Asking one question: what it may be, and the answer of a run's models."""

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial

from helpers import InputError
from helpers.prompts.encoding import encode_prompt
from helpers.run_dir.folder import Run

MAX_QUESTION = 8_000  # characters; about 2,000 tokens of English


def check_question(text: str) -> str:
    """The question without control characters and surrounding spaces; InputError where it is empty or too long."""
    # Cc are the control characters, Cs halves of characters, which cannot be sent.
    question = "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs")).strip()
    if not question:
        raise InputError("the question is empty")
    if len(question) > MAX_QUESTION:
        raise InputError(f"the question has {len(question):,} characters, more than the limit of {MAX_QUESTION:,}")
    return question


def local_answerers(run: Run, sides: Sequence[str]) -> dict[str, Callable[[str], Iterator[str]]]:
    """A run's "base" and "tuned" model with transformers, prompted as in 05; one model is loaded for both."""
    from helpers.generation.replies import stream
    from helpers.models.loading import load_base, load_tokenizer, load_with_adapter

    config, tokenizer = run.config, load_tokenizer(run.config.model)
    adapter = run.require("adapter", "04_lora_training (or ask with --base)") if "tuned" in sides else None
    model = load_with_adapter(config, adapter) if adapter else load_base(config)

    def pieces(side: str, question: str) -> Iterator[str]:
        prompt = encode_prompt(tokenizer, question, config.model.prompt_style)
        with model.disable_adapter() if adapter and side == "base" else nullcontext():
            yield from stream(model, tokenizer, prompt, config.generation, config.seed)

    return {side: partial(pieces, side) for side in sides}
