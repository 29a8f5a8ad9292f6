"""The cells of a run: their places, and the order in which they are cheapest to make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

from ..images.image_request import ImageRequest
from ..recipe.chains import base_file
from ..recipe.recipe import MergeRecipe


@dataclass(frozen=True)
class Cell:
    """One image of a run.

    Attributes:
        x: The column, counted through all grids from 0.
        y: The row, counted likewise.
        recipe: The merge that the image shows.
        request: The image.
        z: The number of its value of the third axis, from 0; None without such an axis.
    """

    x: int
    y: int
    recipe: MergeRecipe
    request: ImageRequest
    z: int | None = None

    @property
    def name(self) -> str:
        """The name of its place, "x00-y00", or "x00-y00-z00"."""
        return place_name(self.x, self.y, self.z)


class Place(NamedTuple):
    """The place of a cell, as in :class:`Cell`."""

    x: int
    y: int
    z: int | None = None


FIRST = Place(0, 0)


def place_name(x: int, y: int, z: int | None = None) -> str:
    """Give the name of a place: "x00-y00", or with a third axis "x00-y00-z00"."""
    return f"x{x:02}-y{y:02}" if z is None else f"x{x:02}-y{y:02}-z{z:02}"


@dataclass(frozen=True)
class GridRanges:
    """The columns and rows of one grid of an XY plot, counted through all grids, and its value of the third axis."""

    columns: range
    rows: range
    z: int | None = None

    @property
    def corner(self) -> Place:
        """The place of its first cell."""
        return Place(self.columns[0], self.rows[0], self.z)


def order_cells(cells: Sequence[Cell]) -> list[Cell]:
    """Order cells so that each distinct recipe is merged once, and recipes after each other differ in little.

    What is expensive to change changes least often: the models, then the mode and its numbers, block weights, base
    ratios, the elements that rules are for, and last the ratios of these elements.
    """
    numbers: list[dict[object, int]] = [{} for _ in _PARTS_BY_COST]  # of each part's values, as they appear

    def rank(cell: Cell) -> tuple[int, ...]:
        values = [part(cell.recipe) for part in _PARTS_BY_COST]
        return tuple(number.setdefault(value, len(number)) for number, value in zip(numbers, values, strict=True))

    return sorted(cells, key=rank)


_PARTS_BY_COST: tuple[Callable[[MergeRecipe], object], ...] = (
    lambda recipe: base_file(recipe.model_a),
    lambda recipe: (tuple(recipe.sources.items()), tuple(lora.file for lora in recipe.loras)),
    lambda recipe: (recipe.mode, recipe.vae, recipe.dtype),
    lambda recipe: recipe.numbers,
    lambda recipe: (recipe.block_alpha, recipe.block_beta),
    lambda recipe: (recipe.alpha, recipe.beta, recipe.more_ratios),
    lambda recipe: recipe.loras,
    lambda recipe: tuple((rule.target, rule.blocks, rule.elements) for rule in recipe.rules.rules),
    lambda recipe: recipe.rules.rules,
)
"""Parts of a recipe, the most expensive to change first."""


def group_ranges(groups: Sequence[Sequence[object]]) -> list[range]:
    """Give for each group the indices of its members, counted through all groups."""
    ends = [0, *accumulate(map(len, groups))]
    return [range(start, end) for start, end in pairwise(ends)]
