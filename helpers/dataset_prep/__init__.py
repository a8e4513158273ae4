"""Stage 03: from a table of questions, reasoning and answers to the rows that are trained on."""

from helpers.prompts.encoding import encode_example

__all__ = ["encode_example"]
