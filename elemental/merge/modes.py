"""The formulas of the merge modes, one function each, on tensors of one shape and one float format.

Each takes A, B, C and the ratios alpha and beta, and ignores what it does not need, so that the executor calls them all
alike. They are computed as they are written, term by term, and in place: their arguments are working copies, which
they use up. Sources: weight sum and add difference as in the checkpoint merger of
github.com/AUTOMATIC1111/stable-diffusion-webui; triple sum and sum twice as defined by
github.com/hako-mikan/sd-webui-supermerger.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..spec.recipe import MergeMode


class Formula(Protocol):
    """What the functions below have in common."""

    def __call__(self, a: Tensor, b: Tensor, c: Tensor, *, alpha: float, beta: float) -> Tensor:
        """Compute the mode's formula, using up the arguments.

        Args:
            a: A's numbers, of any shape and float format.
            b: B's, of the same shape and format.
            c: C's, likewise; whatever it is in modes that have no use for it.
            alpha: The ratio.
            beta: The second one, passed over in modes that have none.

        Returns:
            Numbers of that shape and format, in the memory of one of the arguments.
        """


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


FORMULAS: dict[MergeMode, Formula] = {
    MergeMode.WEIGHT_SUM: weight_sum,
    MergeMode.ADD_DIFFERENCE: add_difference,
    MergeMode.TRIPLE_SUM: triple_sum,
    MergeMode.SUM_TWICE: sum_twice,
}


_LARGEST = 65504.0
_INFINITE = 0x7C00
"""fp16's largest number, and the bits of its infinity."""

_SAFE = 0.16
_CANCELLED = 2**-10
"""See :func:`half_weight_sum`: how large terms are whose errors may show, and how small a result beside them."""


def half_weight_sum(a: Tensor, b: Tensor, alpha: float) -> Tensor:
    """Give (1 - alpha) A + alpha B of fp16 tensors by torch's ``lerp``, which computes in float32 inside.

    It makes no copies, and is ten times as fast as going through float64. ``lerp`` gives A + alpha (B - A), and from
    alpha 0.5 on B - (1 - alpha) (B - A), where alpha, the difference and the product are each rounded to float32: an
    error of at most 3 * 2**-24 w |B - A|, with w the larger of the factors, beside that of the last rounding. It is
    less than half a unit in fp16's last place, which is 2**-25 or more, if w |B - A| is at most 1/6; and so it is if
    the result is larger than 3 * 2**-12 of w |B - A|. The few numbers of which neither holds, since large terms
    cancel, are computed in float64; each by itself, so that it does not matter how a tensor is cut into pieces. So
    every result is within one unit in the last place.

    Args:
        a: fp16, 1-D.
        b: fp16, 1-D, of the same length.
        alpha: The ratio.

    Returns:
        A new fp16 tensor.
    """
    result = (
        torch.lerp(a, b, alpha) if _has_half_lerp(a.device.type) else torch.lerp(a.float(), b.float(), alpha).half()
    )
    factor = abs(alpha) if abs(alpha) < 0.5 else max(abs(alpha), abs(1 - alpha))
    # the first bound costs less than the difference; 1.01 is for the difference's rounding to fp16
    if factor * (largest(a) + largest(b)) * 1.01 <= _SAFE or (terms := factor * largest(b - a)) <= _SAFE:
        return result
    near = _near_zero(result, terms * _CANCELLED)
    some_a, some_b, known = a[near], b[near], result[near]
    size = factor * (some_b - some_a).abs().double()
    exact = weight_sum(some_a.double(), some_b.double(), b, alpha=alpha, beta=0.0).to(torch.float16)
    result[near] = torch.where((size > _SAFE) & (known.abs() <= size * _CANCELLED), exact, known)
    return result


def _near_zero(values: Tensor, bound: float) -> Tensor:
    """Give the places of an fp16 tensor's numbers up to a bound and little beyond; of all finite ones if it is none."""
    if values.device.type != "cpu":
        return torch.nonzero(~(values.abs() > bound)).squeeze(1)
    # as integers, the way of :func:`largest`: numpy takes a fifth of torch's time
    most = int(np.array(bound, dtype="f2").view("u2")) if math.isfinite(bound) and bound < _LARGEST else _INFINITE
    return torch.from_numpy(np.flatnonzero((values.view(torch.int16).numpy() & 0x7FFF) <= most))


def largest(values: Tensor) -> float:
    """Give the largest absolute value of an fp16 tensor of any shape but an empty one; not finite if any value is not.

    Read as integers, positive fp16 numbers keep their order, and so do negative ones read without sign: numpy finds
    the largest of either twice as fast as torch finds the largest float.
    """
    if values.device.type != "cpu":
        return float(values.abs().max())
    bits = values.view(torch.int16).numpy()
    highest, lowest = int(bits.max()), int(bits.view("u2").max())
    magnitude = max(highest, lowest - 0x8000, 0)
    return float(np.array(magnitude, dtype="u2").view("f2"))


@cache
def _has_half_lerp(device: str) -> bool:
    try:
        zero = torch.zeros(1, dtype=torch.float16, device=device)
        torch.lerp(zero, zero, 0.5)
    except RuntimeError:  # torch before 2.2, on the CPU
        return False
    return True
