"""Model stock: as far from the base as two models agree, as in arXiv 2403.19522 ("Model Stock", 2024)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .base import A, Mode, Operands, Ratios, Whole, adding_up

if TYPE_CHECKING:
    from torch import Tensor


def _sums(tensors: Operands) -> Sequence[Tensor]:
    one, other = tensors.b - tensors.a, tensors.c - tensors.a
    return one.dot(other), one.dot(one), other.dot(other)


def _compute(tensors: Operands, ratios: Ratios, whole: Whole) -> Tensor:
    product, square_one, square_other = whole.found
    lengths = math.sqrt(square_one) * math.sqrt(square_other)
    cosine = max(0.0, product / lengths) if lengths > 0 else 0.0
    a, b, c = tensors
    return b.sub_(a).add_(c.sub_(a)).mul_(ratios.alpha * cosine / (1 + cosine)).add_(a)


MODEL_STOCK = Mode(
    name="model-stock",
    formula="A + a t (B - A + C - A) / 2, t = 2 s / (1 + s), s = cos(B - A, C - A) of each tensor, at least 0",
    purpose="adds to the base A what B and C have learned, less where they disagree; alpha 1 is the paper's",
    compute=_compute,
    coefficients=lambda a, _: A if a == 0 else None,
    uses_c=True,
    adds_difference=True,
    survey=adding_up(_sums),
)
