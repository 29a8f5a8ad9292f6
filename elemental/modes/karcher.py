"""Karcher mean: the mean of directions on the sphere, as in github.com/arcee-ai/mergekit (arXiv 2603.04972).

The direction has the least sum of squared angles to those of A, B and C, and of further models, times what each counts;
it is as long as they are in the mean. It is a weighted sum of the models, so the rounds that find it, from the
direction of their sum on, need only know the angles between them. They end when nothing moves any more, after a few
rounds for models with an ancestor in common.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from .base import A, Group, Mode, More, Operands, Ratios, Whole, adding_up

if TYPE_CHECKING:
    from torch import Tensor

_ROUNDS = 100
"""At most; of directions that are all far apart, some rounds more would move the mean in a late digit."""

_STILL = 2.0**-50
"""Shares that move by less are found."""

_NOTHING = 1e-12
"""Up to this, what rounding leaves of 0: the square of the length of a sum, or how far a cosine is from -1."""


def _sums(tensors: Operands) -> Sequence[Tensor]:
    a, b, c, more = tensors
    models = (a, b, c, *more)
    return [*(model.dot(model) for model in models), *(one.dot(other) for one, other in combinations(models, 2))]


def _compute(tensors: Operands, ratios: Ratios, whole: Whole) -> Tensor:
    shares = _shares(whole.found, (1.0, 1.0, 1.0, *ratios.more))
    for_a, *others = (ratios.alpha * share for share in shares)
    a, b, c, more = tensors
    mixed = a.mul_(1 - ratios.alpha + for_a)
    for model, share in zip((b, c, *more), others, strict=True):
        mixed.add_(model.mul_(share))
    return mixed


def _shares(sums: Sequence[float], weights: Sequence[float]) -> Sequence[float]:
    """Give what the models are multiplied with to give their mean.

    Args:
        sums: The scalar product of each with itself, and of each pair.
        weights: How much each counts; 1, or the ratio of a further model.
    """
    count, total = len(weights), sum(weights)
    if not all(map(math.isfinite, sums)):
        return [1 / count] * count
    lengths = [math.sqrt(square) for square in sums[:count]]
    products = dict(zip(combinations(range(count), 2), sums[count:], strict=True))
    used = [place for place in range(count) if lengths[place] > 0]  # a tensor of zeros has no direction

    def cosine(one: int, other: int) -> float:
        product = sums[one] if one == other else products[min(one, other), max(one, other)]
        return product / (lengths[one] * lengths[other])

    cosines = [[cosine(one, other) for other in used] for one in used]
    found = dict(zip(used, _mean_direction(cosines, [weights[place] for place in used]), strict=True))
    length = sum(weight * each for weight, each in zip(weights, lengths, strict=True)) / total
    return [length * found[place] / lengths[place] if place in found else 0.0 for place in range(count)]


def _mean_direction(cosines: Sequence[Sequence[float]], weights: Sequence[float]) -> Sequence[float]:
    """Give what directions are multiplied with to give their mean.

    Args:
        cosines: Of the angles between any two of them.
        weights: How much each counts.
    """
    count, total = len(cosines), sum(weights)
    mean = _made_long(weights, cosines) or [float(place == 0) for place in range(count)]
    for _ in range(_ROUNDS if count > 1 else 0):
        along = [_dot(row, mean) for row in cosines]
        parts = [weight * _stretch(cosine) / total for weight, cosine in zip(weights, along, strict=True)]
        back = _dot(parts, along)
        way = [part - back * share for part, share in zip(parts, mean, strict=True)]  # at a right angle to the mean
        angle = math.sqrt(max(0.0, _square(way, cosines)))
        on, off = math.cos(angle), math.sin(angle) / angle if angle > 0 else 1.0
        moved = _made_long([on * share + off * more for share, more in zip(mean, way, strict=True)], cosines) or mean
        distance = max(abs(new - old) for new, old in zip(moved, mean, strict=True))
        mean = moved
        if distance < _STILL:
            break
    return mean


def _stretch(cosine: float) -> float:
    """Give an angle as a multiple of its sine; 0 for the opposite direction, to which there is no shortest way."""
    if cosine >= 1:
        return 1.0
    if 1 + cosine <= _NOTHING:
        return 0.0
    return math.acos(cosine) / math.sqrt((1 - cosine) * (1 + cosine))


def _made_long(shares: Sequence[float], cosines: Sequence[Sequence[float]]) -> list[float]:
    """Give the shares of a sum that is as long as 1; none if it is 0."""
    square = _square(shares, cosines)
    return [share / math.sqrt(square) for share in shares] if square > _NOTHING else []


def _square(shares: Sequence[float], cosines: Sequence[Sequence[float]]) -> float:
    return _dot(shares, [_dot(row, shares) for row in cosines])


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(left * right for left, right in zip(one, other, strict=True))


KARCHER = Mode(
    name="karcher",
    formula="A + a (K - A), K the mean of the directions of A, B and C on the sphere, times the mean of their lengths",
    purpose="a mix of three models that keeps the weights as large as they were; alpha 1 is the mean of all three",
    compute=_compute,
    coefficients=lambda a, *_: A if a == 0 else None,
    uses_c=True,
    survey=adding_up(_sums),
    more=More("how much it counts in the mean, where A, B and C count 1", least=0),
    group=Group.THREE,
)
