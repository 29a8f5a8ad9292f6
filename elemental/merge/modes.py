"""The formulas of the merge modes: one pure function each, on tensors of one shape and one float format.

Each takes A, B, C and the ratios alpha and beta, and ignores what it does not need, so that the executor calls
them all alike. Sources: weight sum and add difference as in the checkpoint merger of
github.com/AUTOMATIC1111/stable-diffusion-webui; triple sum and sum twice as defined by
github.com/hako-mikan/sd-webui-supermerger.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..spec.recipe import MergeMode

Formula = Callable[[Tensor, Tensor, Tensor, float, float], Tensor]


def weight_sum(a: Tensor, b: Tensor, c: Tensor, alpha: float, beta: float) -> Tensor:  # noqa: ARG001
    """Give (1 - alpha) A + alpha B."""
    return torch.lerp(a, b, alpha)


def add_difference(a: Tensor, b: Tensor, c: Tensor, alpha: float, beta: float) -> Tensor:  # noqa: ARG001
    """Give A + alpha (B - C)."""
    return torch.add(a, b - c, alpha=alpha)


def triple_sum(a: Tensor, b: Tensor, c: Tensor, alpha: float, beta: float) -> Tensor:
    """Give (1 - alpha - beta) A + alpha B + beta C, as A + alpha (B - A) + beta (C - A)."""
    return torch.add(a, b - a, alpha=alpha).add_(c - a, alpha=beta)


def sum_twice(a: Tensor, b: Tensor, c: Tensor, alpha: float, beta: float) -> Tensor:
    """Give (1 - beta) ((1 - alpha) A + alpha B) + beta C."""
    return torch.lerp(a, b, alpha).lerp_(c, beta)


FORMULAS: dict[MergeMode, Formula] = {
    MergeMode.WEIGHT_SUM: weight_sum,
    MergeMode.ADD_DIFFERENCE: add_difference,
    MergeMode.TRIPLE_SUM: triple_sum,
    MergeMode.SUM_TWICE: sum_twice,
}
