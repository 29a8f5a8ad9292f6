"""A LoRA and its ratios as one text, FILE:RATIO[:RATIO_TE]."""

from __future__ import annotations

import re
from typing import NamedTuple

from ..errors import RecipeError
from .file_texts import ENDINGS, read_file_text
from .rules import format_ratio


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
    read = read_file_text(text, most=2)
    if read is None:
        raise RecipeError('A LoRA is written FILE:RATIO or FILE:RATIO:RATIO_TE, such as "style.safetensors:0.8".')
    if read.rest is not None:
        raise RecipeError(
            f'"{read.rest}" is no ratio of the LoRA {read.file}: ratios are numbers, FILE:RATIO or '
            "FILE:RATIO:RATIO_TE, the second one for text encoders."
        )
    ratio, ratio_te = (*read.numbers, None, None)[:2]
    return LoraText(read.file, 1.0 if ratio is None else ratio, ratio_te)


def without_ending(name: str) -> str:
    """Leave out the ending of a file's name, if it is one of those that LoRAs have; a version's dot is none."""
    return re.sub(rf"(?<=.){ENDINGS}$", "", name, flags=re.IGNORECASE)


def format_lora(file: str, ratio: float, ratio_te: float | None) -> str:
    """Write a LoRA and its ratios as a text that :func:`parse_lora` reads back."""
    return ":".join([file, format_ratio(ratio), *([] if ratio_te is None else [format_ratio(ratio_te)])])
