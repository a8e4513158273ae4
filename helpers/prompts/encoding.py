"""Prompts, rows with their labels, and replies split into reasoning and answer.

No assistant turn goes through a chat template. R1's keeps only what follows `</think>`, so that TRL's prompt/completion
rows and plain messages lose the reasoning; and no template guarantees, for any family, that the prompt has the ids of
generation, that special tokens in a text stay text, and that nothing is cut.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import shorten
from typing import Any
from weakref import WeakKeyDictionary

from tokenizers import Tokenizer

from helpers import InputError
from helpers.prompts.families import END_THINK, OPENING, THINK, render

TASK = "Reason step by step about this clinical question, then give a concise answer."
PLAIN = (
    "### Task:\nYou are an expert in clinical reasoning, diagnosis and treatment planning. "
    "Think the question through step by step before you answer it.\n\n"
    "### Query:\n{question}\n\n### Answer:\n"
)
_PLACEHOLDER = "\u2983question\u2984"  # stands in for the question while a template is rendered


@dataclass(frozen=True)
class Reasoning:
    """A reply in two parts; `closed`: the thought ended with `</think>`."""

    thinking: str
    answer: str
    closed: bool


def build_prompt(tokenizer: Any, question: str, style: str = "native") -> str:
    """The whole prompt as text, from the beginning-of-sequence token to one `<think>` and a newline.

    "native" puts task and question into one user turn of the model's own chat template: R1's makers advise against a
    system prompt. "plain" is the published Task/Query/Answer layout. Tokenise it with add_special_tokens=False, or use
    `encode_prompt` where the question may contain special tokens.
    """
    before, after = _frame(tokenizer, style)
    return before + question + after


def encode_prompt(tokenizer: Any, question: str, style: str = "native") -> list[int]:
    """Token ids of `build_prompt`, where nothing inside `question` becomes a special token.

    Raises InputError where the vocabulary cannot spell the question.
    """
    if lost := unspellable(tokenizer, question):
        raise InputError(f"the model's vocabulary cannot spell {lost} in the question {shorten(question, 60)!a}")
    before, after = _frame(tokenizer, style)
    if not any(text in question for text in special_strings(tokenizer)):
        # In one piece, as any server tokenises the same prompt.
        return _ids(tokenizer, before + question + after)
    return [*_ids(tokenizer, before), *_plain_ids(tokenizer, question), *_ids(tokenizer, after)]


def encode_example(
    tokenizer: Any, example: Mapping[str, str], max_length: int, style: str = "native"
) -> dict[str, list[int]] | None:
    """Token ids and labels of one row (Question, Complex_CoT, Response), each a list of n <= max_length ints.

    The prompt's labels are -100, which cross-entropy ignores; the others decode to exactly reasoning + `</think>` +
    answer + end-of-sequence. None for a row that does not fit, since a cut row would teach the model to stop thinking
    in mid-sentence, and for one whose reasoning or answer contains a special token's text or whose text contains a
    character that the vocabulary cannot spell (SmolLM2 has `<|endoftext|>` for it).
    """
    question, thinking, answer = example["Question"], example["Complex_CoT"], example["Response"]
    if any(text in part for text in special_strings(tokenizer) for part in (thinking, answer)):
        return None
    if any(unspellable(tokenizer, part) for part in (question, thinking, answer)):
        return None
    prompt = encode_prompt(tokenizer, question, style)
    completion = [*encode_thought(tokenizer, thinking), *_plain_ids(tokenizer, answer), tokenizer.eos_token_id]
    if len(prompt) + len(completion) > max_length:
        return None
    return {"input_ids": prompt + completion, "labels": [-100] * len(prompt) + completion}


def encode_text(tokenizer: Any, text: str, max_length: int) -> dict[str, list[int]] | None:
    """Token ids of a plain text, to be learnt as it stands: labels are the ids, but for the first.

    It begins with the tokenizer's beginning-of-sequence token, where there is one, and ends with its end-of-sequence
    token; nothing in it becomes a special token. None for a text that the vocabulary cannot spell or that does not fit.
    """
    if unspellable(tokenizer, text):
        return None
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    ids = [*begin, *_plain_ids(tokenizer, text), tokenizer.eos_token_id]
    return {"input_ids": ids, "labels": [-100, *ids[1:]]} if len(ids) <= max_length else None


def encode_thought(tokenizer: Any, thinking: str) -> list[int]:
    """Token ids of a thought, where nothing becomes a special token, and of the `</think>` that ends it."""
    # In pieces, so that the tag is always the same tokens: ".</" is a token of its own in some vocabularies.
    tag = tokenizer.get_added_vocab().get(END_THINK)
    return [*_plain_ids(tokenizer, thinking), *([tag] if tag is not None else _plain_ids(tokenizer, END_THINK))]


def split_reasoning(reply: str) -> Reasoning:
    """Split a reply at its last `</think>`.

    Prompts open the thought, so that a reply without a closing tag, or with a `<think>` after the last one, is a
    thought that never ended: all of it is thinking, and there is no answer.
    """
    thinking, tag, answer = reply.rpartition(END_THINK)
    if not tag or THINK in answer:
        return Reasoning(_without_opening(reply), "", closed=False)
    return Reasoning(_without_opening(thinking), answer.strip(), closed=True)


def unspellable(tokenizer: Any, text: str) -> str:
    """The characters of `text` that become the unknown token, as "U+0004, ..."; empty where there are none."""
    unknown = tokenizer.unk_token_id
    if unknown is None or unknown not in _plain_ids(tokenizer, text):
        return ""
    lost = [character for character in dict.fromkeys(text) if unknown in _plain_ids(tokenizer, character)]
    return ", ".join(f"U+{ord(character):04X}" for character in lost)


def special_strings(tokenizer: Any) -> frozenset[str]:
    """Texts of a tokenizer's added tokens, and the two tags whatever the tokenizer."""
    return _plain(tokenizer)[1]


