"""The weight sum of fp16 tensors, without copies in a wider dtype."""

from __future__ import annotations

import math
import struct
import sys
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_LARGEST = 65504.0
_INFINITE = 0x7C00
"""The largest fp16 number, and the bits of fp16 infinity."""

_HALF_STEP = 2**-25 * 0.99
_HALF_UNIT = 2**-12 * 0.99
"""Half of the smallest step of fp16, and the smallest half unit in the last place relative to its number; a hundredth
is kept in reserve for errors that :func:`half_weight_sum` does not count."""


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

    torch's ``lerp`` computes in float32 internally, needs no copies, and is ten times as fast as float64. It gives
    A + alpha (B - A), and from |alpha| 0.5 on B - (1 - alpha) (B - A). Besides the last rounding it loses alpha's
    rounding to float32, and at most 2**-24 of the product in each of three roundings: of the factor, of the difference
    and of the product. Together that is less than half a unit in the last place, except for the few results that are
    small because large terms cancel. Those are computed again in float64, each number separately, so that the result
    does not depend on how a tensor is cut into pieces.

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
    rounded = float(np.float32(alpha))
    factor = abs(rounded) if abs(rounded) < 0.5 else abs(1 - rounded)
    error = abs(alpha - rounded) + 3 * 2**-24 * factor  # of a result, as a part of |B - A|
    most_a, most_b = most or (largest(a), largest(b))
    # the first bound costs less than the difference; 1.01 is for the difference's rounding to fp16
    if not error * (most_a + most_b) * 1.01 <= _HALF_STEP and not (lost := error * largest(b - a)) <= _HALF_STEP:
        _mend_cancelled(result, a, b, alpha, error=error, most_lost=lost)
    return HalfSum(result, finite=is_surely_finite((most_a, most_b), alpha))


def is_surely_finite(most: tuple[float, float], alpha: float) -> bool:
    """Tell whether a weight sum surely holds neither NaN nor infinite numbers; if False, it may.

    Args:
        most: What :func:`largest` gives for A and B.
        alpha: The ratio.
    """
    return abs(1 - alpha) * most[0] + abs(alpha) * most[1] < _LARGEST


def _mend_cancelled(result: Tensor, a: Tensor, b: Tensor, alpha: float, *, error: float, most_lost: float) -> None:
    """Compute results anew that are small because large terms cancel."""
    near = _near_zero(result, most_lost / _HALF_UNIT)
    some_a, some_b, from_lerp = a[near], b[near], result[near]
    lost = error * (some_b - some_a).abs().double()
    exact = some_a.double().mul_(1 - alpha).add_(some_b.double().mul_(alpha)).to(torch.float16)
    result[near] = torch.where((lost > _HALF_STEP) & (from_lerp.abs() <= lost / _HALF_UNIT), exact, from_lerp)


def _near_zero(values: Tensor, bound: float) -> Tensor:
    """Give the indices of the fp16 numbers up to about a bound; of all finite ones if fp16 cannot hold it."""
    if values.device.type != "cpu":
        return torch.nonzero(~(values.abs() > bound)).squeeze(1)
    # as integers, as in :func:`largest`: numpy takes a fifth of torch's time
    most = int(np.array(bound, dtype="f2").view("u2")) if math.isfinite(bound) and bound < _LARGEST else _INFINITE
    return torch.from_numpy(np.flatnonzero((values.view(torch.int16).numpy() & 0x7FFF) <= most))


def largest(values: Tensor) -> float:
    """Give the largest absolute value of a non-empty fp16 tensor; it is not finite if any value is not.

    Positive fp16 numbers have the same order as their bits read as signed integers, negative ones as unsigned integers:
    numpy finds the largest integer twice as fast as torch finds the largest float.
    """
    if values.device.type != "cpu":
        return float(values.abs().max())
    bits = values.numpy().view("i2")
    highest, lowest = int(np.maximum.reduce(bits)), int(np.maximum.reduce(bits.view("u2")))
    number: float = struct.unpack("e", max(highest, lowest - 0x8000, 0).to_bytes(2, sys.byteorder))[0]
    return number


@cache
def _has_half_lerp(device: str) -> bool:
    try:
        zero = torch.zeros(1, dtype=torch.float16, device=device)
        torch.lerp(zero, zero, 0.5)
    except RuntimeError:  # torch before 2.2, on the CPU
        return False
    return True
