"""Losses and next-token probabilities of given text; `completion_loss`, on a CPU, is also what training minimises."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import fmean
from typing import Any, NamedTuple

from helpers.machine.processes import shared_out, weights_spread
from helpers.tracking.progress import Progress

# Tokens that go through the model at a time, padding included: a CPU's caches hold the activations of few.
POSITIONS, POSITIONS_CPU = 8192, 1024


def completion_nll(model: Any, rows: Sequence[dict[str, list[int]]], pad: int, what: str = "rows") -> list[float]:
    """Each row's negative log-likelihood in nats a completion token: the mean over its labels that are not -100."""
    return [fmean(losses) for losses in token_nlls(model, rows, pad, what)]


def token_nlls(model: Any, rows: Sequence[dict[str, list[int]]], pad: int, what: str = "rows") -> list[list[float]]:
    """The negative log-likelihood, in nats, of each row's labels that are not -100, in order.

    Several processes share the rows out (so does `letter_probabilities` its texts), and all return all of them.
    Rows of similar length share a batch: up to four, and up to 2,048 positions, whose logits over a vocabulary of 128k
    take half a GiB.
    """
    return shared_out(rows, lambda share: _token_nlls(model, share, pad, what))


def _token_nlls(model: Any, rows: Sequence[dict[str, list[int]]], pad: int, what: str) -> list[list[float]]:
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
            logits, following = _completion_logits(causal, labels, input_ids=ids, attention_mask=mask)
            for i, row, label in zip(batch, logits, following, strict=True):
                losses[i] = _label_nlls(row, label)
            progress.update(len(batch))
    return [losses[i] for i in range(len(rows))]


@contextmanager
def forward_only(model: Any) -> Iterator[Any]:
    """The causal model in evaluation mode, without gradients, in the type it was loaded in."""
    import torch

    # Without the trainer's wrapper, which converts all logits to float32: a GiB a row. Weights that are spread over
    # processes come together in that wrapper's forward pass.
    spread = weights_spread()
    causal = model if spread else causal_model(model)
    was_training = model.training
    model.eval()
    try:
        with (
            torch.no_grad() if spread else torch.inference_mode(),
            torch.autocast(model.device.type, causal.dtype, enabled=causal.dtype != torch.float32),
        ):
            yield causal
    finally:
        model.train(was_training)


def completion_loss(model: Any, inputs: dict[str, Any], count: Any = None) -> Any:
    """Cross-entropy over the labels that are not -100, in nats: their mean, or their sum over `count`.

    `inputs` are a trainer's, each (batch, positions). It is the loss that the model would compute itself, without
    logits over the prompts: the head and its softmax are a good part of a small model's step on a CPU.
    """
    from torch.nn.functional import cross_entropy

    given = {name: value for name, value in inputs.items() if name != "labels"}
    logits, labels = _completion_logits(model, inputs["labels"], **given)
    trained = labels != -100
    loss = cross_entropy(logits[trained].float(), labels[trained], reduction="sum")
    return loss / (trained.sum() if count is None else count)


def _completion_logits(causal: Any, labels: Any, **given: Any) -> tuple[Any, Any]:
    """Logits from the position before the first label of any row on, each with the label that it predicts."""
    labelled = (labels != -100).any(0).nonzero()
    first = int(labelled[0]) if len(labelled) else labels.shape[1]  # none in a batch that fills an epoch's last step
    keep = labels.shape[1] - first + 1
    return causal(**given, use_cache=False, logits_to_keep=keep).logits[:, :-1], labels[:, first:]


def causal_model(model: Any) -> Any:
    """The model without PEFT's wrapper; its adapters stay on, or off."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _label_nlls(logits: Any, labels: Any) -> list[float]:
    """For the labels that are not -100; in pieces, whose float32 logits fit beside the model."""
    from torch.nn.functional import cross_entropy

    pieces = zip(logits.split(512), labels.split(512), strict=True)
    return [nll for x, y in pieces for nll in cross_entropy(x.float(), y, reduction="none")[y != -100].tolist()]


def _right(values: list[int], width: int, fill: int) -> list[int]:
    return values + [fill] * (width - len(values))


class Forced(NamedTuple):
    """An answer to be forced after a text: its token ids, how the answer begins, and the letters that may follow."""

    ids: list[int]
    lead: str
    letters: list[str]


def letter_probabilities(
    model: Any, tokenizer: Any, forced: Sequence[Forced], what: str = "letters"
) -> list[dict[str, float] | None]:
    """The probabilities of each text's letters, a softmax over them alone.

    So it is what the model would say if it had to name one now; its reply may state another. None where the vocabulary
    does not tell the letters apart by one token.
    """
    return shared_out(forced, lambda share: _letter_probabilities(model, tokenizer, share, what))


def _letter_probabilities(
    model: Any, tokenizer: Any, forced: Sequence[Forced], what: str
) -> list[dict[str, float] | None]:
    spelled = [_spelled(tokenizer, each.lead, each.letters) for each in forced]
    texts = {i: [*forced[i].ids, *each[0]] for i, each in enumerate(spelled) if each}
    order = sorted(texts, key=lambda i: -len(texts[i]))
    found: list[dict[str, float] | None] = [None] * len(forced)
    positions = POSITIONS_CPU if model.device.type == "cpu" else POSITIONS
    with Progress(len(order), what) as progress, forward_only(model) as causal:
        while order:
            size = max(1, positions // len(texts[order[0]]))
            batch, order = order[:size], order[size:]
            padded = left_padded([texts[i] for i in batch], tokenizer.pad_token_id)
            ids, mask = (each.to(causal.device) for each in padded)
            where = {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
            logits = causal(input_ids=ids, **where, use_cache=False, logits_to_keep=1).logits[:, -1].float()
            for i, row in zip(batch, logits, strict=True):
                probabilities = row[spelled[i][1]].softmax(-1).tolist()
                found[i] = dict(zip(forced[i].letters, probabilities, strict=True))
            progress.update(len(batch))
    return found


def _spelled(tokenizer: Any, lead: str, letters: Sequence[str]) -> tuple[list[int], list[int]] | None:
    """The ids of the lead, and the next id of each letter; None where two letters share it.

    Encoded together, since the end of the lead may be part of a letter's token.
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
