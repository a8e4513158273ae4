"""The run folder: opened and bound to its settings, owned, copied, and what each stage leaves in it."""
