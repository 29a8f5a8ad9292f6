"""Triple sum, as defined by github.com/hako-mikan/sd-webui-supermerger."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import Group, Mode, Operands, Ratios, Whole

if TYPE_CHECKING:
    from torch import Tensor


def _compute(tensors: Operands, ratios: Ratios, _: Whole) -> Tensor:
    a, b, c = tensors[:3]
    return a.mul_(1 - ratios.alpha - ratios.beta).add_(b.mul_(ratios.alpha)).add_(c.mul_(ratios.beta))


TRIPLE_SUM = Mode(
    name="triple-sum",
    formula="(1 - a - b) A + a B + b C",
    purpose="a mix of three models",
    compute=_compute,
    coefficients=lambda a, b: (1 - a - b, a, b),
    weighted_sum=True,
    uses_c=True,
    uses_beta=True,
    group=Group.THREE,
)
