"""The XY plot: from a setting and two axes to cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from ..errors import ElementalError, ImageError
from ..images.image_request import request_from_dict
from ..recipe.recipe import recipe_from_dict
from .axes.base import AxisValue, Setting, explain
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
    """

    base: Setting
    x: AxisValues
    y: AxisValues | None = None

    @property
    def axes(self) -> tuple[AxisValues, ...]:
        """The one or two axes."""
        return (self.x,) if self.y is None else (self.x, self.y)

    @property
    def count(self) -> int:
        """The number of cells."""
        return len(self.x.values) * (1 if self.y is None else len(self.y.values))

    @property
    def grids(self) -> tuple[GridRanges, ...]:
        """The grids, in the order in which they are made."""
        columns = group_ranges(self.x.groups)
        rows = [range(1)] if self.y is None else group_ranges(self.y.groups)
        return tuple(GridRanges(across, down) for down, across in product(rows, columns))

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
                for axis, value in sorted(chosen, key=lambda pair: not pair[0].axis.applies_first):
                    setting = _apply(axis, value, setting)
                yield Cell(x, y, setting.recipe, setting.request)


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
    sides = [axis_from_dict(side, data[side], context) for side in "xy" if side in data]
    return XYPlot(base, *sides)


def check_axes(plot: XYPlot) -> None:
    """Refuse axes that do not go together.

    Raises:
        ImageError: Both set the same thing, or elements are pinned without a ratio.
    """
    if plot.y is None:
        _check_partner(plot.x, None)
        return
    _check_partner(plot.x, plot.y)
    _check_partner(plot.y, plot.x)
    both = plot.x.axis.sets & plot.y.axis.sets
    if both:
        names = f"{plot.x.axis.name} and {plot.y.axis.name}"
        raise ImageError(f"Both axes set {' and '.join(sorted(both))}: {names}.")


def _check_partner(axis: AxisValues, other: AxisValues | None) -> None:
    """Refuse an axis of pinned elements whose other axis is not their ratio."""
    if not axis.axis.pins_elements or (other is not None and other.axis.name == "alpha"):
        return
    beside = f"not {other.axis.name}" if other else "which is missing"
    raise ImageError(
        f"{axis.side} axis, {axis.axis.name}: the other axis must be alpha, {beside}; its numbers are the "
        "ratios of these elements."
    )
