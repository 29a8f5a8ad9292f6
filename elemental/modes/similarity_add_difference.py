"""Similarity add difference, as defined by github.com/Faildes/Chattiori-Model-Merger and SD.Next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import A, Mode, Operands, Ratios, Whole

if TYPE_CHECKING:
    from torch import Tensor


def _compute(tensors: Operands, ratios: Ratios, _: Whole) -> Tensor:
    a, b, c = tensors[:3]
    alpha, beta = ratios[:2]
    larger = a.abs().maximum(b.abs())
    likeness = (a * b).div_(larger).div_(larger)  # its square would leave the range of small numbers
    share = likeness.add_(1).mul_(beta / 2)
    share[larger == 0] = beta
    mixed = a * (1 - alpha / 2) + b * (alpha / 2)
    added = b.sub_(c).mul_(alpha).add_(a)
    return added.lerp_(mixed, share)


SIMILARITY_ADD_DIFFERENCE = Mode(
    name="similarity-add-difference",
    formula="(1 - s) (A + a (B - C)) + s ((1 - a/2) A + a/2 B), s = b (A B / max(abs(A), abs(B))^2 + 1) / 2",
    purpose="add-difference where A and B differ, a mix of both where they are alike; b is how much of that",
    compute=_compute,
    coefficients=lambda a, _: A if a == 0 else None,
    uses_c=True,
    uses_beta=True,
)
