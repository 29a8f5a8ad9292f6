"""TIES: the largest part of differences where their signs agree, as in arXiv 2306.01708 ("TIES-Merging", 2023)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from .base import A, Mode, More, Number, Operands, Ratios, Read, Whole
from .largest_share import find_least_kept

if TYPE_CHECKING:
    from torch import Tensor


def _survey(read: Read, ratios: Ratios, _: Sequence[int]) -> Sequence[float]:
    def sizes() -> Iterator[Sequence[Tensor]]:
        return ([(changed - a).abs_() for changed in (b, c, *more)] for a, b, c, more in read())

    return find_least_kept(sizes, share=ratios.numbers["k"])


def _compute(tensors: Operands, ratios: Ratios, whole: Whole) -> Tensor:
    a, b, c, more = tensors
    changes = [changed.sub_(a) for changed in (b, c, *more)]
    for change, least, ratio in zip(changes, whole.found, (1.0, 1.0, *ratios.more), strict=True):
        change.mul_(change.abs() >= least)
        if ratio != 1:
            change.mul_(ratio)
    one, *others = changes
    sign = _added(one.clone(), others).sign_()
    for change in changes:
        change.mul_(change * sign > 0)
    agreeing = _added((one != 0).to(one.dtype), [change != 0 for change in others]).clamp_(min=1)
    return _added(one, others).div_(agreeing).mul_(ratios.alpha).add_(a)


def _added(total: Tensor, others: Sequence[Tensor]) -> Tensor:
    for other in others:
        total.add_(other)
    return total


TIES = Mode(
    name="ties",
    formula="A + a mean(D_i of the sign of their sum), D_i the largest share k of B - A and of C - A",
    purpose="adds to the base A what B and C have learned, without small changes and contradictions",
    compute=_compute,
    coefficients=lambda a, *_: A if a == 0 else None,
    uses_c=True,
    adds_difference=True,
    survey=_survey,
    more=More("what the kept part of its difference is multiplied with, before signs are compared; B and C have 1"),
    numbers=(Number("k", 0.2, 0.001, 1, "the share of each difference that is kept: its largest numbers"),),
)
