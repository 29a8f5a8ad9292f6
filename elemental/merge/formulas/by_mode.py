"""The formula of each merge mode."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from ...recipe.modes import MergeMode
from .linear import add_difference, sum_twice, triple_sum, weight_sum


class Formula(Protocol):
    """A function that computes the formula of a mode."""

    def __call__(self, a: Tensor, b: Tensor, c: Tensor, *, alpha: float, beta: float) -> Tensor:
        """Compute the formula in place; the contents of the tensors are lost.

        Args:
            a: A's tensor, of any shape and float dtype.
            b: B's tensor, of the same shape and dtype.
            c: C's tensor, of the same shape and dtype; ignored in modes without C.
            alpha: The ratio.
            beta: The second ratio; ignored in modes without beta.

        Returns:
            The result, of the same shape and dtype, in the memory of one of the arguments.
        """


FORMULAS: dict[MergeMode, Formula] = {
    MergeMode.WEIGHT_SUM: weight_sum,
    MergeMode.ADD_DIFFERENCE: add_difference,
    MergeMode.TRIPLE_SUM: triple_sum,
    MergeMode.SUM_TWICE: sum_twice,
}
"""The function of each mode."""
