"""Geometric median: the tensor with the least sum of distances to A, B and C.

github.com/ljleb/sd-mecha looks for it in Weiszfeld's rounds, as is needed for more than three. That of three lies in
their plane and is known without: it is Fermat's point, from which all three are seen 120 degrees apart, or the corner
of their triangle that has 120 degrees or more, to which rounds would come slowly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .base import A, Group, Mode, Operands, Ratios, Whole, adding_up

if TYPE_CHECKING:
    from torch import Tensor


def _sums(tensors: Operands) -> Sequence[Tensor]:
    a, b, c = tensors
    return [side.dot(side) for side in (c - b, c - a, b - a)]


def _compute(tensors: Operands, ratios: Ratios, whole: Whole) -> Tensor:
    _, for_b, for_c = _shares(*whole.found)
    a, b, c = tensors
    return b.sub_(a).mul_(for_b).add_(c.sub_(a).mul_(for_c)).mul_(ratios.alpha).add_(a)


def _shares(*squares: float) -> tuple[float, float, float]:
    """Give the shares of A, B and C in their median.

    Args:
        squares: The squares of the sides of their triangle: those across from A, B and C.
    """
    if not math.isfinite(sum(squares)):
        return 1 / 3, 1 / 3, 1 / 3
    area = _four_areas(*map(math.sqrt, squares))
    # its reciprocal is the corner's share of Fermat's point; it is 0 at 120 degrees, and less beyond
    a, b, c = (area + math.sqrt(3) * (sum(squares) - square - square) for square in squares)
    if min(a, b, c) <= 0:
        corner = (a, b, c).index(min(a, b, c))
        return float(corner == 0), float(corner == 1), float(corner == 2)
    total = b * c + a * c + a * b
    return b * c / total, a * c / total, a * b / total


def _four_areas(*sides: float) -> float:
    """Give four times the area of a triangle, to all digits even of a needle.

    Source: Kahan, "Miscalculating area and angles of a needle-like triangle", 2014.
    """
    c, b, a = sorted(sides)
    return math.sqrt(max(0.0, (a + (b + c)) * (c - (a - b)) * (c + (a - b)) * (a + (b - c))))


GEOMETRIC_MEDIAN = Mode(
    name="geometric-median",
    formula="A + a (M - A), M the tensor with the least sum of distances to A, B and C",
    purpose="a mix of three models in which one that is far from the others counts little; alpha 1 is the median",
    compute=_compute,
    coefficients=lambda a, _: A if a == 0 else None,
    uses_c=True,
    survey=adding_up(_sums),
    group=Group.THREE,
)
