"""All merge modes. A mode is one file beside this one, and a line here; tests compare it with its formula."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any

from .add_difference import ADD_DIFFERENCE
from .add_perpendicular import ADD_PERPENDICULAR
from .base import Coefficients, Group, Mode
from .cosine_a import COSINE_A
from .cosine_b import COSINE_B
from .crossover import CROSSOVER
from .dare import DARE
from .della import DELLA
from .extract import EXTRACT
from .geometric_median import GEOMETRIC_MEDIAN
from .karcher import KARCHER
from .model_stock import MODEL_STOCK
from .multiply_difference import MULTIPLY_DIFFERENCE
from .self_scale import SELF
from .similarity_add_difference import SIMILARITY_ADD_DIFFERENCE
from .slerp import SLERP
from .smooth_add import SMOOTH_ADD
from .sum_twice import SUM_TWICE
from .tensor_sum import TENSOR_SUM
from .ties import TIES
from .train_difference import TRAIN_DIFFERENCE
from .triple_sum import TRIPLE_SUM
from .weight_sum import WEIGHT_SUM


class MergeMode(Enum):
    """The formula of a merge: mixes of two models, mixes of three, and those that add what a model has learned."""

    _value_: str
    record: Mode

    WEIGHT_SUM = WEIGHT_SUM
    SLERP = SLERP
    TENSOR_SUM = TENSOR_SUM
    CROSSOVER = CROSSOVER
    COSINE_A = COSINE_A
    COSINE_B = COSINE_B
    TRIPLE_SUM = TRIPLE_SUM
    SUM_TWICE = SUM_TWICE
    GEOMETRIC_MEDIAN = GEOMETRIC_MEDIAN
    KARCHER = KARCHER
    ADD_DIFFERENCE = ADD_DIFFERENCE
    TRAIN_DIFFERENCE = TRAIN_DIFFERENCE
    ADD_PERPENDICULAR = ADD_PERPENDICULAR
    SIMILARITY_ADD_DIFFERENCE = SIMILARITY_ADD_DIFFERENCE
    MULTIPLY_DIFFERENCE = MULTIPLY_DIFFERENCE
    SMOOTH_ADD = SMOOTH_ADD
    EXTRACT = EXTRACT
    DARE = DARE
    DELLA = DELLA
    TIES = TIES
    MODEL_STOCK = MODEL_STOCK
    SELF = SELF

    def __new__(cls, record: Any) -> MergeMode:
        """Make a member whose value is the name of its record."""
        member = object.__new__(cls)
        member.record = record
        member._value_ = record.name
        return member

    @property
    def uses_b(self) -> bool:
        """Whether the mode needs model B."""
        return self.record.uses_b

    @property
    def uses_c(self) -> bool:
        """Whether the mode needs model C."""
        return self.record.uses_c

    @property
    def uses_beta(self) -> bool:
        """Whether the mode has a second ratio."""
        return self.record.uses_beta

    @property
    def takes_more(self) -> bool:
        """Whether the mode takes further models."""
        return self.record.takes_more

    @property
    def group(self) -> Group:
        """Its group in menus."""
        return self.record.group or (Group.LEARNED if self.uses_c else Group.TWO)

    @property
    def formula(self) -> str:
        """The formula as text."""
        return self.record.formula

    def coefficients(self, alpha: float, beta: float, more: Sequence[float] = ()) -> Coefficients | None:
        """Give the coefficients of A, B and C, if a result with these ratios is a weighted sum of the models.

        Args:
            alpha: The ratio.
            beta: The second ratio; ignored in modes without beta.
            more: The ratios of all further models; their coefficients follow, if the result is more than A.
        """
        return self.record.coefficients(alpha, beta, *more)


def grouped_modes() -> list[MergeMode]:
    """List all modes, group by group."""
    return [mode for group in Group for mode in MergeMode if mode.group is group]
