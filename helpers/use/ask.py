"""Asking a run's models one question."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial

from helpers.prompts.encoding import encode_prompt
from helpers.run_dir.folder import Run


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
