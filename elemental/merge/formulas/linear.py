"""Merge modes that are linear combinations of A, B and C: one function a mode, as :class:`.by_mode.Formula` says.

The formulas are computed term by term, as written, and in place: the arguments are working copies. Sources: weight
sum and add difference as in the checkpoint merger of github.com/AUTOMATIC1111/stable-diffusion-webui; triple sum and
sum twice as defined by github.com/hako-mikan/sd-webui-supermerger.
"""

from __future__ import annotations

from torch import Tensor


def weight_sum(a: Tensor, b: Tensor, c: Tensor, *, alpha: float, beta: float) -> Tensor:  # noqa: ARG001
    """Give (1 - alpha) A + alpha B."""
    return a.mul_(1 - alpha).add_(b.mul_(alpha))


def add_difference(a: Tensor, b: Tensor, c: Tensor, *, alpha: float, beta: float) -> Tensor:  # noqa: ARG001
    """Give A + alpha (B - C)."""
    return b.sub_(c).mul_(alpha).add_(a)


def triple_sum(a: Tensor, b: Tensor, c: Tensor, *, alpha: float, beta: float) -> Tensor:
    """Give (1 - alpha - beta) A + alpha B + beta C."""
    return a.mul_(1 - alpha - beta).add_(b.mul_(alpha)).add_(c.mul_(beta))


def sum_twice(a: Tensor, b: Tensor, c: Tensor, *, alpha: float, beta: float) -> Tensor:
    """Give (1 - beta) ((1 - alpha) A + alpha B) + beta C."""
    return weight_sum(a, b, c, alpha=alpha, beta=beta).mul_(1 - beta).add_(c.mul_(beta))
