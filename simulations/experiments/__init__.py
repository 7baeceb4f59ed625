"""Experiments over many runs. Each is one command and ends in one file of ``simulations/results``."""
