"""Tensor sum: some rows of each tensor from B, as defined by github.com/hako-mikan/sd-webui-supermerger."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .base import A, B, Mode, Operands, Ratios, Whole

if TYPE_CHECKING:
    from torch import Tensor


def _compute(tensors: Operands, ratios: Ratios, whole: Whole) -> Tensor:
    alpha, beta = ratios[:2]
    wraps = alpha + beta > 1  # B's rows go on at the first one: what lies between them is A's
    first, last = (alpha + beta - 1, beta) if wraps else (beta, alpha + beta)
    result, source = (tensors.b, tensors.a) if wraps else (tensors.a, tensors.b)
    rows, length = (whole.shape or (1,))[0], math.prod(whole.shape[1:])
    start, stop = (math.floor(share * rows) * length - whole.start for share in (first, last))
    part = slice(max(start, 0), max(stop, 0))
    result[part] = source[part]
    return result


TENSOR_SUM = Mode(
    name="tensor-sum",
    formula="rows b to a + b of each tensor from B, the others from A",
    purpose="no number of either model is changed; a is how many rows are B's, b where they begin",
    compute=_compute,
    coefficients=lambda a, _: {0.0: A, 1.0: B}.get(a),
    uses_beta=True,
    limits=(0.0, 1.0),
    jumps=lambda _: "takes whole rows",
)
