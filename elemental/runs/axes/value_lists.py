"""Cut the text of an axis into the texts of its values."""

from __future__ import annotations

import csv
import re


def split_at_commas(text: str) -> list[str]:
    """Cut at commas and line ends; what is blank is left out."""
    return [piece.strip() for piece in re.split(r"[,\n]", text) if piece.strip()]


def split_at_lines(text: str) -> list[str]:
    """Cut at line ends; what is blank is left out."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def split_quoted(text: str) -> list[str]:
    """Cut at commas and line ends, but not inside double quotes, which are left out."""
    rows = csv.reader(split_at_lines(text), skipinitialspace=True)
    return [field.strip() for row in rows for field in row if field.strip()]


def without_comments(text: str) -> str:
    """Leave out what follows a "#" in each line."""
    return "\n".join(line.partition("#")[0] for line in text.splitlines())
