"""An XY plot as a run: its rounds, its grids, and the plot that a grid carries."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..images.diff import compare_images
from ..images.files import read_texts, reading_untrusted
from ..images.grid_drawing import GridCell, GridSheet
from ..images.image_request import ImageRequest, request_from_dict, with_known_sampler
from ..images.ranking import describe_share
from ..merge.files.metadata import without_folders
from ..recipe.recipe import ModelSource
from .axes.base import SIDES, Setting
from .axes.context import AxisContext
from .axes.fields import ModelAxis
from .axes.values import AxisValues, axis_from_dict, find_axis
from .cells import Cell, GridRanges, Place, place_name
from .estimate import MOST_CELLS, refuse_many
from .grid_contents import describe_setting, grid_cell, write_grid
from .run_record import RunRecord
from .xy_plot import XYPlot, check_axes

PLOT_FIELD = "elemental_plot"
"""The PNG text that holds a whole plot, so that it can be run again."""


def make_plot(
    base: Setting, axes: Mapping[str, AxisValues], *, context: AxisContext, most: int | None = MOST_CELLS
) -> XYPlot:
    """Make a plot of axes that go together.

    Args:
        base: The setting that each cell changes; its request is for one image.
        axes: The axes by their sides; there is one of x.
        context: What values are read against; its samplers are those of the host.
        most: The largest number of cells that is allowed; None for any.

    Raises:
        HostError: The sampler is not known.
        ImageError: The axes do not go together, or there are too many cells.
    """
    plot = XYPlot(replace(base, request=with_known_sampler(base.request, context.samplers)), **axes)
    check_axes(plot)
    refuse_many(plot.count, most)
    return plot


@dataclass(frozen=True)
class StoredPlot:
    """The plot that a grid carries.

    Attributes:
        data: The definition of the plot, from :meth:`PlotRun.to_dict`.
        request: The request of the base.
        compare: Whether the grid says below each image how much of it differs from the first of its row.
        name: What messages call it.
    """

    data: Mapping[str, Any]
    request: ImageRequest
    compare: bool
    name: str

    def axes(self, context: AxisContext) -> dict[str, AxisValues]:
        """Read the axes of the plot, by their sides.

        Raises:
            ElementalError: A value cannot be read, or the plot is damaged.
        """
        with reading_untrusted(self.name):
            return {side: axis_from_dict(side, self.data[side], context) for side in SIDES if side in self.data}


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
    """An XY plot as a run.

    Attributes:
        plot: The plot.
        compare: Whether to say below each image how much of it differs from the first of its row.
        kind: What a record calls it.
    """

    plot: XYPlot
    compare: bool = False
    kind = "plot"

    def rounds(self) -> Sequence[Sequence[Cell]]:
        """Compute the cells, part by part, as bars in the values cut the plot.

        The grids of a third axis are one part: they often have the same merges, and each is made once.

        Raises:
            ElementalError: A value does not go with the rest; the message names axis and value.
        """
        cells = {Place(cell.x, cell.y, cell.z): cell for cell in self.plot.cells()}
        parts: dict[tuple[range, range], list[Cell]] = {}
        for ranges in self.plot.grids:
            places = (Place(x, y, ranges.z) for y in ranges.rows for x in ranges.columns)
            parts.setdefault((ranges.columns, ranges.rows), []).extend(cells[place] for place in places)
        return list(parts.values())

    def labels(self, cell: Cell) -> Mapping[str, str]:
        """Give the labels of a cell's values, by side."""
        return self.plot.labels(cell)

    def headings(self) -> tuple[str, ...]:
        """Say of each grid which value of the third axis it shows, in the order of their files; none without one."""
        z = self.plot.z
        return () if z is None else tuple(z.values[grid.z or 0].label for grid in self.plot.grids)

    def to_dict(self) -> dict[str, Any]:
        """Give the plot as plain data."""
        return {**self.plot.to_dict(), "compare": self.compare}

    def finish(self, record: RunRecord) -> Sequence[Path]:
        """Draw the grids.

        Raises:
            ImageError: A file cannot be written, or images that are compared differ in size.
        """
        grids = self.plot.grids
        paths = [record.files.grid(index, len(grids)) for index in range(len(grids))]
        for path, ranges in zip(paths, grids, strict=True):
            self._write_grid(path, ranges, record)
        return paths

    def _write_grid(self, path: Path, ranges: GridRanges, record: RunRecord) -> None:
        corner = record.cells[place_name(*ranges.corner)]
        setting = Setting(self.plot.base.recipe, request_from_dict(corner.request))
        pairs = {f"{axis.side.upper()} axis": axis.axis.name for axis in self.plot.axes}
        fields = {PLOT_FIELD: json.dumps(_definition_to_share(record.definition))}
        if self.plot.z is not None and ranges.z is not None:
            pairs["Z value"] = self.plot.z.values[ranges.z].text
        sheet = self._sheet(ranges, record)
        write_grid(path, sheet, record, setting, pairs=pairs, fields=fields, first=ranges.corner)

    def _sheet(self, ranges: GridRanges, record: RunRecord) -> GridSheet:
        x, y, z = self.plot.x, self.plot.y, ranges.z
        request = self.plot.base.request
        headings = [] if self.plot.z is None else [value.label for value in self.plot.z.values]
        return GridSheet(
            rows=[self._row([place_name(column, row, z) for column in ranges.columns], record) for row in ranges.rows],
            columns=[x.values[column].label for column in ranges.columns],
            row_labels=[] if y is None else [y.values[row].label for row in ranges.rows],
            legend=describe_setting(self.plot.base, varied=_varied(self.plot)),
            size=(request.width, request.height),
            heading="" if z is None else headings[z],
            room_for=headings,
        )

    def _row(self, names: Sequence[str], record: RunRecord) -> list[GridCell]:
        cells = [grid_cell(name, record) for name in names]
        return _compared(cells, names, record) if self.compare else cells


def _compared(cells: Sequence[GridCell], names: Sequence[str], record: RunRecord) -> list[GridCell]:
    """Note below each image of a row how much of it differs from the first, and all figures in the record."""
    first, *others = cells
    compared = [first]
    for cell, name in zip(others, names[1:], strict=True):
        if first.image is None or cell.image is None:
            compared.append(cell)
            continue
        difference = compare_images(first.image, cell.image)
        record.cells[name].figures = difference
        compared.append(replace(cell, note=describe_share(difference)))
    return compared


def _varied(plot: XYPlot) -> set[str]:
    """Give the parts of a setting that differ from cell to cell."""
    varied = {part for axis in plot.axes for part in axis.sets(plot.base.recipe)}
    if any(axis.axis.pins_elements for axis in plot.axes):
        varied -= {"alpha", "rules"}  # every cell has those of the base; the pinned elements come after them
    return varied


def _definition_to_share(definition: Mapping[str, Any]) -> dict[str, Any]:
    """Give the definition of a plot with the names of its models instead of their paths."""
    shared = {**definition, "recipe": without_folders(definition["recipe"])}
    for side in [side for side in SIDES if side in shared]:
        if isinstance(find_axis(shared[side]["type"]), ModelAxis):
            groups = [[ModelSource(text).name for text in group] for group in shared[side]["groups"]]
            shared[side] = {**shared[side], "groups": groups}
    return shared
