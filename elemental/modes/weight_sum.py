"""Weight sum, as in the checkpoint merger of github.com/AUTOMATIC1111/stable-diffusion-webui."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import Mode, Operands, Ratios, Whole

if TYPE_CHECKING:
    from torch import Tensor


def _compute(tensors: Operands, ratios: Ratios, _: Whole) -> Tensor:
    return tensors.a.mul_(1 - ratios.alpha).add_(tensors.b.mul_(ratios.alpha))


WEIGHT_SUM = Mode(
    name="weight-sum",
    formula="(1 - a) A + a B",
    purpose="a mix of two models",
    compute=_compute,
    coefficients=lambda a, _: (1 - a, a, 0.0),
    weighted_sum=True,
    is_lerp=True,
)
