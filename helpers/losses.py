"""The loss of text that is given: a forward pass over whole rows, without gradients."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import fmean
from typing import Any

from helpers.progress import Progress

POSITIONS = 8192  # tokens that go through the model at a time, padding included


def completion_nll(model: Any, rows: Sequence[dict[str, list[int]]], pad: int, what: str = "rows") -> list[float]:
    """Each row's negative log-likelihood in nats a completion token: the mean over its labels that are not -100.

    Perplexity is exp of the mean. The mean over rows, not over all tokens, so that a long row counts no more than a
    short one and rows can be paired.
    """
    return [fmean(losses) for losses in token_nlls(model, rows, pad, what)]


def token_nlls(model: Any, rows: Sequence[dict[str, list[int]]], pad: int, what: str = "rows") -> list[list[float]]:
    """Of each row the negative log-likelihood, in nats, of every label that is not -100, in order.

    One row at a time is slow and one padded batch is large, so rows of like length go together: up to four, and up to
    2,048 positions, since logits over a vocabulary of 128k take half a GiB for as many.
    """
    import torch

    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]["input_ids"]))
    losses: dict[int, list[float]] = {}
    with Progress(len(rows), what) as progress, forward_only(model) as causal:
        while order:
            width = len(rows[order[0]]["input_ids"])
            size = max(1, min(4, 2048 // width))
            batch, order = order[:size], order[size:]
            ids = torch.tensor([_right(rows[i]["input_ids"], width, pad) for i in batch], device=model.device)
            labels = torch.tensor([_right(rows[i]["labels"], width, -100) for i in batch], device=model.device)
            mask = torch.tensor([_right([1] * len(rows[i]["input_ids"]), width, 0) for i in batch], device=model.device)
            logits = causal(input_ids=ids, attention_mask=mask, use_cache=False).logits
            for i, row, label in zip(batch, logits, labels, strict=True):
                losses[i] = _label_nlls(row[:-1], label[1:])
            progress.update(len(batch))
    return [losses[i] for i in range(len(rows))]


@contextmanager
def forward_only(model: Any) -> Iterator[Any]:
    """In the block the causal model itself, in evaluation mode, without gradients, in the type it was loaded in."""
    import torch

    # Past the wrapper that a trainer puts around the model: it turns all logits into float32, a GiB of them a row.
    causal = causal_model(model)
    was_training = model.training
    model.eval()
    try:
        with (
            torch.inference_mode(),
            torch.autocast(model.device.type, causal.dtype, enabled=causal.dtype != torch.float32),
        ):
            yield causal
    finally:
        model.train(was_training)


def causal_model(model: Any) -> Any:
    """The model itself, without the wrapper that holds its adapters; they stay on, or off."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _label_nlls(logits: Any, labels: Any) -> list[float]:
    """Of the labels that are not -100; in pieces, whose float32 logits fit beside the model."""
    from torch.nn.functional import cross_entropy

    pieces = zip(logits.split(512), labels.split(512), strict=True)
    return [nll for x, y in pieces for nll in cross_entropy(x.float(), y, reduction="none")[y != -100].tolist()]


def _right(values: list[int], width: int, fill: int) -> list[int]:
    return values + [fill] * (width - len(values))


def letter_probabilities(
    model: Any, tokenizer: Any, asked: Sequence[tuple[list[int], str, Sequence[str]]], what: str = "letters"
) -> list[dict[str, float] | None]:
    """Of each (token ids, lead, letters) the probability of each letter after the ids and the lead, `The answer is (`.

    None where the vocabulary does not tell the letters apart by one token. The probabilities are a softmax over the
    letters alone: what the model would say if it had to name one now. The reply itself may state another.
    """
    sequences: dict[int, list[int]] = {}
    tokens: dict[int, list[int]] = {}
    for i, (ids, lead, letters) in enumerate(asked):
        if spelled := _spelled(tokenizer, lead, tuple(letters)):
            before, tokens[i] = spelled
            sequences[i] = [*ids, *before]
    found: list[dict[str, float] | None] = [None] * len(asked)
    if not sequences:
        return found
    order = sorted(sequences, key=lambda i: -len(sequences[i]))
    with Progress(len(order), what) as progress, forward_only(model) as causal:
        while order:
            size = max(1, POSITIONS // len(sequences[order[0]]))
            batch, order = order[:size], order[size:]
            ids, mask = (x.to(model.device) for x in left_padded([sequences[i] for i in batch], tokenizer.pad_token_id))
            places = (mask.cumsum(1) - 1).clamp(min=0)
            logits = causal(
                input_ids=ids, attention_mask=mask, position_ids=places, use_cache=False, logits_to_keep=1
            ).logits
            for i, row in zip(batch, logits[:, -1].float(), strict=True):
                found[i] = dict(zip(asked[i][2], row[tokens[i]].softmax(-1).tolist(), strict=True))
            progress.update(len(batch))
    return found


def _spelled(tokenizer: Any, lead: str, letters: Sequence[str]) -> tuple[list[int], list[int]] | None:
    """The token ids that lead up to the letters, and each letter's next one; None where two letters share it.

    Encoded together, since what stands before a letter may be part of its token.
    """
    spelled = [tokenizer(lead + letter, add_special_tokens=False)["input_ids"] for letter in letters]
    shared = next((i for i, column in enumerate(zip(*spelled, strict=False)) if len(set(column)) > 1), None)
    if shared is None or len({ids[shared] for ids in spelled}) < len(letters):
        return None
    return spelled[0][:shared], [ids[shared] for ids in spelled]


def left_padded(prompts: Sequence[list[int]], pad: int) -> tuple[Any, Any]:
    """Ids and attention mask, (batch, longest), padded on the left: a reply must begin right after its prompt."""
    import torch

    width = max(map(len, prompts))
    ids = [[pad] * (width - len(p)) + p for p in prompts]
    mask = [[0] * (width - len(p)) + [1] * len(p) for p in prompts]
    return torch.tensor(ids), torch.tensor(mask)
