"""The search for the shortest first part of an order of tensors that is enough, by real images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..merge.plan import TensorPlan

if TYPE_CHECKING:
    from PIL import Image

_COARSE = 2.5
"""As long as the least number that is enough can be so many times one that is not, the first order stays: what very few
elements leave missing does not tell which ones are needed in the end."""
_CLOSE = 1.04
"""The cut is found when the least number that is enough is at most so many times a number that is not."""

Tensors = Sequence[TensorPlan]


@dataclass(frozen=True)
class Probe:
    """A merge that was tried.

    Attributes:
        tensors: What was chosen for it.
        images: Its images.
        distance: How far they are from what they are to be.
    """

    tensors: Tensors
    images: tuple[Image.Image, ...]
    distance: float


def find_cut(
    order: Tensors, attempt: Callable[[Tensors], Probe], reorder: Callable[[Tensors, Tensors], Tensors], allowed: float
) -> Probe:
    """Find about the least number of first tensors that are enough; all of them are always enough.

    The distance falls with the number, though not at every step: what is found is enough. Where a number is not
    enough, the tensors behind it are ordered anew.

    Args:
        order: The tensors, the most important first.
        attempt: Tries some of them.
        reorder: Orders tensors by what they add to chosen ones; is given the chosen ones and the others.
        allowed: The distance that is enough.
    """
    low, high, ordered, best = 0, len(order), 0, None
    while best is None or not _is_close(low, high):
        if ordered < low and high / low <= _COARSE and not _is_close(low, high):
            order, ordered = [*order[:low], *reorder(order[:low], order[low:])], low
        count = high if _is_close(low, high) else _between(low, high)
        tried = attempt(order[:count])
        if tried.distance <= allowed or count == len(order):
            high, best = count, tried
        else:
            low = count
    return best


def _between(low: int, high: int) -> int:
    return min(high - 1, max(low + 1, round(math.sqrt(max(1, low) * high))))


def _is_close(low: int, high: int) -> bool:
    return high <= low + 1 or high / max(1, low) <= _CLOSE
