"""The formula of each merge mode."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from ...recipe.modes import MergeMode
from .linear import add_difference, sum_twice, triple_sum, weight_sum


class Formula(Protocol):
    """What the functions below have in common."""

    def __call__(self, a: Tensor, b: Tensor, c: Tensor, *, alpha: float, beta: float) -> Tensor:
        """Compute the mode's formula, using up the arguments.

        Args:
            a: A's numbers, of any shape and float format.
            b: B's, of the same shape and format.
            c: C's, likewise; whatever it is in modes that have no use for it.
            alpha: The ratio.
            beta: The second one, passed over in modes that have none.

        Returns:
            Numbers of that shape and format, in the memory of one of the arguments.
        """


FORMULAS: dict[MergeMode, Formula] = {
    MergeMode.WEIGHT_SUM: weight_sum,
    MergeMode.ADD_DIFFERENCE: add_difference,
    MergeMode.TRIPLE_SUM: triple_sum,
    MergeMode.SUM_TWICE: sum_twice,
}
