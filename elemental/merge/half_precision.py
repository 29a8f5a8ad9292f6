"""The weight sum of fp16 tensors, without copies in a wider dtype."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from . import half_bits
from .half_bits import HALF_STEP, HALF_UNIT, factor_of, may_cancel, surely_finite


class HalfSum(NamedTuple):
    """A weight sum of fp16 tensors.

    Attributes:
        values: The result, fp16.
        finite: Whether it surely holds neither NaN nor infinite numbers; if False, it may.
    """

    values: Tensor
    finite: bool


def half_weight_sum(
    a: Tensor, b: Tensor, alpha: float, *, most: tuple[float, float] | None = None, out: Tensor | None = None
) -> HalfSum:
    """Give (1 - alpha) A + alpha B of fp16 tensors, to within one unit in the last place.

    torch's ``lerp`` computes in float32 internally, needs no copies, and is ten times as fast as float64. What it loses
    besides the last rounding (see :class:`~.half_bits.Factor`) is less than half a unit in the last place, except for
    the few results that are small because large terms cancel. Those are computed again in float64, each number
    separately, so that the result does not depend on how a tensor is cut into pieces.

    Args:
        a: A's numbers, fp16, 1-D.
        b: B's numbers, fp16, 1-D, of the same length.
        alpha: The ratio.
        most: What :func:`largest` gives for A and B, where it is known.
        out: Memory for the result, fp16, of the same length, on the same device; None for new memory.

    Returns:
        The result.
    """
    if _has_half_lerp(a.device.type):
        result = torch.lerp(a, b, alpha, out=out)
    else:
        result = torch.lerp(a.float(), b.float(), alpha).half()
    error = factor_of(alpha).error
    most_a, most_b = most or (largest(a), largest(b))
    if may_cancel(error, most_a, most_b) and not (lost := error * largest(b - a)) <= HALF_STEP:
        _mend_cancelled(result, a, b, alpha, error=error, most_lost=lost)
    return HalfSum(result, finite=surely_finite(alpha, most_a, most_b))


def _mend_cancelled(result: Tensor, a: Tensor, b: Tensor, alpha: float, *, error: float, most_lost: float) -> None:
    """Compute results anew that are small because large terms cancel."""
    near = _near_zero(result, most_lost / HALF_UNIT)
    some_a, some_b, from_lerp = a[near], b[near], result[near]
    lost = error * (some_b - some_a).abs().double()
    exact = some_a.double().mul_(1 - alpha).add_(some_b.double().mul_(alpha)).to(torch.float16)
    result[near] = torch.where((lost > HALF_STEP) & (from_lerp.abs() <= lost / HALF_UNIT), exact, from_lerp)


def _near_zero(values: Tensor, bound: float) -> Tensor:
    """Give the indices of the fp16 numbers up to about a bound; of all finite ones if fp16 cannot hold it."""
    if values.device.type != "cpu":
        return torch.nonzero(~(values.abs() > bound)).squeeze(1)
    return torch.from_numpy(half_bits.near_zero(values.numpy(), bound))


def largest(values: Tensor) -> float:
    """Give the largest absolute value of a non-empty fp16 tensor; it is not finite if any value is not."""
    if values.device.type != "cpu":
        return float(values.abs().max())
    return half_bits.largest(values.numpy())


@cache
def _has_half_lerp(device: str) -> bool:
    try:
        zero = torch.zeros(1, dtype=torch.float16, device=device)
        torch.lerp(zero, zero, 0.5)
    except RuntimeError:  # torch before 2.2, on the CPU
        return False
    return True