def _without_opening(text: str) -> str:
    return text.strip().removeprefix(THINK).strip()


def _frame(tokenizer: Any, style: str) -> tuple[str, str]:
    """The prompt's text before and after the question."""
    bos = tokenizer.bos_token or ""
    if style == "plain":
        return tuple((bos + PLAIN + OPENING).split("{question}"))
    if style != "native":
        raise InputError(f"unknown prompt style {style!r}; valid: native, plain")
    if not tokenizer.chat_template:
        raise InputError("this tokenizer has no chat template: set model.prompt_style=plain")
    known = _FRAMES.setdefault(tokenizer, {})
    if (bos, tokenizer.chat_template) not in known:
        known[bos, tokenizer.chat_template] = _native_frame(tokenizer, bos)
    return known[bos, tokenizer.chat_template]


def _native_frame(tokenizer: Any, bos: str) -> tuple[str, str]:
    text = render(tokenizer, [{"role": "user", "content": _PLACEHOLDER}])
    # The template of a model exported by this project adds the task itself.
    if TASK not in text and PLAIN.partition("{question}")[0] not in text:
        text = render(tokenizer, [{"role": "user", "content": f"{TASK}\n\n{_PLACEHOLDER}"}])
    before, _, after = text.partition(_PLACEHOLDER)
    if after.rstrip().endswith(THINK):  # newer R1 templates open the thought themselves
        after = after.rstrip().removesuffix(THINK)
    return (before if before.startswith(bos) else bos + before), after + OPENING


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _plain_ids(tokenizer: Any, text: str) -> list[int]:
    return _plain(tokenizer)[0].encode(text, add_special_tokens=False).ids


# Rendering a template takes a millisecond, and a data set has 20,000 rows.
_FRAMES: WeakKeyDictionary[Any, dict[tuple[str, Any], tuple[str, str]]] = WeakKeyDictionary()
_PLAIN: WeakKeyDictionary[Any, tuple[Tokenizer, frozenset[str]]] = WeakKeyDictionary()


def _plain(tokenizer: Any) -> tuple[Tokenizer, frozenset[str]]:
    """The same tokenizer without its added tokens, and the texts of those tokens.

    Without them byte-level BPE spells `<|im_end|>` like any other string. (The library's own split_special_tokens keeps
    `<think>`, which R1 adds as an ordinary token.)
    """
    if tokenizer not in _PLAIN:
        if not getattr(tokenizer, "is_fast", False):
            raise InputError(f"{type(tokenizer).__name__} is not a fast tokenizer, which this project needs")
        description = json.loads(tokenizer.backend_tokenizer.to_str())
        added = {token["content"] for token in description.pop("added_tokens")}
        # Runs of spaces, which some vocabularies add, are text.
        texts = frozenset({text for text in added if text.strip()} | {THINK, END_THINK})
        # Truncation and padding are left over from the tokenizer's last use.
        plain = {**description, "added_tokens": [], "truncation": None, "padding": None}
        plain["normalizer"] = _faithful(description["normalizer"])
        if (description["pre_tokenizer"] or {}).get("type") == "Metaspace":
            plain["pre_tokenizer"] = {**description["pre_tokenizer"], "prepend_scheme": "never"}
        _PLAIN[tokenizer] = (Tokenizer.from_str(json.dumps(plain)), texts)
    return _PLAIN[tokenizer]


def _faithful(normalizer: dict[str, Any] | None) -> dict[str, Any] | None:
    """A normalizer without the parts that change text: Qwen's NFC, and Llama 2's space before each piece."""
    if normalizer is None or normalizer["type"] in ("NFC", "Prepend"):
        return None
    if normalizer["type"] == "Sequence":
        return {**normalizer, "normalizers": [each for each in map(_faithful, normalizer["normalizers"]) if each]}
    return normalizer
