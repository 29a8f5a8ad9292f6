"""The merge modes: their names, formulas and factors."""

from __future__ import annotations

from enum import Enum


class MergeMode(Enum):
    """The formula of a merge; ``a`` is alpha, ``b`` beta, and A, B, C the models' tensors.

    Where the formulas come from stands in ``merge/modes.py``.
    """

    WEIGHT_SUM = "weight-sum"
    ADD_DIFFERENCE = "add-difference"
    TRIPLE_SUM = "triple-sum"
    SUM_TWICE = "sum-twice"

    @property
    def uses_c(self) -> bool:
        """Whether the mode needs a third model."""
        return self is not MergeMode.WEIGHT_SUM

    @property
    def uses_beta(self) -> bool:
        """Whether the mode has a second ratio."""
        return self in (MergeMode.TRIPLE_SUM, MergeMode.SUM_TWICE)

    @property
    def formula(self) -> str:
        """The formula as text."""
        return {
            MergeMode.WEIGHT_SUM: "(1 - a) A + a B",
            MergeMode.ADD_DIFFERENCE: "A + a (B - C)",
            MergeMode.TRIPLE_SUM: "(1 - a - b) A + a B + b C",
            MergeMode.SUM_TWICE: "(1 - b) ((1 - a) A + a B) + b C",
        }[self]

    def coefficients(self, alpha: float, beta: float) -> tuple[float, float, float]:
        """Give the factors of A, B and C, for every mode is a linear combination of the three."""
        return {
            MergeMode.WEIGHT_SUM: (1 - alpha, alpha, 0.0),
            MergeMode.ADD_DIFFERENCE: (1.0, alpha, -alpha),
            MergeMode.TRIPLE_SUM: (1 - alpha - beta, alpha, beta),
            MergeMode.SUM_TWICE: ((1 - beta) * (1 - alpha), (1 - beta) * alpha, beta),
        }[self]
