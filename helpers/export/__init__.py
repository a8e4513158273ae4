"""Stage 06: the adapter as things people use: a merged folder, GGUF files, Ollama's Modelfile, model cards."""
