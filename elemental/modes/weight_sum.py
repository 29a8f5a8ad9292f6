"""Weight sum, as in the checkpoint merger of github.com/AUTOMATIC1111/stable-diffusion-webui."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import Mode, More, Operands, Ratios, Whole

if TYPE_CHECKING:
    from torch import Tensor


def _compute(tensors: Operands, ratios: Ratios, _: Whole) -> Tensor:
    mixed = tensors.a.mul_(1 - ratios.alpha - sum(ratios.more)).add_(tensors.b.mul_(ratios.alpha))
    for further, ratio in zip(tensors.more, ratios.more, strict=True):
        mixed.add_(further.mul_(ratio))
    return mixed


WEIGHT_SUM = Mode(
    name="weight-sum",
    formula="(1 - a) A + a B",
    purpose="a mix of two models",
    compute=_compute,
    coefficients=lambda a, _, *more: (1 - a - sum(more), a, 0.0, *more),
    weighted_sum=True,
    more=More("its share of the mix, by which A has less", None),
    is_lerp=True,
)
