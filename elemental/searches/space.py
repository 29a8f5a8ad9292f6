"""The space of a search: which numbers of a recipe vary, and the recipe at each point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..errors import RecipeError
from ..recipe.recipe import MergeRecipe

MOST_NUMBERS = 50
"""More numbers than these are not found by comparing a few dozen images."""
_STEPS = 1000
"""Values are whole thousandths of their range: nobody sees less, and specs stay short."""


@dataclass(frozen=True)
class Varying:
    """A number that varies.

    Attributes:
        name: What users call it.
        low: The least value.
        high: The largest value, above the least.
        start: Where the search begins.
        whole: Whether it is a whole number.

    Raises:
        RecipeError: There is no value between the least and the largest.
    """

    name: str
    low: float
    high: float
    start: float
    whole: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise RecipeError(f"{self.name} varies from {self.low:g} to {self.high:g}: write the smaller one first.")

    def value(self, share: float) -> float:
        """Give the value at a share of the range, from 0 to 1."""
        value = self.low + (self.high - self.low) * round(share * _STEPS) / _STEPS
        return float(round(value)) if self.whole else round(value, 6)

    @property
    def share_of_start(self) -> float:
        """Where in the range the search begins, from 0 to 1."""
        return min(1.0, max(0.0, (self.start - self.low) / (self.high - self.low)))


@dataclass(frozen=True)
class Part:
    """One or several numbers that are put into a recipe together.

    Attributes:
        text: How the part is written; :func:`.vary_texts.parse_vary` reads it back.
        numbers: Its numbers.
        apply: Gives a recipe with other values, one for each number.
        remarks: What in the text has no effect, in whole sentences.
    """

    text: str
    numbers: tuple[Varying, ...]
    apply: Callable[[MergeRecipe, Sequence[float]], MergeRecipe]
    remarks: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Space:
    """All numbers of a search.

    Attributes:
        base: The recipe that they are put into.
        parts: The parts, in the order in which they are put into it; later rules win.

    Raises:
        RecipeError: Nothing varies, or too many numbers do, or the mode takes no such value.
    """

    base: MergeRecipe
    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        if not self.numbers:
            raise RecipeError("Nothing varies: name the elements or numbers to be found.")
        if len(self.numbers) > MOST_NUMBERS:
            raise RecipeError(
                f"{len(self.numbers)} numbers vary; {MOST_NUMBERS} at most can be found by comparing images. "
                "Let more elements share a ratio."
            )
        for share in (0.0, 1.0):
            self.recipe([share] * len(self.numbers))

    @property
    def numbers(self) -> tuple[Varying, ...]:
        """The numbers of all parts, in their order: the axes of the space."""
        return tuple(number for part in self.parts for number in part.numbers)

    @property
    def start(self) -> tuple[float, ...]:
        """The point at which the search begins."""
        return tuple(number.share_of_start for number in self.numbers)

    def values(self, point: Sequence[float]) -> tuple[float, ...]:
        """Give the numbers' values at a point.

        Args:
            point: The share of each number's range, from 0 to 1.
        """
        return tuple(number.value(share) for number, share in zip(self.numbers, point, strict=True))

    def recipe(self, point: Sequence[float]) -> MergeRecipe:
        """Give the recipe at a point.

        Args:
            point: The share of each number's range, from 0 to 1.

        Raises:
            RecipeError: The mode takes no such value.
        """
        values = list(self.values(point))
        recipe = self.base
        for part in self.parts:
            own, values = values[: len(part.numbers)], values[len(part.numbers) :]
            recipe = part.apply(recipe, own)
        return recipe
