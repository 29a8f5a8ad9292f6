"""A further model and its ratio as one text, FILE:RATIO."""

from __future__ import annotations

from typing import NamedTuple

from ..errors import RecipeError
from .file_texts import read_file_text
from .rules import format_ratio


class MoreText(NamedTuple):
    """What such a text says.

    Attributes:
        file: The file, as it was written.
        ratio: The ratio; None if there is none.
    """

    file: str
    ratio: float | None = None


def parse_more(text: str) -> MoreText:
    """Read a further model and its ratio; colons in the file's name are no matter, a number at the end counts.

    Raises:
        RecipeError: There is no file, or what follows it is no number.
    """
    read = read_file_text(text, most=1)
    if read is None:
        raise RecipeError('A further model is written FILE:RATIO, such as "d.safetensors:0.2".')
    if read.rest is not None:
        raise RecipeError(f'"{read.rest}" is no ratio of the model {read.file}: it is one number, as in FILE:RATIO.')
    return MoreText(read.file, *read.numbers)


def format_more(file: str, ratio: float) -> str:
    """Write a further model and its ratio as a text that :func:`parse_more` reads back."""
    return f"{file}:{format_ratio(ratio)}"
