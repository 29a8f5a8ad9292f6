"""XY plots: from the text of two axes to images and grids, and on from where one stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..images.diff import compare_images
from ..images.files import read_texts, reading_untrusted, write_png
from ..images.grid import GridCell, GridSheet, draw_grid
from ..images.infotext import format_infotext
from ..images.ranking import describe_share
from ..images.request import GeneratedImage, ImageRequest, request_from_dict, with_known_sampler
from ..merge.files.metadata import LABEL_FIELD, RECIPE_FIELD, name_recipe
from .axes import is_pinpoint
from .axis import Setting
from .axis_context import AxisContext
from .axis_values import AxisValues, axis_from_dict
from .cells import Cell, Places, place_name
from .estimate import MOST_CELLS, refuse_many
from .grid_sheet import describe_setting, grid_cell
from .record import RunRecord
from .xy_plot import XYPlot, check_axes

PLOT_FIELD = "elemental_plot"
"""The PNG text that holds a whole plot, so that it can be run again."""


def make_plot(
    base: Setting, x: AxisValues, y: AxisValues | None = None, *, context: AxisContext, most: int | None = MOST_CELLS
) -> XYPlot:
    """Make a plot of axes that go together.

    Args:
        base: What each cell changes; its request is for one image.
        x: The columns.
        y: The rows; None for a plot of one row.
        context: What there is.
        most: The largest number of cells that is not refused; None for any.

    Raises:
        HostError: The sampler is not known.
        ImageError: The axes do not go together, or there are too many cells.
    """
    plot = XYPlot(replace(base, request=with_known_sampler(base.request, context.samplers)), x, y)
    check_axes(plot)
    refuse_many(plot.count, most)
    return plot


@dataclass(frozen=True)
class StoredPlot:
    """The plot that a grid carries.

    Attributes:
        data: What :meth:`PlotRun.to_dict` gave.
        request: The image of each cell.
        compare: Whether each cell says how much differs from the first of its row.
        name: What to call it in messages.
    """

    data: Mapping[str, Any]
    request: ImageRequest
    compare: bool
    name: str

    def axes(self, context: AxisContext) -> dict[str, AxisValues]:
        """Read its axes, by "x" and "y".

        Raises:
            ElementalError: A value cannot be read, or the plot is damaged.
        """
        with reading_untrusted(self.name):
            return {side: axis_from_dict(side, self.data[side], context) for side in "xy" if side in self.data}


def read_stored_plot(path: Path) -> StoredPlot | None:
    """Read the plot that a grid carries; None from any other file.

    Raises:
        ImageError: The file cannot be read as an image, or its plot is damaged.
    """
    text = read_texts(path).get(PLOT_FIELD) if path.suffix.lower() == ".png" else None
    if text is None:
        return None
    name = f"The plot in {path}"
    with reading_untrusted(name):
        data = json.loads(text)
        if not {"recipe", "request", "x"} <= set(data):
            raise ValueError("it is incomplete")
        return StoredPlot(data, request_from_dict(data["request"]), bool(data.get("compare")), name)


@dataclass(frozen=True)
class PlotRun:
    """A plot as a run.

    Attributes:
        plot: What to make.
        compare: Whether to say below each image how much of it differs from the first of its row.
        kind: What it is called in a record.
    """

    plot: XYPlot
    compare: bool = False
    kind = "plot"

    def rounds(self) -> Sequence[Sequence[Cell]]:
        """Compute the cells, grid by grid.

        Raises:
            ElementalError: A value does not go with the rest; the message names axis and value.
        """
        cells = {(cell.x, cell.y): cell for cell in self.plot.cells()}
        return [[cells[x, y] for y in places.rows for x in places.columns] for places in self.plot.grids]

    def labels(self, cell: Cell) -> Mapping[str, str]:
        """Give the labels of a cell's values."""
        return self.plot.labels(cell)

    def to_dict(self) -> dict[str, Any]:
        """Give the plot as plain data."""
        return {**self.plot.to_dict(), "compare": self.compare}

    def finish(self, record: RunRecord) -> Sequence[Path]:
        """Draw the grids.

        Raises:
            ImageError: A file cannot be written, or images that are compared differ in size.
        """
        grids = self.plot.grids
        paths = []
        for index, places in enumerate(grids):
            path = record.files.grid(index, len(grids))
            sheet = self._sheet(places, record)
            write_png(path, self._with_texts(sheet, places, record), replace=True)
            paths.append(path)
        return paths

    def _sheet(self, places: Places, record: RunRecord) -> GridSheet:
        x, y = self.plot.x, self.plot.y
        request = self.plot.base.request
        names = [[place_name(column, row) for column in places.columns] for row in places.rows]
        rows = [[grid_cell(name, record) for name in row] for row in names]
        if self.compare:
            rows = [_compared(cells, row, record) for cells, row in zip(rows, names, strict=True)]
        return GridSheet(
            rows=rows,
            columns=[x.values[column].label for column in places.columns],
            row_labels=[] if y is None else [y.values[row].label for row in places.rows],
            legend=describe_setting(self.plot.base, varied=_varied(self.plot)),
            size=(request.width, request.height),
        )

    def _with_texts(self, sheet: GridSheet, places: Places, record: RunRecord) -> GeneratedImage:
        definition = record.data["definition"]
        first = request_from_dict(record.cells[place_name(places.columns[0], places.rows[0])]["request"])
        axes = {f"{axis.side.upper()} axis": axis.axis.name for axis in self.plot.axes}
        model = {LABEL_FIELD: name_recipe(self.plot.base.recipe), **axes}
        return GeneratedImage(
            draw_grid(sheet),
            first.seed,
            format_infotext(first, seed=first.seed, model=model),
            {RECIPE_FIELD: json.dumps(definition["recipe"]), PLOT_FIELD: json.dumps(definition)},
        )


def _compared(cells: Sequence[GridCell], names: Sequence[str], record: RunRecord) -> list[GridCell]:
    """Note below each image of a row how much of it differs from the first, and in the record all figures."""
    noted = []
    first = cells[0].image
    for cell, name in zip(cells, names, strict=True):
        if cell is not cells[0] and first is not None and cell.image is not None:
            difference = compare_images(first, cell.image)
            record.cells[name]["figures"] = difference._asdict()
            noted.append(replace(cell, note=describe_share(difference)))
        else:
            noted.append(cell)
    return noted


def _varied(plot: XYPlot) -> set[str]:
    varied = {part for axis in plot.axes for part in axis.axis.sets}
    if any(is_pinpoint(axis.axis) for axis in plot.axes):
        varied -= {"alpha", "rules"}  # these are the base's in every cell; what is pinned comes on top
    return varied
