"""Slerp: spherical interpolation of a whole tensor, as github.com/ljleb/sd-mecha computes it.

The tensors, made as long as 1, turn into each other on the sphere; the length goes from A's to B's in a straight line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .base import A, B, Mode, Operands, Ratios, Whole, adding_up

if TYPE_CHECKING:
    from torch import Tensor

_PARALLEL = 1e-6
"""Sines up to this are of tensors whose angle says nothing: the same one, or opposite ones. Between them is a line."""


def _sums(tensors: Operands) -> Sequence[Tensor]:
    a, b = tensors.a, tensors.b
    return a.dot(a), b.dot(b), a.dot(b)


def _compute(tensors: Operands, ratios: Ratios, whole: Whole) -> Tensor:
    for_a, for_b = _coefficients(ratios.alpha, *whole.found)
    return tensors.a.mul_(for_a).add_(tensors.b.mul_(for_b))


def _coefficients(alpha: float, square_a: float, square_b: float, product: float) -> tuple[float, float]:
    """Give what A and B are multiplied with.

    Args:
        alpha: The ratio.
        square_a: The square of A's length.
        square_b: The square of B's length.
        product: The dot product of A and B.
    """
    length_a, length_b = math.sqrt(square_a), math.sqrt(square_b)
    if not 0 < length_a * length_b < math.inf:
        return 1 - alpha, alpha
    cosine = max(-1.0, min(1.0, product / (length_a * length_b)))
    sine = math.sqrt((1 - cosine) * (1 + cosine))
    length = (1 - alpha) * length_a + alpha * length_b
    share_a, share_b = 1 - alpha, alpha
    if sine > _PARALLEL:
        angle = math.atan2(sine, cosine)
        share_a, share_b = math.sin((1 - alpha) * angle) / sine, math.sin(alpha * angle) / sine
    return share_a * length / length_a, share_b * length / length_b


SLERP = Mode(
    name="slerp",
    formula="sin((1-a)w) / sin w A' + sin(a w) / sin w B', w the angle between A and B, times their length",
    purpose="a mix of two models that keeps the weights as large as they were",
    compute=_compute,
    coefficients=lambda a, _: {0.0: A, 1.0: B}.get(a),
    survey=adding_up(_sums),
)
