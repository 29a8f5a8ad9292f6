"""How alike the columns of two tensors are, along the first axis, and the modes that keep what is alike of A."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from .base import Mode, ModelSurvey, Needs, Number, Operands, Ratios, Read, Whole

if TYPE_CHECKING:
    from torch import Tensor

BOUNDS = (
    Number("lo", None, -1, 1, "the cosine from which on a column has something of A"),
    Number("hi", None, -1, 1, "the cosine that counts fully; up to lo, all that reach lo do"),
)
"""The numbers that are least and most of the models' cosines."""


class Cosines(NamedTuple):
    """How alike two tensors are.

    Attributes:
        of_columns: The cosine of each column, a number for each place behind the first axis; a tensor of one axis or
            none is one column. float64, from -1 to 1; 0 for a column that is 0 in one of them, NaN for one that is not
            finite.
        of_all: The cosine over all finite columns; 0 if one of them is 0 everywhere.
    """

    of_columns: Tensor
    of_all: float

    def mean(self) -> Tensor:
        """Give the mean of both, for each column."""
        return self.of_columns.add(self.of_all).div_(2)


def find_cosines(read: Read, shape: Sequence[int], *, unit: bool) -> Cosines:
    """Find how alike A and B are; sums are added up in pairs, in one order whatever the number of threads.

    Args:
        read: Reads the tensors, in pieces of whole slices along the first axis.
        shape: Their shape.
        unit: Whether the columns are made as long as 1 for the cosine over all numbers.
    """
    columns = math.prod(shape[1:])
    sums: list[Tensor] = []
    for a, b, *_ in read():
        of_piece = [_add_up(one.mul(other).view(-1, columns)) for one, other in ((a, a), (b, b), (a, b))]
        sums = [total.add_(more) for total, more in zip(sums, of_piece, strict=True)] if sums else of_piece
    squares_a, squares_b, products = sums
    cosines = products.div((squares_a * squares_b).sqrt_()).clamp_(-1, 1)
    cosines[(squares_a == 0) | (squares_b == 0)] = 0.0
    if unit:
        squares_a, squares_b, products = (squares_a != 0).to(a.dtype), (squares_b != 0).to(a.dtype), cosines
    finite = cosines.isfinite()
    squares_a, squares_b, products = (numbers[finite] for numbers in (squares_a, squares_b, products))
    square, product = _total(squares_a) * _total(squares_b), _total(products)
    return Cosines(cosines, 0.0 if square == 0 else product / math.sqrt(square))


def _add_up(rows: Tensor) -> Tensor:
    """Add up rows, in whose memory it computes."""
    while len(rows) > 1:
        half = len(rows) // 2
        if len(rows) % 2:
            rows[0] += rows[-1]
        rows = rows[:half].add_(rows[half : 2 * half])
    return rows[0].clone()


def _total(numbers: Tensor) -> float:
    return float(_add_up(numbers.clone().view(-1, 1))) if len(numbers) else 0.0


def as_numbers(tensor: Tensor) -> array[float]:
    """Give the numbers of a float64 tensor on the CPU."""
    return array("d", tensor.contiguous().numpy().tobytes())


def find_bounds(cosines: array[float]) -> Mapping[str, float]:
    """Give least and most of cosines, without those under the 1st percentile and of the rest over the 99th.

    A percentile between two of them is in the middle. What is not finite does not count. This is what supermerger does
    (scripts/mergers/mergers.py of github.com/hako-mikan/sd-webui-supermerger), but for NaN: cosine-b there gives it for
    a tensor that is 0 everywhere, which is a cosine of 0 here.

    Args:
        cosines: At least one finite number.
    """
    import numpy as np

    numbers = np.frombuffer(cosines)
    numbers = numbers[np.isfinite(numbers)]
    count = len(numbers)
    least_place = -(-(count - 1) // 100)
    least = np.partition(numbers, least_place)[least_place]
    left = int((numbers >= least).sum())
    most_place = count - left + 99 * (left - 1) // 100
    return {"lo": float(least), "hi": float(np.partition(numbers, most_place)[most_place])}


def share_of_a(cosines: Tensor, numbers: Mapping[str, float]) -> Tensor:
    """Give for each cosine where it lies between ``lo``, 0, and ``hi``, 1; beyond them it goes on.

    If ``hi`` is not above ``lo``, there is nothing between: it is 1 from ``lo`` on, and 0 below. NaN is as far as 0.
    """
    least, most = numbers["lo"], numbers["hi"]
    cosines = cosines.nan_to_num(nan=0.0)
    return (cosines >= least).to(cosines.dtype) if most <= least else cosines.sub(least).div_(most - least)


def mix_columns(tensors: Operands, _: Ratios, whole: Whole) -> Tensor:
    """Give (1 - k) B + k A, with what a survey found as k of each column."""
    import numpy as np

    a, b = (tensor.view(-1, math.prod(whole.shape[1:])) for tensor in tensors[:2])
    share = a.new_tensor(np.asarray(whole.found))
    return a.mul_(share).add_(b.mul_(1 - share)).view(-1)


def cosine_mode(name: str, *, formula: str, purpose: str, unit: bool, either_sign: bool) -> Mode:
    """Make a mode that keeps of each column what is alike in A and B, as supermerger's two do.

    Args:
        name: Its name.
        formula: Its formula as text.
        purpose: What it is used for, in a line.
        unit: Whether the columns are made as long as 1 for the cosine over all numbers; the bounds are then those of
            the columns' cosines alone, and not of their means with the one over all.
        either_sign: Whether a ratio below 0 takes as much from A's share as the same above it.
    """

    def of_tensor(read: Read, shape: Sequence[int]) -> array[float]:
        cosines = find_cosines(read, shape, unit=unit)
        return as_numbers(cosines.of_columns if unit else cosines.mean())

    def survey(read: Read, ratios: Ratios, shape: Sequence[int]) -> Sequence[float]:
        share = share_of_a(find_cosines(read, shape, unit=unit).mean(), ratios.numbers)
        return as_numbers(share.sub_(abs(ratios.alpha) if either_sign else ratios.alpha).clamp_(0, 1))

    return Mode(
        name=name,
        formula=formula,
        purpose=purpose,
        compute=mix_columns,
        coefficients=lambda _, __: None,
        needs=Needs.SLICES,
        survey=survey,
        model_survey=ModelSurvey(of_tensor, find_bounds),
        numbers=BOUNDS,
        keeps_vae=True,
        kinks=(0.0,) if either_sign else (),
    )
