"""XY plots: from the text of two axes to pictures and grids, and on from where one stopped."""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .errors import ImageError
from .hosts.base import Host
from .images.axes import Known, Setting, is_pinpoint
from .images.diff import compare_pictures
from .images.files import damage_told, read_picture, read_texts, write_png
from .images.grid import GridCell, GridSheet, draw_grid
from .images.infotext import format_infotext
from .images.report import describe_share
from .images.request import GeneratedImage, ImageRequest, request_from_dict, with_known_sampler
from .images.xyplot import AxisValues, Cell, Places, XYPlot, axis_from_dict, check_axes, place_name
from .merge.checkpoint import Checkpoint
from .merge.metadata import LABEL_FIELD, RECIPE_FIELD, name_recipe
from .merge.sources import locate_model, model_source
from .run_files import RunRecord
from .runs import FAILED
from .spec.keys import name_key
from .spec.recipe import MergeRecipe, VaeChoice
from .spec.rules import format_ratio
from .spec.weights import format_block_weights
from .surveys import MOST_CELLS, refuse_many
from .workflows import load_presets

PLOT_FIELD = "elemental_plot"
"""The PNG text that holds a whole plot, so that it can be run again."""

_SEEDS = 2**32


def known_for(host: Host, recipe: MergeRecipe, *, models_folder: Path | None = None) -> Known:
    """Gather what the values of axes are read against.

    Args:
        host: Whose samplers may be named.
        recipe: Whose model A says which blocks and elements there are.
        models_folder: Where to look for it if it is not where the recipe says, by its SHA-256.

    Raises:
        CheckpointError: Model A is missing, damaged, has changed, or is none that can be merged.
        RecipeError: The user's own presets cannot be read.
    """
    with Checkpoint(locate_model(recipe.model_a, models_folder)) as model:
        architecture = model.architecture
        names = [name_key(key, architecture) for key in model.tensors]
    return Known(
        architecture=architecture,
        names=names,
        presets=load_presets(),
        samplers=host.samplers(),
        find_model=model_source,
        draw_seed=lambda: random.randrange(_SEEDS),
    )


def make_plot(
    base: Setting, x: AxisValues, y: AxisValues | None = None, *, known: Known, most: int | None = MOST_CELLS
) -> XYPlot:
    """Make a plot of axes that go together.

    Args:
        base: What each cell changes; its request is for one picture.
        x: The columns.
        y: The rows; None for a plot of one row.
        known: What there is.
        most: The largest number of cells that is not refused; None for any.

    Raises:
        HostError: The sampler is not known.
        ImageError: The axes do not go together, or there are too many cells.
    """
    plot = XYPlot(replace(base, request=with_known_sampler(base.request, known.samplers)), x, y)
    check_axes(plot)
    refuse_many(plot.count, most)
    return plot


@dataclass(frozen=True)
class StoredPlot:
    """The plot that a grid carries.

    Attributes:
        data: What :meth:`PlotRun.to_dict` gave.
        request: The picture of each cell.
        compare: Whether each cell says how much differs from the first of its row.
        name: What to call it in messages.
    """

    data: Mapping[str, Any]
    request: ImageRequest
    compare: bool
    name: str

    def axes(self, known: Known) -> dict[str, AxisValues]:
        """Read its axes, by "x" and "y".

        Raises:
            ElementalError: A value cannot be read, or the plot is damaged.
        """
        with damage_told(self.name):
            return {side: axis_from_dict(side, self.data[side], known) for side in "xy" if side in self.data}


def read_stored_plot(path: Path) -> StoredPlot | None:
    """Read the plot that a grid carries; None from any other file.

    Raises:
        ImageError: The file cannot be read as a picture, or its plot is damaged.
    """
    text = read_texts(path).get(PLOT_FIELD) if path.suffix.lower() == ".png" else None
    if text is None:
        return None
    name = f"The plot in {path}"
    with damage_told(name):
        data = json.loads(text)
        if not {"recipe", "request", "x"} <= set(data):
            raise ValueError("it is incomplete")
        return StoredPlot(data, request_from_dict(data["request"]), bool(data.get("compare")), name)


