"""Text to look things up in: corpora as they come, passages of them, an index to search, synonyms to widen a query."""
