"""Cut tensors into the pieces that are computed one by one, so that each holds all that a mode's formula looks at."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..modes.base import Mode, Needs

_MARGINS = 8
"""A piece with margins is at least so many times as long as one of them, since margins are computed twice."""


class Span(NamedTuple):
    """A piece of a flattened tensor.

    Attributes:
        start: The index of the first number of the result.
        stop: The index behind the last one.
        first: The index of the first number that is read for it.
        last: The index behind the last one.
    """

    start: int
    stop: int
    first: int
    last: int

    @property
    def own(self) -> slice:
        """Where the result lies in what is read."""
        return slice(self.start - self.first, self.stop - self.first)


def cut(shape: Sequence[int], mode: Mode, size: int) -> Iterator[Span]:
    """Cut a tensor into pieces of about a size, or larger where the formula needs that.

    Args:
        shape: The tensor's shape.
        mode: The mode that is computed.
        size: How many numbers a piece has.
    """
    count, unit = math.prod(shape), _unit(shape, mode.needs)
    margin = mode.margin * unit
    step = max(size // max(unit, 1), 1) * unit
    step = max(step, _MARGINS * margin, 1)
    for start in range(0, count, step):
        stop = min(start + step, count)
        yield Span(start, stop, max(start - margin, 0), min(stop + margin, count))


def _unit(shape: Sequence[int], needs: Needs) -> int:
    """Give how many numbers belong together."""
    if needs is Needs.NUMBER or not shape:
        return 1
    if needs is Needs.LAST_AXIS or (needs is Needs.ROW and len(shape) == 1):
        return shape[-1]
    return math.prod(shape[1:])
