"""The notebooks as one command: which stages have to run, and running them."""
