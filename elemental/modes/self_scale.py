"""Self: one model, multiplied, as "self" of github.com/hako-mikan/sd-webui-supermerger.

That tool leaves out to_out, proj_out and norms, which a rule does here where it is wanted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import A, Group, Mode, Operands, Ratios, Whole

if TYPE_CHECKING:
    from torch import Tensor


def _compute(tensors: Operands, ratios: Ratios, _: Whole) -> Tensor:
    return tensors.a.mul_(ratios.alpha)


SELF = Mode(
    name="self",
    formula="a A",
    purpose="makes single elements of one model stronger or weaker; 1 leaves them as they are",
    compute=_compute,
    coefficients=lambda a, _: A if a == 1 else None,
    uses_b=False,
    group=Group.ONE,
)
