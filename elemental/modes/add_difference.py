"""Add difference, as in the checkpoint merger of github.com/AUTOMATIC1111/stable-diffusion-webui."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import Mode, Operands, Ratios, Whole

if TYPE_CHECKING:
    from torch import Tensor


def _compute(tensors: Operands, ratios: Ratios, _: Whole) -> Tensor:
    return tensors.b.sub_(tensors.c).mul_(ratios.alpha).add_(tensors.a)


ADD_DIFFERENCE = Mode(
    name="add-difference",
    formula="A + a (B - C)",
    purpose="adds to A what B has learned since C",
    compute=_compute,
    coefficients=lambda a, _: (1.0, a, -a),
    weighted_sum=True,
    uses_c=True,
    adds_difference=True,
)
