"""The XY plot: from a setting and its axes to cells."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

from ..errors import ElementalError, ImageError
from ..images.image_request import request_from_dict
from ..recipe.recipe import recipe_from_dict
from .axes.base import SIDES, AxisValue, Setting, explain
from .axes.context import AxisContext
from .axes.values import AxisValues, axis_from_dict
from .cells import Cell, GridRanges, group_ranges


@dataclass(frozen=True)
class XYPlot:
    """A plot: the setting that all cells start from, and its axes.

    Attributes:
        base: The recipe and the request that each cell changes.
        x: The axis of the columns.
        y: The axis of the rows; None for a plot of one row.
        z: The axis of the grids; None for a plot that has no such axis.
    """

    base: Setting
    x: AxisValues
    y: AxisValues | None = None
    z: AxisValues | None = None

    @property
    def axes(self) -> tuple[AxisValues, ...]:
        """The axes that there are, from x to z."""
        return tuple(axis for axis in (self.x, self.y, self.z) if axis is not None)

    @property
    def count(self) -> int:
        """The number of cells."""
        return math.prod(len(axis.values) for axis in self.axes)

    @property
    def grids(self) -> tuple[GridRanges, ...]:
        """The grids, in the order of their files."""
        columns = group_ranges(self.x.groups)
        rows = [range(1)] if self.y is None else group_ranges(self.y.groups)
        return tuple(GridRanges(across, down, z) for z, down, across in product(_indices(self.z), rows, columns))

    def describe(self, cell: Cell) -> str:
        """Say which values a cell shows, for messages."""
        labels = self.labels(cell)
        return "; ".join(f'{axis.side} axis, {axis.axis.name}, "{labels[axis.side]}"' for axis in self.axes)

    def labels(self, cell: Cell) -> dict[str, str]:
        """Give the labels of a cell's values by side."""
        return {axis.side: axis.values[getattr(cell, axis.side)].label for axis in self.axes}

    def to_dict(self) -> dict[str, Any]:
        """Give the plot as plain data that :func:`plot_from_dict` reads back."""
        axes = {axis.side: axis.to_dict() for axis in self.axes}
        return {"recipe": self.base.recipe.to_dict(), "request": self.base.request.to_dict(), **axes}

    def cells(self) -> Iterator[Cell]:
        """Compute the cells from the base, grid by grid and row by row; none depends on another.

        Raises:
            ElementalError: A value does not go with the rest; the message names axis and value.
        """
        axes = sorted(self.axes, key=lambda axis: not axis.axis.applies_first)
        for z, y, x in product(*map(_indices, (self.z, self.y, self.x))):
            setting, places = self.base, {"x": x, "y": y, "z": z}
            for axis in axes:
                setting = _apply(axis, axis.values[places[axis.side] or 0], setting)
            yield Cell(x or 0, y or 0, setting.recipe, setting.request, z)


def _indices(axis: AxisValues | None) -> Sequence[int | None]:
    return [None] if axis is None else range(len(axis.values))


def _apply(axis: AxisValues, value: AxisValue, setting: Setting) -> Setting:
    try:
        return axis.axis.apply(setting, value.meaning)
    except ElementalError as exc:
        raise explain(exc, side=axis.side, axis=axis.axis, value=value.text) from exc


def plot_from_dict(data: Mapping[str, Any], context: AxisContext) -> XYPlot:
    """Read a plot from what :meth:`XYPlot.to_dict` gave.

    Raises:
        ElementalError: A value, the recipe or the request cannot be read.
        LookupError, TypeError, ValueError, AttributeError: An entry is missing, or of another kind.
    """
    base = Setting(recipe_from_dict(data["recipe"]), request_from_dict(data["request"]))
    return XYPlot(base, **{side: axis_from_dict(side, data[side], context) for side in SIDES if side in data})


def check_axes(plot: XYPlot) -> None:
    """Refuse axes that do not go together.

    Raises:
        ImageError: Two of them set the same thing, elements are pinned without a ratio, or there is a bar on the third.
    """
    for axis in plot.axes:
        _check_partner(axis, [other.axis.name for other in plot.axes if other is not axis])
    recipe = plot.base.recipe
    for one, other in combinations(plot.axes, 2):
        if both := one.sets(recipe) & other.sets(recipe):
            names = f"{one.axis.name} and {other.axis.name}"
            sides = f"The {one.side} and the {other.side} axis"
            raise ImageError(f"{sides} both set {' and '.join(sorted(both))}: {names}. Choose another type for one.")
    if plot.z is not None and len(plot.z.groups) > 1:
        raise ImageError(f'z axis, {plot.z.axis.name}: each of its values is a grid already; leave out the "|".')


def _check_partner(axis: AxisValues, others: Sequence[str]) -> None:
    """Refuse an axis of pinned elements beside others, given by their names, of which none is their ratio."""
    if not axis.axis.pins_elements or "alpha" in others:
        return
    beside = f"not {' or '.join(others)}" if others else "which is missing"
    raise ImageError(
        f"{axis.side} axis, {axis.axis.name}: the other axis must be alpha, {beside}; its numbers are the "
        "ratios of these elements."
    )
