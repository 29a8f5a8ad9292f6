"""DELLA: DARE that drops small numbers more often than large ones, as in arXiv 2406.11617 ("DELLA-Merging", 2024)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .base import A, Mode, Needs, Number, Operands, Ratios, Whole
from .dare import SEED, SHARE
from .random_numbers import RANGE, draw

if TYPE_CHECKING:
    from torch import Tensor

_MOST = SHARE.most


def _compute(tensors: Operands, ratios: Ratios, whole: Whole) -> Tensor:
    numbers, count = ratios.numbers, len(tensors.a)
    change = tensors.b.sub_(tensors.a)
    length = math.prod(whole.shape[1:]) if len(whole.shape) > 1 else count
    dropped = _chances(change.view(-1, length), share=numbers["p"], spread=numbers["e"]).view(-1)
    drawn = draw(whole.start, count, seed=int(numbers["seed"]), key=whole.key, role="b")
    kept = change.new_tensor(drawn.astype("f8")) < (1 - dropped) * RANGE
    return change.mul_(kept).mul_(ratios.alpha).div_(1 - dropped).add_(tensors.a)


def _chances(change: Tensor, *, share: float, spread: float) -> Tensor:
    """Give the chance of each number to be dropped: the more, the smaller it is in its row.

    Args:
        change: The numbers, in rows.
        share: The mean chance.
        spread: How much more that of the smallest one is, and less that of the largest.
    """
    order = change.abs().sort(dim=1, stable=True).indices
    ranks = order.new_ones(order.shape).cumsum(dim=1).sub_(1)
    rank = order.new_empty(order.shape).scatter_(1, order, ranks).to(change.dtype)
    last = max(change.shape[1] - 1, 1)
    spread = spread if change.shape[1] > 1 else 0.0
    return rank.mul_(-2 * spread / last).add_(share + spread).clamp_(0, _MOST)


DELLA = Mode(
    name="della",
    formula="A + a m (B - A) / (1 - q), m 0 with chance q, else 1; q from p + e for a row's smallest to p - e",
    purpose="like dare, but large differences are kept more often than small ones",
    compute=_compute,
    coefficients=lambda a, _: A if a == 0 else None,
    needs=Needs.ROW,
    numbers=(SHARE, Number("e", 0.1, 0, 0.5, "how far the chance of the smallest and the largest is from p"), SEED),
)
