"""A run's grid: the image of each cell, the legend, and the file with what it says of how it was made."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path

from ..errors import ImageError
from ..images.files import read_image, write_png
from ..images.grid_drawing import GridCell, GridSheet, draw_grid
from ..images.image_request import GeneratedImage, ImageRequest
from ..images.infotext import format_infotext
from ..merge.files.metadata import LABEL_FIELD, RECIPE_FIELD, name_lora, name_recipe, recipe_to_share
from ..recipe.adjustments import format_adjust
from ..recipe.block_weights import format_block_weights
from ..recipe.more_models import MORE_ROLES
from ..recipe.recipe import MergeRecipe, VaeChoice
from ..recipe.rules import format_ratio
from .axes.base import Setting
from .axes.loras import lora_part
from .cells import FIRST, Place
from .run_record import CellState, RunRecord

CELLS_FIELD = "elemental_cells"
"""The PNG text of a grid that says where its cells are."""

_Line = list[tuple[str, str]]
"""A line of the legend: the parts of a setting, each with its text; parts without a text are left out."""


def grid_cell(name: str, record: RunRecord) -> GridCell:
    """Read the image of a cell, or say why there is none."""
    cell = record.cells[name]
    try:
        return GridCell(read_image(record.files.cell(name)))
    except ImageError:
        return GridCell(None, f"failed: {cell.error}" if cell.state is CellState.FAILED else "not made yet")


def write_grid(
    path: Path,
    sheet: GridSheet,
    record: RunRecord,
    setting: Setting,
    *,
    pairs: Mapping[str, str] | None = None,
    fields: Mapping[str, str] | None = None,
    first: Place = FIRST,
) -> None:
    """Draw a grid and write it with an infotext and the recipe of the base; an existing file is replaced.

    Args:
        path: The file.
        sheet: What the grid shows.
        record: The record of the run.
        setting: The recipe of the base, and the request that the infotext describes.
        pairs: More "Name: value" pairs of the infotext.
        fields: More texts of the PNG file, by name.
        first: The place of its first cell.

    Raises:
        ImageError: The file cannot be written.
    """
    request = setting.request
    model = {LABEL_FIELD: name_recipe(setting.recipe), **(pairs or {})}
    infotext = format_infotext(request, seed=request.seed, model=model)
    image, places = draw_grid(sheet)
    where = {} if first.z is None else {"z": first.z}
    cells = {"first": first[:2], "size": image.size, "columns": places.columns, "rows": places.rows, **where}
    texts = {
        RECIPE_FIELD: recipe_to_share(record.definition["recipe"]),
        CELLS_FIELD: json.dumps(cells),
        **(fields or {}),
    }
    write_png(path, GeneratedImage(image, request.seed, infotext, texts), replace=True, quick=True)


def cell_at(cells: str, x: float, y: float) -> Place | None:
    """Find the cell at a place of a grid.

    Args:
        cells: The text :data:`CELLS_FIELD` of its file.
        x: The place from the left, from 0 to 1.
        y: The place from the top, from 0 to 1.

    Returns:
        The place of the cell; None between the cells.

    Raises:
        LookupError, TypeError, ValueError: The text is none of this program's.
    """
    said = json.loads(cells)
    width, height = said["size"]
    inside = [
        [number for number, (start, end) in enumerate(said[name]) if start <= place < end]
        for name, place in (("columns", x * width), ("rows", y * height))
    ]
    (column, row), z = said["first"], said.get("z")
    if not all(inside):
        return None
    return Place(int(column) + inside[0][0], int(row) + inside[1][0], None if z is None else int(z))


def describe_setting(setting: Setting, *, varied: Collection[str] = ()) -> str:
    """Say in a few lines what images have in common: models, mode, ratios, block weights, rules, request.

    Args:
        setting: The recipe and the request.
        varied: The parts that differ from image to image, and are left out.
    """
    lines = [*_recipe_lines(setting.recipe), _request_line(setting.request)]
    texts = ["   ".join(text for part, text in line if text and part not in varied) for line in lines]
    return "\n".join(filter(None, texts))


def _recipe_lines(recipe: MergeRecipe) -> list[_Line]:
    rules = ", ".join(map(str, recipe.rules.rules))
    weights = {"block_alpha": ("MBW", recipe.block_alpha), "block_beta": ("MBW beta", recipe.block_beta)}
    return [
        _merge_line(recipe),
        *([(part, f"{name} {format_block_weights(blocks)}")] for part, (name, blocks) in weights.items() if blocks),
        [("rules", rules and f"rules {rules}")],
        [("adjust", f"adjust {format_adjust(recipe.adjust)}" if recipe.adjust else "")],
        [(lora_part(lora), f"LoRA {name_lora(lora)}") for lora in recipe.loras],
    ]


def _merge_line(recipe: MergeRecipe) -> _Line:
    models = {"model_a": recipe.model_a, "model_b": recipe.model_b, "model_c": recipe.model_c}
    more = zip(MORE_ROLES, recipe.more, strict=False)
    ratios = {"alpha": recipe.alpha, "beta": recipe.beta}
    return [
        *((part, f"{part[-1].upper()} {source.name}") for part, source in models.items() if source),
        *((role, f"{role.upper()} {model.file.name} {format_ratio(model.ratio)}") for role, model in more),
        ("mode", f"{recipe.mode.value}: {recipe.mode.formula}"),
        *((part, f"{part} {format_ratio(ratio)}") for part, ratio in ratios.items() if ratio is not None),
        *((f"numbers.{name}", f"{name} {format_ratio(number)}") for name, number in recipe.numbers.items()),
        ("vae", "" if recipe.vae is VaeChoice.MERGED else f"VAE {recipe.vae.value}"),
        ("dtype", f"dtype {recipe.dtype.value}" if recipe.dtype else ""),
    ]


def _request_line(request: ImageRequest) -> _Line:
    return [
        ("prompt", request.prompt and f"prompt: {request.prompt}"),
        ("negative", request.negative and f"negative: {request.negative}"),
        ("sampler", request.sampler),
        ("steps", f"{request.steps} steps"),
        ("cfg", f"CFG {format_ratio(request.cfg)}"),
        ("seed", f"seed {request.seed}"),
        ("size", f"{request.width}x{request.height}"),
    ]
