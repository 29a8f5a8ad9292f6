"""A LoRA and its ratios as one text, FILE:RATIO[:RATIO_TE]."""

from __future__ import annotations

import re
from typing import NamedTuple

from ..errors import RecipeError
from .rules import format_ratio
from .spec_reader import parse_ratio

NUMBER = r"\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\s*"
"""How a ratio is written behind a file."""

_LORA = re.compile(rf"(?P<file>.+?)(?::(?P<ratio>{NUMBER}))?(?::(?P<ratio_te>{NUMBER}))?", re.ASCII | re.DOTALL)
_ENDING = r"\.(?:safetensors|sft|ckpt|pt|pth|bin)"
_FILE_AND_MORE = re.compile(rf"(?P<file>.+{_ENDING}):(?P<more>.*)", re.IGNORECASE | re.DOTALL)


class LoraText(NamedTuple):
    """What such a text says.

    Attributes:
        file: The file, as it was written.
        ratio: The ratio; 1 if there is none.
        ratio_te: That of the text encoders; None for the same.
    """

    file: str
    ratio: float = 1.0
    ratio_te: float | None = None


def parse_lora(text: str) -> LoraText:
    """Read a LoRA and its ratios. Colons in the file's name are no matter: what counts are the numbers at the end.

    Raises:
        RecipeError: There is no file, or what follows it are no numbers.
    """
    match = _LORA.fullmatch(text.strip())
    if match is None:
        raise RecipeError('A LoRA is written FILE:RATIO or FILE:RATIO:RATIO_TE, such as "style.safetensors:0.8".')
    if wrong := _FILE_AND_MORE.fullmatch(match["file"]):
        raise RecipeError(
            f'"{wrong["more"]}" is no ratio of the LoRA {wrong["file"]}: ratios are numbers, FILE:RATIO or '
            "FILE:RATIO:RATIO_TE, the second one for text encoders."
        )
    ratio, ratio_te = (
        None if match[name] is None else parse_ratio(match[name].strip()) for name in ("ratio", "ratio_te")
    )
    return LoraText(match["file"].strip(), 1.0 if ratio is None else ratio, ratio_te)


def without_ending(name: str) -> str:
    """Leave out the ending of a file's name, if it is one of those that LoRAs have; a version's dot is none."""
    return re.sub(rf"(?<=.){_ENDING}$", "", name, flags=re.IGNORECASE)


def format_lora(file: str, ratio: float, ratio_te: float | None) -> str:
    """Write a LoRA and its ratios as a text that :func:`parse_lora` reads back."""
    return ":".join([file, format_ratio(ratio), *([] if ratio_te is None else [format_ratio(ratio_te)])])
