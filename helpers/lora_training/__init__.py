"""Stage 04: train LoRA adapters on the prepared rows."""
