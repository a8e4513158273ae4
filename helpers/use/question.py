"""What may be asked: a question's text, and how long it may be."""

import unicodedata

from helpers import InputError

MAX_QUESTION = 8_000  # characters; about 2,000 tokens of English


def check_question(text: str) -> str:
    """The question without control characters and surrounding spaces; InputError where it is empty or too long."""
    # Cc are the control characters, Cs halves of characters, which cannot be sent.
    question = "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs")).strip()
    if not question:
        raise InputError("the question is empty")
    if len(question) > MAX_QUESTION:
        raise InputError(f"the question has {len(question):,} characters, more than the limit of {MAX_QUESTION:,}")
    return question
