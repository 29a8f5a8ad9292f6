"""From two axes to the cells of a plot, in the order in which they are cheapest to make; no picture is made here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise, product
from typing import Any

from ..errors import ElementalError, ImageError
from ..spec.problems import suggest
from ..spec.recipe import MergeRecipe, recipe_from_dict
from .axes import AXES, Axis, AxisValue, Known, Setting, explain, is_pinpoint
from .request import ImageRequest, request_from_dict


@dataclass(frozen=True)
class AxisValues:
    """An axis and its values.

    Attributes:
        side: "x" or "y".
        axis: What varies.
        groups: The values of each grid; one group unless they were split by ``|``.
    """

    side: str
    axis: Axis
    groups: tuple[tuple[AxisValue, ...], ...]

    @property
    def values(self) -> tuple[AxisValue, ...]:
        """The values of all groups, one after the other."""
        return tuple(value for group in self.groups for value in group)

    def to_dict(self) -> dict[str, Any]:
        """Give the axis as plain data that :func:`axis_from_dict` reads back."""
        return {"type": self.axis.name, "groups": [[value.text for value in group] for group in self.groups]}


@dataclass(frozen=True)
class Cell:
    """One picture of a plot.

    Attributes:
        x: Its column, counted through all grids from 0.
        y: Its row.
        recipe: The merge that it shows.
        request: The picture.
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


@dataclass(frozen=True)
class XYPlot:
    """A plot: what all cells start from, and its axes.

    Attributes:
        base: The recipe and the request that each cell changes.
        x: The columns.
        y: The rows; None for a plot of one row.
    """

    base: Setting
    x: AxisValues
    y: AxisValues | None = None

    @property
    def axes(self) -> tuple[AxisValues, ...]:
        """The axes that there are."""
        return (self.x,) if self.y is None else (self.x, self.y)

    @property
    def count(self) -> int:
        """How many cells it has."""
        return len(self.x.values) * (1 if self.y is None else len(self.y.values))

    @property
    def grids(self) -> tuple[Places, ...]:
        """The grids, in the order in which they are made."""
        columns = group_ranges(self.x.groups)
        rows = [range(1)] if self.y is None else group_ranges(self.y.groups)
        return tuple(Places(across, down) for down, across in product(rows, columns))

    def describe(self, cell: Cell) -> str:
        """Say which values a cell shows, for messages."""
        labels = self.labels(cell)
        return "; ".join(f'{axis.side} axis, {axis.axis.name}, "{labels[axis.side]}"' for axis in self.axes)

    def labels(self, cell: Cell) -> dict[str, str]:
        """Give the labels of a cell's values by side."""
        places = {"x": cell.x, "y": cell.y}
        return {axis.side: axis.values[places[axis.side]].label for axis in self.axes}

    def to_dict(self) -> dict[str, Any]:
        """Give the plot as plain data that :func:`plot_from_dict` reads back."""
        axes = {axis.side: axis.to_dict() for axis in self.axes}
        return {"recipe": self.base.recipe.to_dict(), "request": self.base.request.to_dict(), **axes}

    def cells(self) -> Iterator[Cell]:
        """Compute the cells from the base, row by row; none depends on another.

        Raises:
            ElementalError: A value does not go with the rest; the message names axis and value.
        """
        for y, row in enumerate(self.y.values if self.y else [None]):
            for x, column in enumerate(self.x.values):
                chosen = [(self.x, column)] if self.y is None or row is None else [(self.x, column), (self.y, row)]
                setting = self.base
                # elements before the alpha that is their ratio, modes before the ratios that they need
                for axis, value in sorted(chosen, key=lambda pair: not _goes_first(pair[0].axis)):
                    try:
                        setting = axis.axis.apply(setting, value.meaning)
                    except ElementalError as exc:
                        raise explain(exc, side=axis.side, axis=axis.axis, value=value.text) from exc
                yield Cell(x, y, setting.recipe, setting.request)


def find_axis(name: str) -> Axis:
    """Give the axis of a name.

    Raises:
        ImageError: There is none.
    """
    if name not in AXES:
        raise ImageError(f'There is no axis "{name}"{suggest(name, AXES) or "."} There are {", ".join(AXES)}.')
    return AXES[name]


