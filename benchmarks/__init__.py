"""Measurements of speed and memory, each beside its rivals and its limit in one run."""
