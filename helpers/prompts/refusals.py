"""Model families that are refused, with the reason.

A module of its own, in modules.LEFT_OUT: what is refused leaves nothing in a run, so a new row here reruns no stage.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Refusal:
    """`signs`: strings of which one stands in the family's chat templates; `missing`: why it is refused."""

    family: str
    signs: tuple[str, ...]
    missing: str


_OTHER_MARKS = "it encloses its thought in {} instead of <think> and </think>, and no encoding for that is written yet"

REFUSALS = (
    Refusal("gpt-oss", ("<|channel|>",), "its thought is a message of its own (the harmony format)"),
    Refusal("Gemma 4", ("<|channel>", "<|think|>"), _OTHER_MARKS.format("<|channel>thought and <channel|>")),
    Refusal("Ministral 3, Magistral", ("[THINK]",), _OTHER_MARKS.format("[THINK] and [/THINK]")),
    Refusal("Command A", ("<|START_THINKING|>",), _OTHER_MARKS.format("<|START_THINKING|> and its like")),
)


def refusal(template: str) -> Refusal | None:
    """The first row with a sign in the chat template, if there is one."""
    return next((row for row in REFUSALS if any(sign in template for sign in row.signs)), None)
