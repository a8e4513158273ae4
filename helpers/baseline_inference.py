"""Stage 02: the base model's answers to fixed clinical questions, before any training."""

import time
from dataclasses import asdict
from typing import Any

from helpers.files import write_jsonl
from helpers.generation import stream_together
from helpers.prompts.encoding import encode_prompt, split_reasoning
from helpers.questions import baseline_questions
from helpers.report.markdown import as_markdown
from helpers.run_dir import Run


def predict_baseline(run: Run, model: Any, tokenizer: Any) -> list[dict[str, Any]]:
    """Answer the fixed questions in one batch, show the replies as they grow, and save baseline/predictions.jsonl.

    A prediction has the question, the whole `reply`, its parts `thinking`, `answer` and `closed`, whether it
    `finished` before the token limit, and its number of `tokens`.
    """
    from IPython.display import Markdown, display

    questions, config = baseline_questions(), run.config
    prompts = [encode_prompt(tokenizer, question, config.model.prompt_style) for question in questions]
    handles = [display(Markdown("*thinking …*"), display_id=True) for _ in questions]
    shown = 0.0
    for replies in stream_together(model, tokenizer, prompts, config.generation, config.seed):
        if time.monotonic() - shown > 0.5:
            shown = time.monotonic()
            for handle, question, reply in zip(handles, questions, replies, strict=True):
                handle.update(Markdown(as_markdown(question, reply.text)))
    rows = []
    for handle, question, reply in zip(handles, questions, replies, strict=True):
        handle.update(Markdown(as_markdown(question, reply.text)))
        parts = asdict(split_reasoning(reply.text))
        rows.append(
            {"question": question, "reply": reply.text, **parts, "finished": reply.finished, "tokens": reply.tokens}
        )
    write_jsonl(run / "baseline/predictions.jsonl", rows)
    return rows
