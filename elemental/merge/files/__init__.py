"""Checkpoint files: read, written, found and identified."""
