"""Extract: what B and C have learned alike or apart, as defined by github.com/hako-mikan/sd-webui-supermerger."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import Mode, Needs, Number, Operands, Ratios, Whole

if TYPE_CHECKING:
    from torch import Tensor


def _compute(tensors: Operands, ratios: Ratios, whole: Whole) -> Tensor:
    alpha, beta = ratios[:2]
    length = whole.shape[-1] if whole.shape else 1
    one, other = (changed.sub_(tensors.a).view(-1, length) for changed in (tensors.b, tensors.c))
    share = _likeness(one, other).pow_(ratios.numbers["g"]).mul_(1 - 2 * beta).add_(beta)
    mixed = one.mul_(1 - alpha).add_(other.mul_(alpha))
    return tensors.a.add_(mixed.mul_(share).view(-1))


def _likeness(one: Tensor, other: Tensor) -> Tensor:
    """Give (cos + 1) / 2 for each row: 1 for one direction, 0 for opposite ones, 1/2 where one has no direction.

    It is a quarter of the square of the sum of the unit vectors, which keeps its digits where cos is near -1.
    """
    lengths = [numbers.square().sum(dim=1, keepdim=True).sqrt_() for numbers in (one, other)]
    likeness = (one / lengths[0]).add_(other / lengths[1]).square_().sum(dim=1, keepdim=True).div_(4)
    likeness[(lengths[0] == 0) | (lengths[1] == 0)] = 0.5
    return likeness


EXTRACT = Mode(
    name="extract",
    formula="A + ((1 - a) x + a y) ((1 - b) d + b (1 - d)), x = B - A, y = C - A, d = ((cos(x, y) + 1) / 2)^g",
    purpose="adds what B and C have in common (b 0), or what is special to each (b 1); a mixes the two",
    compute=_compute,
    coefficients=lambda _, __: None,
    uses_c=True,
    uses_beta=True,
    limits=(0.0, 1.0),
    needs=Needs.LAST_AXIS,
    numbers=(Number("g", 0.3, 0, 100, "more of it tells more sharply what is alike; cos is along the last axis"),),
)
