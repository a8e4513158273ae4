"""What stands around a question, a thought and an answer, for every model family."""

from helpers.prompts.encoding import build_prompt, split_reasoning

__all__ = ["build_prompt", "split_reasoning"]
