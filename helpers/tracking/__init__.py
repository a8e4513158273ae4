"""What is told while a run goes on: progress lines, Weights & Biases, and the keys for it."""
