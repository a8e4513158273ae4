"""What a run shows: index.html, model cards, figures, text as Markdown."""
