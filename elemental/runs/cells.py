"""The cells of a plot or a check: their places, and the order in which they are cheapest to make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from ..images.request import ImageRequest
from ..recipe.recipe import MergeRecipe


@dataclass(frozen=True)
class Cell:
    """One image of a plot.

    Attributes:
        x: Its column, counted through all grids from 0.
        y: Its row.
        recipe: The merge that it shows.
        request: The image.
    """

    x: int
    y: int
    recipe: MergeRecipe
    request: ImageRequest

    @property
    def name(self) -> str:
        """Its place, "x00-y00"."""
        return place_name(self.x, self.y)


def place_name(x: int, y: int) -> str:
    """Give the name of a place: "x00-y00"."""
    return f"x{x:02}-y{y:02}"


@dataclass(frozen=True)
class Places:
    """The columns and rows of one grid of a plot, counted through all grids."""

    columns: range
    rows: range


def order_cells(cells: Sequence[Cell]) -> list[Cell]:
    """Order cells so that each distinct recipe is merged once, and recipes after each other differ in little.

    What is dear to change changes least often: models first, then the mode, block weights, plain ratios, which elements
    rules are for, and last these elements' ratios.
    """
    seen: list[dict[object, int]] = [{} for _ in _COSTS]

    def rank(cell: Cell) -> tuple[int, ...]:
        parts = [part(cell.recipe) for part in _COSTS]
        return tuple(known.setdefault(part, len(known)) for known, part in zip(seen, parts, strict=True))

    return sorted(cells, key=rank)


_COSTS: tuple[Callable[[MergeRecipe], object], ...] = (
    lambda recipe: recipe.model_a,
    lambda recipe: tuple(recipe.sources.items()),
    lambda recipe: (recipe.mode, recipe.vae, recipe.dtype),
    lambda recipe: (recipe.block_alpha, recipe.block_beta),
    lambda recipe: (recipe.alpha, recipe.beta),
    lambda recipe: tuple((rule.blocks, rule.elements) for rule in recipe.rules.rules),
    lambda recipe: recipe.rules.rules,
)
"""Parts of a recipe, the dearest to change first."""


def group_ranges(groups: Sequence[Sequence[object]]) -> list[range]:
    """Give for each group the indices that its members have when all groups stand behind each other."""
    ends = [0, *accumulate(map(len, groups))]
    return [range(start, end) for start, end in pairwise(ends)]
