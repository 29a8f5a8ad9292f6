"""Train difference, as defined by github.com/hako-mikan/sd-webui-supermerger."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import A, Mode, Operands, Ratios, Whole

if TYPE_CHECKING:
    from torch import Tensor

_STRENGTH = 1.8
"""The factor of the definition: what is added comes out about as strong as B's training was."""


def _compute(tensors: Operands, ratios: Ratios, _: Whole) -> Tensor:
    a, b, c = tensors[:3]
    trained = b - c
    way = b.sub_(a).abs_()
    share = way.div_(trained.abs().add_(way)).nan_to_num_(0.0)  # where both are 0
    return trained.mul_(share).mul_(_STRENGTH * ratios.alpha).add_(a)


TRAIN_DIFFERENCE = Mode(
    name="train-difference",
    formula="A + 1.8 a r (B - C), r = abs(B - A) / (abs(B - C) + abs(B - A))",
    purpose="like add-difference, but less where A has it already, as if A were trained on B's images",
    compute=_compute,
    coefficients=lambda a, _: A if a == 0 else None,
    uses_c=True,
    adds_difference=True,
)
