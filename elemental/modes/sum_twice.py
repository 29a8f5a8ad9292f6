"""Sum twice, as defined by github.com/hako-mikan/sd-webui-supermerger."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import Group, Mode, Operands, Ratios, Whole
from .weight_sum import WEIGHT_SUM

if TYPE_CHECKING:
    from torch import Tensor


def _compute(tensors: Operands, ratios: Ratios, whole: Whole) -> Tensor:
    return WEIGHT_SUM.compute(tensors, ratios, whole).mul_(1 - ratios.beta).add_(tensors.c.mul_(ratios.beta))


SUM_TWICE = Mode(
    name="sum-twice",
    formula="(1 - b) ((1 - a) A + a B) + b C",
    purpose="mixes A and B, and the result with C",
    compute=_compute,
    coefficients=lambda a, b: ((1 - b) * (1 - a), (1 - b) * a, b),
    weighted_sum=True,
    uses_c=True,
    uses_beta=True,
    group=Group.THREE,
)