def parse_axis(
    side: str, name: str, text: str, known: Known, *, watch_count: Callable[[int], None] = lambda _: None
) -> AxisValues:
    r"""Read an axis as users write it.

    Args:
        side: "x" or "y".
        name: Of the axis.
        text: Its values; ``|`` splits them into those of several grids, ``\|`` is a bar that does not.
        known: What they are read against.
        watch_count: Gets the number of values as it grows, and may refuse it: a short text can name millions.

    Raises:
        ElementalError: The axis or a value is not known; the message names both.
    """
    axis = find_axis(name)
    groups = []
    for part in split_groups(text):
        pieces = axis.split(part)
        if not pieces:
            where = "its values hold nothing" if "|" not in text else 'nothing stands beside a "|"'
            raise ImageError(f"{side} axis, {name}: {where}; give {axis.form}.")
        groups.append(pieces)
    watch_count(sum(map(len, groups)))
    return _read_groups(side, axis, groups, known, watch_count)


def split_groups(text: str) -> list[str]:
    r"""Cut values at each ``|`` into those of several grids; ``\|`` is a bar that does not cut."""
    return [part.replace("\\|", "|") for part in re.split(r"\n?(?<!\\)\|\n?", text)]


def axis_from_dict(side: str, data: Mapping[str, Any], known: Known) -> AxisValues:
    """Read an axis from what :meth:`AxisValues.to_dict` gave.

    Raises:
        ElementalError: A value, the recipe or the request cannot be read.
        LookupError, TypeError, ValueError, AttributeError: An entry is missing, or of another kind.
    """
    return _read_groups(side, find_axis(str(data["type"])), data["groups"], known)


def _read_groups(
    side: str,
    axis: Axis,
    groups: Sequence[Sequence[str]],
    known: Known,
    watch_count: Callable[[int], None] = lambda _: None,
) -> AxisValues:
    found: list[tuple[AxisValue, ...]] = []
    for pieces in groups:
        values: list[AxisValue] = []
        for piece in pieces:
            try:
                values += axis.read(piece, known)
            except ElementalError as exc:
                raise explain(exc, side=side, axis=axis, value=piece) from exc
            watch_count(sum(map(len, found)) + len(values))
        found.append(tuple(values))
    return AxisValues(side, axis, tuple(found))


def plot_from_dict(data: Mapping[str, Any], known: Known) -> XYPlot:
    """Read a plot from what :meth:`XYPlot.to_dict` gave.

    Raises:
        ElementalError: A value, the recipe or the request cannot be read.
        LookupError, TypeError, ValueError, AttributeError: An entry is missing, or of another kind.
    """
    base = Setting(recipe_from_dict(data["recipe"]), request_from_dict(data["request"]))
    sides = [axis_from_dict(side, data[side], known) for side in "xy" if side in data]
    return XYPlot(base, *sides)


def check_axes(plot: XYPlot) -> None:
    """Refuse axes that do not go together.

    Raises:
        ImageError: Both set the same thing, or elements are pinned without a ratio.
    """
    names = [axis.axis.name for axis in plot.axes]
    for axis in plot.axes:
        other = next((found for found in plot.axes if found is not axis), None)
        if is_pinpoint(axis.axis) and (other is None or other.axis.name != "alpha"):
            beside = f"not {other.axis.name}" if other else "which is missing"
            raise ImageError(
                f"{axis.side} axis, {axis.axis.name}: the other axis must be alpha, {beside}; its numbers are the "
                "ratios of these elements."
            )
    if len(plot.axes) == 2:
        both = plot.axes[0].axis.sets & plot.axes[1].axis.sets
        if both:
            raise ImageError(f"Both axes set {' and '.join(sorted(both))}: {names[0]} and {names[1]}.")


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


def _goes_first(axis: Axis) -> bool:
    return is_pinpoint(axis) or axis.name == "mode"


def group_ranges(groups: Sequence[Sequence[object]]) -> list[range]:
    """Give for each group the indices that its members have when all groups stand behind each other."""
    ends = [0, *accumulate(map(len, groups))]
    return [range(start, end) for start, end in pairwise(ends)]
