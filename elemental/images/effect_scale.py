"""How effects become colours, in images and on the page: a logarithmic scale, its ticks, and a table of colours."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

Colour = tuple[int, int, int]
"""Red, green and blue, each from 0 to 255."""

UNIT = "estimated change of the image, mean of 255"
"""The unit of effects: mean absolute difference of channel values, at ratio 1, to first order."""

COLOURS: tuple[Colour, ...] = (
    (247, 246, 211),
    (239, 218, 151),
    (236, 186, 94),
    (233, 150, 44),
    (228, 110, 5),
    (215, 68, 29),
    (189, 30, 63),
    (153, 0, 81),
    (110, 1, 95),
    (64, 5, 97),
    (22, 6, 79),
)
"""From the smallest effect to the largest. Steps are even in Oklab (0.085 to 0.107), and lightness falls all the way:
the order is seen with any colour blindness, and in grey. Oklab: Ottosson 2020, "A perceptual color space for image
processing"."""

_DECADES = 3
"""Smaller effects than a thousandth of the largest have the first colour."""
_FINE_TICKS = 1.5
"""Up to so many decades, ticks are at 1, 2 and 5; beyond, at 1 and 3."""


@dataclass(frozen=True)
class EffectScale:
    """A logarithmic scale.

    Attributes:
        low: The effect of the first colour, more than 0.
        high: The effect of the last colour, more than ``low``.
        clipped: Whether there are effects below ``low``, besides 0.
    """

    low: float
    high: float
    clipped: bool = False

    def position(self, effect: float) -> float:
        """Give the place of an effect on the scale, from 0 to 1."""
        if effect <= self.low:
            return 0.0
        return min(1.0, math.log(effect / self.low) / math.log(self.high / self.low))

    def colour(self, effect: float) -> Colour:
        """Give the colour of an effect."""
        place = self.position(effect) * (len(COLOURS) - 1)
        index = min(int(place), len(COLOURS) - 2)
        pairs = zip(COLOURS[index], COLOURS[index + 1], strict=True)
        red, green, blue = (round(one + (other - one) * (place - index)) for one, other in pairs)
        return red, green, blue

    def ticks(self) -> list[float]:
        """List round numbers on the scale, the smallest first."""
        steps = (1, 2, 5) if math.log10(self.high / self.low) <= _FINE_TICKS else (1, 3)
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        numbers = [float(f"{step}e{power}") for power in range(first, last + 1) for step in steps]
        return [number for number in numbers if self.low <= number <= self.high]


def scale_for(effects: Iterable[float]) -> EffectScale:
    """Make the scale that shows these effects: three decades at most, down from the largest.

    Args:
        effects: Each 0 or more; from 0.01 to 1 if none is more than 0.
    """
    positive = [effect for effect in effects if effect > 0]
    if not positive:
        return EffectScale(0.01, 1.0)
    high, least = max(positive), min(positive)
    if least < high / 10**_DECADES:
        return EffectScale(_round_up(high / 10**_DECADES), high, clipped=True)
    return EffectScale(min(least, high / 10), high)


def _round_up(number: float) -> float:
    """Give the next number with a tick, of 1, 3, 10, 30 and so on."""
    power = math.floor(math.log10(number))
    return next(tick for step in (1, 3, 10) if (tick := float(f"{step}e{power}")) >= number)


def format_effect(effect: float) -> str:
    """Format an effect: "112", "27", "3.2", "0.45", "<0.01", "0"; less than that no 8-bit image shows."""
    if 0 < effect < 0.005:
        return "<0.01"
    digits = 0 if not effect or effect >= 9.95 else 1 if effect >= 0.995 else 2
    return f"{effect:.{digits}f}"


def format_share(share: float) -> str:
    """Format a share, from 0 to 1, in percent: "43 %", "2.1 %", "<0.1 %"."""
    percent = 100 * share
    if 0 < percent < 0.05:
        return "<0.1 %"
    return f"{percent:.1f} %" if percent < 9.95 else f"{percent:.0f} %"
