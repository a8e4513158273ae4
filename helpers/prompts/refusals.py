"""Model families that are refused: their thoughts have other marks than `<think>` and `</think>`.

A module of its own, in modules.LEFT_OUT: what is refused leaves nothing in a run, so a new row here reruns no stage.
"""

# Strings of which one stands in the family's chat templates.
REFUSALS = {
    "gpt-oss": ("<|channel|>",),
    "Gemma 4": ("<|channel>", "<|think|>"),
    "Ministral 3, Magistral": ("[THINK]",),
    "Command A": ("<|START_THINKING|>",),
}


def refused_family(template: str) -> str:
    """The first family with a sign in the chat template, "" if there is none."""
    return next((family for family, signs in REFUSALS.items() if any(sign in template for sign in signs)), "")
