"""Replies of a model."""
