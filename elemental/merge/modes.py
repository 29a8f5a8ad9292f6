"""The formulas of the merge modes: one pure function each, on tensors of one shape and one float format.

Each takes A, B, C and the ratios alpha and beta, and ignores what it does not need, so that the executor calls
them all alike; they are computed as they are written, term by term. Sources: weight sum and add difference as in the
checkpoint merger of github.com/AUTOMATIC1111/stable-diffusion-webui; triple sum and sum twice as defined by
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
    return (a * (1 - alpha)).add_(b * alpha)


def half_weight_sum(a: Tensor, b: Tensor, alpha: float) -> Tensor:
    """Give (1 - alpha) A + alpha B for fp16 results: torch's ``lerp``, which computes in float32 inside.

    On the CPU its kernel takes fp16 and makes no copies, which is five times as fast; what it gives is bit for bit
    what it gives for float32 copies, on every device.

    Args:
        a: fp16 on the CPU, or float32.
        b: The same as ``a``.
        alpha: The ratio.

    Returns:
        fp16.
    """
    return torch.lerp(a, b, alpha).to(torch.float16)


def add_difference(a: Tensor, b: Tensor, c: Tensor, alpha: float, beta: float) -> Tensor:  # noqa: ARG001
    """Give A + alpha (B - C)."""
    return (b - c).mul_(alpha).add_(a)


def triple_sum(a: Tensor, b: Tensor, c: Tensor, alpha: float, beta: float) -> Tensor:
    """Give (1 - alpha - beta) A + alpha B + beta C."""
    return (a * (1 - alpha - beta)).add_(b * alpha).add_(c * beta)


def sum_twice(a: Tensor, b: Tensor, c: Tensor, alpha: float, beta: float) -> Tensor:
    """Give (1 - beta) ((1 - alpha) A + alpha B) + beta C."""
    return weight_sum(a, b, c, alpha, beta).mul_(1 - beta).add_(c * beta)


FORMULAS: dict[MergeMode, Formula] = {
    MergeMode.WEIGHT_SUM: weight_sum,
    MergeMode.ADD_DIFFERENCE: add_difference,
    MergeMode.TRIPLE_SUM: triple_sum,
    MergeMode.SUM_TWICE: sum_twice,
}
