"""Geometric median: the tensor with the least sum of distances to A, B and C, and to further models.

github.com/ljleb/sd-mecha looks for it in Weiszfeld's rounds, as is needed for more than three. That of three lies in
their plane and is known without: it is Fermat's point, from which all three are seen 120 degrees apart, or the corner
of their triangle that has 120 degrees or more, to which rounds would come slowly. That of more is a mean of them, too,
so the rounds look for what each counts in it, and need only know how far they are apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from .base import A, Group, Mode, More, Operands, Ratios, Whole, adding_up

if TYPE_CHECKING:
    from torch import Tensor


_Squares = Sequence[Sequence[float]]
"""The square of the distance of each model to each."""

_CORNERS = 3

_ROUNDS = 2000
"""At most; some dozens are usual, and more where the median is near a model without being it."""

_STILL = 2.0**-50
"""Shares that move by less are found."""

_ALMOST = 1 + 1e-12
"""Where pull and hold are the same, as between two equal models and two others, rounding does not decide."""

_NEAR = 1e-16
"""The square of the least distance from a model that is told, as a share of the largest between two."""


def _sums(tensors: Operands) -> Sequence[Tensor]:
    a, b, c, more = tensors
    sides = [other - one for one, other in combinations((a, b, c, *more), 2)]
    return [side.dot(side) for side in sides]


def _compute(tensors: Operands, ratios: Ratios, whole: Whole) -> Tensor:
    a, b, c, more = tensors
    _, for_b, for_c, *others = _shares(whole.found, (1.0, 1.0, 1.0, *ratios.more))
    way = b.sub_(a).mul_(for_b).add_(c.sub_(a).mul_(for_c))
    for further, share in zip(more, others, strict=True):
        way.add_(further.sub_(a).mul_(share))
    return way.mul_(ratios.alpha).add_(a)


def _shares(squares: Sequence[float], weights: Sequence[float]) -> Sequence[float]:
    """Give the shares of the models in their median.

    Args:
        squares: The square of the distance of each pair.
        weights: How much the distance to each counts; 1, or the ratio of a further model.
    """
    if not math.isfinite(sum(squares)):
        return [1 / len(weights)] * len(weights)
    if len(weights) == _CORNERS:
        return _shares_of_three(*reversed(squares))
    apart = [[0.0] * len(weights) for _ in weights]
    for (one, other), square in zip(combinations(range(len(weights)), 2), squares, strict=True):
        apart[one][other] = apart[other][one] = square
    return _only_one(apart, weights) or _in_rounds(apart, weights)


def _only_one(apart: _Squares, weights: Sequence[float]) -> Sequence[float]:
    """Give the shares if a model is the median itself: if the others do not pull harder at it than it holds.

    Source: Kuhn, "A note on Fermat's problem", 1973.
    """
    count = len(weights)
    for place, ways in enumerate(apart):
        pulls = [weight / math.sqrt(way) if way > 0 else 0.0 for weight, way in zip(weights, ways, strict=True)]
        square = sum(
            pulls[one] * pulls[other] * (ways[one] + ways[other] - apart[one][other]) / 2
            for one in range(count)
            for other in range(count)
        )
        holds = sum(weight for weight, way in zip(weights, ways, strict=True) if not way > 0)
        if square <= holds * holds * _ALMOST:
            return [float(each == place) for each in range(count)]
    return ()


def _in_rounds(apart: _Squares, weights: Sequence[float]) -> Sequence[float]:
    """Give the shares in Weiszfeld's rounds, from the mean on."""
    total = sum(weights)
    shares = [weight / total for weight in weights]
    least = _NEAR * max(map(max, apart))
    for _ in range(_ROUNDS):
        ways = [_dot(row, shares) for row in apart]
        middle = _dot(ways, shares) / 2
        pulls = [weight / math.sqrt(max(way - middle, least)) for weight, way in zip(weights, ways, strict=True)]
        total = sum(pulls)
        moved = [pull / total for pull in pulls]
        distance = max(abs(new - old) for new, old in zip(moved, shares, strict=True))
        shares = moved
        if distance < _STILL:
            break
    return shares


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(left * right for left, right in zip(one, other, strict=True))


def _shares_of_three(*squares: float) -> tuple[float, float, float]:
    """Give the shares of A, B and C in their median.

    Args:
        squares: The squares of the sides of their triangle: those across from A, B and C.
    """
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
    coefficients=lambda a, *_: A if a == 0 else None,
    uses_c=True,
    survey=adding_up(_sums),
    more=More("how much the distance to it counts, where those to A, B and C count 1", least=0),
    group=Group.THREE,
)
