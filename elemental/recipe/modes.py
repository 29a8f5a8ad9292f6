"""The merge modes: names, formulas, and the ratios and models they use."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple

Coefficients = tuple[float, float, float]
"""What A, B and C are multiplied with."""


class ModeEntry(NamedTuple):
    """A merge mode.

    Attributes:
        name: Its name on the command line and in recipes.
        formula: Its formula as text.
        coefficients: From alpha and beta to the coefficients of A, B and C: every mode is a linear combination of them.
        uses_c: Whether it needs model C.
        uses_beta: Whether it has a second ratio.
    """

    name: str
    formula: str
    coefficients: Callable[[float, float], Coefficients]
    uses_c: bool = True
    uses_beta: bool = False


class MergeMode(Enum):
    """The formula of a merge; ``a`` is alpha, ``b`` is beta, and A, B, C are the models' tensors.

    A mode is one entry here, and one in ``merge/formulas/by_mode.py``: the function that computes it.
    ``merge/formulas/linear.py`` names the sources of the formulas.
    """

    _value_: str
    entry: ModeEntry

    WEIGHT_SUM = ModeEntry("weight-sum", "(1 - a) A + a B", lambda a, _: (1 - a, a, 0.0), uses_c=False)
    ADD_DIFFERENCE = ModeEntry("add-difference", "A + a (B - C)", lambda a, _: (1.0, a, -a))
    TRIPLE_SUM = ModeEntry("triple-sum", "(1 - a - b) A + a B + b C", lambda a, b: (1 - a - b, a, b), uses_beta=True)
    SUM_TWICE = ModeEntry(
        "sum-twice",
        "(1 - b) ((1 - a) A + a B) + b C",
        lambda a, b: ((1 - b) * (1 - a), (1 - b) * a, b),
        uses_beta=True,
    )

    def __new__(cls, *fields: Any) -> MergeMode:
        """Make a member whose value is the name of its entry."""
        member = object.__new__(cls)
        member.entry = ModeEntry(*fields)  # Enum unpacks tuples
        member._value_ = member.entry.name
        return member

    @property
    def uses_c(self) -> bool:
        """Whether the mode needs model C."""
        return self.entry.uses_c

    @property
    def uses_beta(self) -> bool:
        """Whether the mode has a second ratio."""
        return self.entry.uses_beta

    @property
    def formula(self) -> str:
        """The formula as text."""
        return self.entry.formula

    def coefficients(self, alpha: float, beta: float) -> Coefficients:
        """Give the coefficients of A, B and C.

        Args:
            alpha: The ratio.
            beta: The second ratio; ignored in modes without beta.
        """
        return self.entry.coefficients(alpha, beta)
