"""Experiments to read and to run: each is one file that ends in `python -m examples.<name>`."""
