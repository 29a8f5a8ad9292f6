"""Merge Stable Diffusion checkpoints element by element."""

from __future__ import annotations

__version__ = "0.1.0.dev0"
