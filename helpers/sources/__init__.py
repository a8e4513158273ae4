"""Rows in: from the packaged sample, the hub, or a user's file."""
