"""Stage 07: look things up before answering; whether the search finds, and whether reading helps."""

from helpers.knowledge.documents import Passage
from helpers.knowledge.index import Index

__all__ = ["Index", "Passage"]
