"""Add perpendicular: add difference without what points the way from C to A, as in github.com/ljleb/sd-mecha."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .base import A, Mode, Operands, Ratios, Whole, adding_up

if TYPE_CHECKING:
    from torch import Tensor


def _sums(tensors: Operands) -> Sequence[Tensor]:
    own, other = tensors.a - tensors.c, tensors.b - tensors.c
    return other.dot(own), own.dot(own)


def _compute(tensors: Operands, ratios: Ratios, whole: Whole) -> Tensor:
    product, square = whole.found
    a, b, c = tensors[:3]
    added = b.sub_(c)
    if square > 0 and math.isfinite(product / square):
        added.sub_((a - c).mul_(product / square))
    return added.mul_(ratios.alpha).add_(a)


ADD_PERPENDICULAR = Mode(
    name="add-perpendicular",
    formula="A + a (D - <D,P> / <P,P> P), D = B - C, P = A - C",
    purpose="like add-difference, but only the part that A has not learned since C",
    compute=_compute,
    coefficients=lambda a, _: A if a == 0 else None,
    uses_c=True,
    adds_difference=True,
    survey=adding_up(_sums),
)
