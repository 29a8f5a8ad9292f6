"""TIES: the largest part of two differences where their signs agree, as in arXiv 2306.01708 ("TIES-Merging", 2023)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from .base import A, Mode, Number, Operands, Ratios, Read, Whole
from .largest_share import find_least_kept

if TYPE_CHECKING:
    from torch import Tensor


def _survey(read: Read, ratios: Ratios, _: Sequence[int]) -> Sequence[float]:
    def sizes() -> Iterator[Sequence[Tensor]]:
        return ([(changed - a).abs_() for changed in (b, c)] for a, b, c in read())

    return find_least_kept(sizes, share=ratios.numbers["k"])


def _compute(tensors: Operands, ratios: Ratios, whole: Whole) -> Tensor:
    one, other = (changed.sub_(tensors.a) for changed in (tensors.b, tensors.c))
    for change, least in zip((one, other), whole.found, strict=True):
        change.mul_(change.abs() >= least)
    sign = (one + other).sign_()
    for change in (one, other):
        change.mul_(change * sign > 0)
    agreeing = (one != 0).to(one.dtype).add_(other != 0).clamp_(min=1)
    return one.add_(other).div_(agreeing).mul_(ratios.alpha).add_(tensors.a)


TIES = Mode(
    name="ties",
    formula="A + a mean(D_i of the sign of their sum), D_i the largest share k of B - A and of C - A",
    purpose="adds to the base A what B and C have learned, without small changes and contradictions",
    compute=_compute,
    coefficients=lambda a, _: A if a == 0 else None,
    uses_c=True,
    adds_difference=True,
    survey=_survey,
    numbers=(Number("k", 0.2, 0.001, 1, "the share of each difference that is kept: its largest numbers"),),
)
