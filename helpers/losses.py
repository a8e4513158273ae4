"""The loss of text that is given: a forward pass over whole rows, without gradients."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import fmean
from typing import Any

from helpers.progress import Progress


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
