"""DARE: a random part of the difference, as in arXiv 2311.03099 ("Language models are Super Mario", 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import A, Mode, Number, Operands, Ratios, Whole
from .random_numbers import RANGE, draw

if TYPE_CHECKING:
    from torch import Tensor

SHARE = Number("p", 0.5, 0, 0.999, "the share of the difference that is dropped; the rest is made larger to match")
SEED = Number("seed", 0, 0, 2**32 - 1, "another seed drops other numbers", whole=True)


def _compute(tensors: Operands, ratios: Ratios, whole: Whole) -> Tensor:
    share, seed = ratios.numbers["p"], int(ratios.numbers["seed"])
    drawn = draw(whole.start, len(tensors.a), seed=seed, key=whole.key, role="b")
    kept = tensors.a.new_tensor(drawn < (1 - share) * RANGE)
    return tensors.b.sub_(tensors.a).mul_(kept).mul_(ratios.alpha / (1 - share)).add_(tensors.a)


DARE = Mode(
    name="dare",
    formula="A + a m (B - A) / (1 - p), m 0 with chance p, else 1",
    purpose="like weight-sum, with a random part of the difference, scaled up to make up for the rest",
    compute=_compute,
    coefficients=lambda a, _: A if a == 0 else None,
    numbers=(SHARE, SEED),
)
