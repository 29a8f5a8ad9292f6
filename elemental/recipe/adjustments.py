"""Adjustments of detail, contrast, brightness and colours: eight numbers, and what they do to six tensors.

Source of names, order and figures: ``fineman`` and ``colorcalc`` in scripts/mergers/mergers.py of
github.com/hako-mikan/sd-webui-supermerger, whose users know them as "adjust".
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from ..architectures.blocks import SDXL, Architecture
from ..architectures.keys import FIRST_CONV, UNET_PREFIX
from ..errors import RecipeError
from .lookalikes import plain_text
from .rule_hints import explain_ratio
from .rules import format_ratio
from .spec_reader import parse_ratio

NAMES = ("IN", "OUT", "OUT2", "CONT", "BRI", "COL1", "COL2", "COL3")
"""The numbers in their order, by supermerger's names."""

_FIRST_BIAS = FIRST_CONV.removesuffix("weight") + "bias"
_OUT, _LAST = UNET_PREFIX + "out.0.", UNET_PREFIX + "out.2."
_NAMES_BY_KEY = {
    FIRST_CONV: "IN",
    _FIRST_BIAS: "IN",
    _OUT + "weight": "OUT",
    _OUT + "bias": "OUT",
    _LAST + "weight": "OUT2",
    _LAST + "bias": "CONT, BRI, COL1, COL2 or COL3",
}
_COLOURS = ((-1, 1 / 3, 2 / 3), (1, 1, 0), (0, -1, -1), (1, 0, 1))
_COLOURS_SDXL = ((0, 0, 1), (1, 0, 0), (-1, -1, 0), (-1, 1, 0))
"""What BRI, COL1, COL2 and COL3 add to the last three latent channels, in steps of 0.02."""


class Adjustment(NamedTuple):
    """What is done with the numbers of a tensor.

    Attributes:
        factor: What each is multiplied with.
        shift: What is added after that, one for each number of the tensor; empty for nothing.
    """

    factor: float = 1.0
    shift: tuple[float, ...] = ()


def complete_adjust(numbers: Sequence[float] | None) -> tuple[float, ...] | None:
    """Give eight numbers, of which those that are not given are 0; None if all are 0.

    Raises:
        RecipeError: There are more than eight, or one is not finite, or no number.
    """
    if numbers is None:
        return None
    if len(numbers) > len(NAMES):
        raise RecipeError(f"adjust takes up to {len(NAMES)} numbers ({','.join(NAMES)}), not {len(numbers)}.")
    for name, number in zip(NAMES, numbers, strict=False):
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise RecipeError(f"adjust: {name} must be a finite number, not {number}.")
    found = (*map(float, numbers), *[0.0] * (len(NAMES) - len(numbers)))
    return found if any(found) else None


def parse_adjust(text: str) -> tuple[float, ...] | None:
    """Read the numbers as supermerger's users write them, separated by commas; None if all are 0.

    Raises:
        RecipeError: Something is no finite number, or there are too many.
    """
    pieces = [piece.strip() for piece in plain_text(text).strip(" \t\r\n,").split(",")]
    numbers = [parse_ratio(piece) for piece in pieces]
    for piece, number in zip(pieces, numbers, strict=True):
        if number is None:
            raise RecipeError(f'adjust: "{piece}" is no number{explain_ratio(piece)}. It takes {",".join(NAMES)}.')
    return complete_adjust([number or 0.0 for number in numbers])


def join_adjust(adjust: Sequence[float]) -> str:
    """Write the numbers as :func:`parse_adjust` reads them; zeros at the end are left out."""
    return re.sub(r"(?:,0)+$", "", ",".join(map(format_ratio, adjust)))


def format_adjust(adjust: Sequence[float]) -> str:
    """Write the numbers that are not 0 with their names: ``IN 1, CONT -2``."""
    return ", ".join(f"{name} {format_ratio(number)}" for name, number in zip(NAMES, adjust, strict=True) if number)


def adjustments_of(adjust: Sequence[float], architecture: Architecture) -> dict[str, Adjustment]:
    """Give what eight numbers do, by the keys of the tensors that they change.

    Args:
        adjust: The numbers.
        architecture: The architecture of the model: the colours of SDXL's latent channels are others.
    """
    first, last, contrast, channel, *colours = adjust
    table = _COLOURS_SDXL if architecture == SDXL else _COLOURS
    others = (sum(row[at] * number for row, number in zip(table, colours, strict=True)) for at in range(3))
    shift = tuple(0.02 * number for number in (channel, *others))
    found = {
        FIRST_CONV: Adjustment(1 - 0.01 * first),
        _FIRST_BIAS: Adjustment(1 + 0.02 * first),
        _OUT + "weight": Adjustment(1 - 0.01 * last),
        _OUT + "bias": Adjustment(1 + 0.02 * last),
        _LAST + "weight": Adjustment(1 - 0.01 * contrast),
        _LAST + "bias": Adjustment(shift=shift if any(shift) else ()),
    }
    return {key: adjustment for key, adjustment in found.items() if adjustment != Adjustment()}


def names_for(key: str) -> str:
    """Give the names of the numbers that change a tensor, for an error."""
    return _NAMES_BY_KEY[key]
