"""Add difference, as in the checkpoint merger of github.com/AUTOMATIC1111/stable-diffusion-webui."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import Mode, More, Operands, Ratios, Whole

if TYPE_CHECKING:
    from torch import Tensor


def _compute(tensors: Operands, ratios: Ratios, _: Whole) -> Tensor:
    added = tensors.b.sub_(tensors.c).mul_(ratios.alpha).add_(tensors.a)
    for further, ratio in zip(tensors.more, ratios.more, strict=True):
        added.add_(further.sub_(tensors.c).mul_(ratio))
    return added


ADD_DIFFERENCE = Mode(
    name="add-difference",
    formula="A + a (B - C)",
    purpose="adds to A what B has learned since C",
    compute=_compute,
    coefficients=lambda a, _, *more: (1.0, a, -a - sum(more), *more),
    weighted_sum=True,
    uses_c=True,
    adds_difference=True,
    more=More("how much of its difference to C is added, whatever alpha is"),
)
