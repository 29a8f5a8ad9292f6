"""Model stock: as far from the base as models agree, as in arXiv 2403.19522 ("Model Stock", 2024), equation 7.

Of n models with the mean s of the cosines between any two of their differences from the base, t is n s / (1 + (n-1) s).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from .base import A, Mode, More, Operands, Ratios, Whole, adding_up

if TYPE_CHECKING:
    from torch import Tensor


def _sums(tensors: Operands) -> Sequence[Tensor]:
    changes = [changed - tensors.a for changed in (tensors.b, tensors.c, *tensors.more)]
    products = [one.dot(other) for one, other in combinations(changes, 2)]
    return [*products, *(change.dot(change) for change in changes)]


def _compute(tensors: Operands, ratios: Ratios, whole: Whole) -> Tensor:
    a, b, c, more = tensors
    count = 2 + len(more)
    cosine = _mean_cosine(whole.found[:-count], whole.found[-count:])
    changes = b.sub_(a).add_(c.sub_(a))
    for further in more:
        changes.add_(further.sub_(a))
    return changes.mul_(ratios.alpha * cosine / (1 + (count - 1) * cosine)).add_(a)


def _mean_cosine(products: Sequence[float], squares: Sequence[float]) -> float:
    """Give the mean of the cosines between any two differences, at least 0; of one that is 0, they are 0.

    Args:
        products: The scalar product of each pair.
        squares: That of each with itself.
    """
    pairs = combinations(map(math.sqrt, squares), 2)
    lengths = [one * other for one, other in pairs]
    cosines = [product / both if both > 0 else 0.0 for product, both in zip(products, lengths, strict=True)]
    return max(0.0, sum(cosines) / len(cosines))


MODEL_STOCK = Mode(
    name="model-stock",
    formula="A + a t (B - A + C - A) / 2, t = 2 s / (1 + s), s = cos(B - A, C - A) of each tensor, at least 0",
    purpose="adds to the base A what B and C have learned, less where they disagree; alpha 1 is the paper's",
    compute=_compute,
    coefficients=lambda a, *_: A if a == 0 else None,
    uses_c=True,
    adds_difference=True,
    survey=adding_up(_sums),
    more=More("1 or 0, whether it counts as B and C do: the paper has no weights", least=0, whole=True),
)
