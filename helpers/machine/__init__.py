"""This computer: its hardware, and the processes that work together on it."""
