"""Multiply difference, as defined by github.com/Faildes/Chattiori-Model-Merger."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import A, B, Mode, Operands, Ratios, Whole

if TYPE_CHECKING:
    from torch import Tensor


def _compute(tensors: Operands, ratios: Ratios, _: Whole) -> Tensor:
    a, b, c = tensors[:3]
    alpha, beta = ratios[:2]
    sign = (a * (1 - beta)).add_(b * beta).sub_(c).sign_()
    size = (a.sub_(c)).abs_().pow_(1 - alpha).mul_(b.sub_(c).abs_().pow_(alpha))
    return size.mul_(sign).add_(c)


MULTIPLY_DIFFERENCE = Mode(
    name="multiply-difference",
    formula="C + sign((1 - b) A + b B - C) abs(A - C)^(1 - a) abs(B - C)^a",
    purpose="what A and B have both learned since C; b says whose direction counts",
    compute=_compute,
    coefficients=lambda a, b: {(0.0, 0.0): A, (1.0, 1.0): B}.get((a, b)),
    uses_c=True,
    uses_beta=True,
    limits=(0.0, 1.0),
)
