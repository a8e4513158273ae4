"""Stage 02: the base model's answers to fixed clinical questions, before any training."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from helpers.files import write_jsonl
from helpers.generation.replies import stream_together
from helpers.prompts.encoding import encode_prompt, split_reasoning
from helpers.prompts.families import END_THINK, THINK
from helpers.questions.multiple_choice import baseline_questions
from helpers.report.markdown import as_markdown
from helpers.run_dir.folder import Run, alone


@alone
def predict_baseline(run: Run, model: Any, tokenizer: Any) -> list[dict[str, Any]]:
    """Answer the fixed questions in one batch, show the first reply as it grows, and save baseline/predictions.jsonl.

    A prediction has the question, the whole `reply`, its parts `thinking`, `answer` and `closed`, whether it
    `finished` before the token limit, and its number of `tokens`.
    """
    from IPython.display import Markdown, display

    questions, config = baseline_questions(), run.config
    prompts = [encode_prompt(tokenizer, question, config.model.prompt_style) for question in questions]
    first = display(Markdown("*thinking …*"), display_id=True)
    shown = 0.0
    for replies in stream_together(model, tokenizer, prompts, config.generation, config.seed):
        if time.monotonic() - shown > 0.5:
            shown = time.monotonic()
            first.update(Markdown(as_markdown(questions[0], replies[0].text)))
    first.update(Markdown(as_markdown(questions[0], replies[0].text)))
    rows = []
    for question, reply in zip(questions, replies, strict=True):
        parts = asdict(split_reasoning(reply.text))
        rows.append(
            {"question": question, "reply": reply.text, **parts, "finished": reply.finished, "tokens": reply.tokens}
        )
    write_jsonl(run / "baseline/predictions.jsonl", rows)
    return rows


def token_pieces(tokenizer: Any, prompt: Sequence[int], reply: str, finished: bool) -> list[tuple[str, str]]:
    """The tokens of a prompt and a reply, each as (text, kind): prompt, <think>, thought, </think>, answer or end."""
    pieces = [(tokenizer.decode([token]), "prompt") for token in prompt]
    opening = next(i for i in range(len(pieces) - 1, -1, -1) if THINK in "".join(text for text, _ in pieces[i:]))
    pieces[opening:] = [(text, THINK) for text, _ in pieces[opening:]]
    thinking, tag, answer = reply.rpartition(END_THINK) if split_reasoning(reply).closed else (reply, "", "")
    for text, kind in ((thinking, "thought"), (tag, END_THINK), (answer, "answer")):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        pieces += [(tokenizer.decode([token]), kind) for token in ids]
    return [*pieces, (tokenizer.eos_token, "end")] if finished else pieces


def shortened(pieces: Sequence[tuple[str, str]], longest: int = 40) -> list[tuple[str, str]]:
    """Pieces where each run of more than `longest` tokens of one kind has its middle left out, and says so.

    It goes on at the beginning of a word.
    """
    short: list[tuple[str, str]] = []
    for kind in dict.fromkeys(kind for _, kind in pieces):
        run = [piece for piece in pieces if piece[1] == kind]
        if len(run) > longest:
            half = longest // 2
            last = range(len(run) - half, len(run))
            on = next((i for i in last if run[i][0][:1].isspace()), last.start)
            run = [*run[:half], (f" … {on - half} tokens …", kind), *run[on:]]
        short += run
    return short


def next_token_remark(token: str, probability: float, sharpened: float, temperature: float) -> str:
    """What the probabilities of one next token say: of the likeliest, as it is and at a temperature."""
    if probability < 0.01:
        return f"The likeliest next token, {token!r}, has less than 1%: this model, untrained perhaps, favours none."
    sentence = f"The likeliest next token, {token!r}, has a probability of {probability:.0%}"
    return f"{sentence}; greedy always takes it, and drawing at temperature {temperature} takes it in {sharpened:.0%}."


def pieces_remark(pieces: Sequence[tuple[str, str]]) -> str:
    """How many tokens of each kind there are, and which part of a whole reply is missing."""
    counts = {kind: sum(other == kind for _, other in pieces) for kind in ("prompt", "thought", "answer")}
    sentence = ", ".join(f"{kind} {count}" for kind, count in counts.items())
    kinds = {kind for _, kind in pieces}
    if missing := [kind for kind in (END_THINK, "answer", "end") if kind not in kinds]:
        return f"Tokens: {sentence}. This reply lacks {', '.join(missing)}."
    return f"Tokens: {sentence}. This reply has all its parts."


def replies_remark(rows: Sequence[Mapping[str, Any]], limit: int) -> str:
    """What the fixed questions' replies show: thoughts that were closed, replies that ended within `limit` tokens."""
    n, closed, ended = len(rows), sum(row["closed"] for row in rows), sum(row["finished"] for row in rows)
    sentence = f"{closed} of {n} replies closed their thought, and {ended} of {n} ended within {limit} tokens."
    if not closed:
        return f"{sentence} Without a closed thought there is no answer to read, whatever the reasoning says."
    return f"{sentence} {closed} can be judged by the answer; {n} questions are too few to say how often it is right."
