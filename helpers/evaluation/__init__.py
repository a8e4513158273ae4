"""Stage 05: base against tuned on rows and questions kept from training."""

from helpers.scoring.choice import extract_choice
from helpers.scoring.statistics import compare_paired

__all__ = ["compare_paired", "extract_choice"]
