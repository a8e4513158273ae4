"""Asking one question on the command line: the answers of a run's models or of a server, as they come."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial

from helpers.knowledge.documents import Passage
from helpers.prompts.encoding import encode_prompt, split_reasoning
from helpers.run_dir.folder import Run
from helpers.use.client import Ended

Answerer = Callable[[str], Iterator[str | Ended]]


def print_answers(text: str, answerers: dict[str, Answerer], passages: Sequence[Passage] | None) -> None:
    """Print each answerer's reply to `text` as it streams, and its sources; notes go to standard error.

    `passages` are those in the text; None where nobody looked the question up, but perhaps the server.
    """
    print("generated text for study, not medical advice", file=sys.stderr)
    for name, answerer in answerers.items():
        if len(answerers) > 1:
            print(f"## {name}\n")
        reply, found = "", passages
        for piece in answerer(text):
            if isinstance(piece, Ended):
                reply, found = piece.text, piece.sources if passages is None else passages
            else:
                reply += piece
                print(piece, end="", flush=True)
        print(flush=True)
        if not split_reasoning(reply).closed:
            print("(the thought was never closed: no answer)", file=sys.stderr)
        if found is not None:
            from helpers.use.citations import source_lines

            print("\nSources:", *source_lines(found, reply), sep="\n")


def local_answerers(run: Run, sides: Sequence[str]) -> dict[str, Answerer]:
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
