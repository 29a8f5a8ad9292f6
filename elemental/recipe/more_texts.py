"""A further model and its ratio as one text, FILE:RATIO."""

from __future__ import annotations

import re
from typing import NamedTuple

from ..errors import RecipeError
from .lora_texts import NUMBER
from .rules import format_ratio
from .spec_reader import parse_ratio

_MORE = re.compile(rf"(?P<file>.+?)(?::(?P<ratio>{NUMBER}))?", re.ASCII | re.DOTALL)
_FILE_AND_REST = re.compile(
    r"(?P<file>.+\.(?:safetensors|sft|ckpt|pt|pth|bin|json)):(?P<rest>.*)", re.IGNORECASE | re.DOTALL
)


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
    match = _MORE.fullmatch(text.strip())
    if match is None:
        raise RecipeError('A further model is written FILE:RATIO, such as "d.safetensors:0.2".')
    if wrong := _FILE_AND_REST.fullmatch(match["file"]):
        raise RecipeError(
            f'"{wrong["rest"]}" is no ratio of the model {wrong["file"]}: it is one number, as in FILE:RATIO.'
        )
    return MoreText(match["file"].strip(), None if match["ratio"] is None else parse_ratio(match["ratio"].strip()))


def format_more(file: str, ratio: float) -> str:
    """Write a further model and its ratio as a text that :func:`parse_more` reads back."""
    return f"{file}:{format_ratio(ratio)}"