@dataclass(frozen=True)
class PlotRun:
    """A plot as a run.

    Attributes:
        plot: What to make.
        compare: Whether to say below each picture how much of it differs from the first of its row.
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
            ImageError: A file cannot be written, or pictures that are compared differ in size.
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


def grid_cell(name: str, record: RunRecord) -> GridCell:
    """Read the picture of a cell, or say why there is none."""
    facts = record.cells[name]
    try:
        return GridCell(read_picture(record.files.cell(name)))
    except ImageError:
        return GridCell(None, f"failed: {facts['error']}" if facts["state"] == FAILED else "not made yet")


def _compared(cells: Sequence[GridCell], names: Sequence[str], record: RunRecord) -> list[GridCell]:
    """Note below each picture of a row how much of it differs from the first, and in the record all figures."""
    noted = []
    first = cells[0].image
    for cell, name in zip(cells, names, strict=True):
        if cell is not cells[0] and first is not None and cell.image is not None:
            difference = compare_pictures(first, cell.image)
            record.cells[name]["figures"] = difference._asdict()
            noted.append(replace(cell, note=describe_share(difference)))
        else:
            noted.append(cell)
    return noted


def describe_setting(setting: Setting, *, varied: Collection[str] = ()) -> str:
    """Say in a few lines what pictures have in common: models, mode, ratios, block weights, rules, request.

    Args:
        setting: The recipe and the request.
        varied: The parts that differ from picture to picture, and are left out.
    """
    recipe, request = setting.recipe, setting.request
    models = {"model_a": recipe.model_a, "model_b": recipe.model_b, "model_c": recipe.model_c}
    names = [f"{part[-1].upper()} {source.name}" for part, source in models.items() if source and part not in varied]
    mode = [] if "mode" in varied else [f"{recipe.mode.value}: {recipe.mode.formula}"]
    numbers = {"alpha": recipe.alpha, "beta": recipe.beta}
    ratios = [
        f"{part} {format_ratio(value)}" for part, value in numbers.items() if value is not None and part not in varied
    ]
    weights = {"block_alpha": ("MBW", recipe.block_alpha), "block_beta": ("MBW beta", recipe.block_beta)}
    blocks = [f"{name} {format_block_weights(w)}" for part, (name, w) in weights.items() if w and part not in varied]
    rules = "rules " + ", ".join(map(str, recipe.rules.rules)) if recipe.rules and "rules" not in varied else ""
    parts = [
        f"{name} {value}"
        for name, value in {
            "VAE": recipe.vae is not VaeChoice.MERGED and recipe.vae.value,
            "dtype": recipe.dtype and recipe.dtype.value,
        }.items()
        if value
    ]
    prompts = {"prompt": request.prompt, "negative": request.negative}
    texts = [f"{part}: {text}" for part, text in prompts.items() if text and part not in varied]
    settings = {
        "sampler": request.sampler,
        "steps": f"{request.steps} steps",
        "cfg": f"CFG {request.cfg:g}",
        "seed": f"seed {request.seed}",
        "size": f"{request.width}x{request.height}",
    }
    lines = [
        "   ".join([*names, *mode, *ratios, *parts]),
        *blocks,
        rules,
        "   ".join([*texts, *(value for part, value in settings.items() if part not in varied)]),
    ]
    return "\n".join(filter(None, lines))


def _varied(plot: XYPlot) -> set[str]:
    varied = {part for axis in plot.axes for part in axis.axis.sets}
    if any(is_pinpoint(axis.axis) for axis in plot.axes):
        varied -= {"alpha", "rules"}  # these are the base's in every cell; what is pinned comes on top
    return varied
