"""What an image, a grid, a cell of a grid, or a file of a recipe or a run says of its making, as fields of the page."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import ElementalError, ImageError, RecipeError
from ..images.files import INFOTEXT_FIELD, read_texts, reading_untrusted
from ..images.image_request import request_from_dict
from ..images.infotext import parse_infotext
from ..merge.files.recipe_models import doubts_of
from ..recipe.recipe import MergeRecipe, recipe_from_dict
from ..recipe.text_files import read_text
from ..runs.axes.base import SIDES
from ..runs.axes.context import make_axis_context
from ..runs.axes.value_texts import format_groups
from ..runs.axes.values import find_axis
from ..runs.cells import Cell, place_name
from ..runs.element_check import BASE_COLUMN, PROBE_COLUMN, check_from_dict
from ..runs.element_check_run import CHECK_FIELD
from ..runs.grid_contents import CELLS_FIELD, cell_at
from ..runs.run_files import RunFiles
from ..runs.run_record import RunRecord, read_record
from ..runs.xy_plot import plot_from_dict
from ..runs.xy_plot_run import PLOT_FIELD
from ..workflows import read_any_recipe
from .listed_models import find_listed, missing_models
from .page_values import IMAGE_FIELDS, whole_plot
from .session import Session

MERGE, PLOT, CHECK = "merge", "plot", "check"
"""The panels, by the kinds of runs that belong to them."""

_FIELD_OF_KIND = {PLOT: PLOT_FIELD, CHECK: CHECK_FIELD}
_GRID = re.compile(r"grid(?:-\d+of\d+)?(?:-(\d+))?\.png")
_LARGEST_JSON = 40_000_000


@dataclass(frozen=True)
class FoundForm:
    """What was found.

    Attributes:
        values: Values of fields of the page by their names, :data:`~.page_values.ALL_FIELDS`: those of the merge panel,
            of the plot or check panel, and of the image request, as far as they were found.
        panel: Where it belongs: "merge", "plot" or "check".
        remarks: What could not be found or read, in whole sentences.
        doubts: Which models were found by their names and sizes alone; part of the remarks on files that were not made
            here.
    """

    values: Mapping[str, Any]
    panel: str = MERGE
    remarks: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


def read_form_file(session: Session, path: Path) -> FoundForm:
    """Read how a file was made: an image, a grid of a plot or a check, a merged model, a recipe, or a run's record.

    Args:
        session: Knows the models and samplers of the host.
        path: The file; messages call it by its name alone.

    Raises:
        ElementalError: It cannot be read, or says nothing of a merge or an image.
    """
    try:
        found = _read_image(session, path) if path.suffix.lower() == ".png" else _read_other(session, path)
        is_own = path.resolve().is_relative_to(session.host.output_folder().resolve())
        return found if is_own else replace(found, remarks=(*found.remarks, *found.doubts))
    except ElementalError as exc:
        raise type(exc)(str(exc).replace(f"{path.parent}{os.sep}", "")) from exc


def read_cell(session: Session, grid: Path, x: int, y: int, z: int | None = None) -> FoundForm:
    """Read how one image of a grid was made: from the record of its run beside it, or else from the grid alone.

    Args:
        session: Knows the models and samplers of the host.
        grid: The file of the grid of a plot or a check.
        x: The column of the image, counted from 0 through all grids of the run; in a check 0 is the image without, and
            each other one the image with the elements.
        y: The row, counted likewise.
        z: The number of its value of the third axis of a plot, from 0; None without such an axis.

    Raises:
        ElementalError: There is no such image, or nothing says how it was made.
    """
    record = _record_beside(grid)
    kind, definition = (record.kind, record.definition) if record else _definition_of_grid(grid)
    if kind == CHECK:
        x, y = (PROBE_COLUMN, y) if x != BASE_COLUMN else (BASE_COLUMN, 0)
    name = place_name(x, y, z)
    if record is not None and name in record.cells:
        noted = record.cells[name]
        return _found_setting(session, recipe_from_dict(noted.recipe), noted.request)
    with reading_untrusted(f"The {kind} in {grid.name}"):
        cell = next((cell for cell in _cells(session, kind, definition) if cell.name == name), None)
    if cell is None:
        raise ImageError(f"{grid.name} has no image in column {x + 1}, row {y + 1}.")
    return _found_setting(session, cell.recipe, cell.request.to_dict())


def read_place(session: Session, grid: Path, x: float, y: float) -> FoundForm:
    """Read how the image at a place of a grid was made.

    Args:
        session: Knows the models and samplers of the host.
        grid: The file of the grid.
        x: The place from the left, from 0 to 1.
        y: The place from the top, from 0 to 1.

    Raises:
        ElementalError: There is no image at this place, or nothing says how it was made.
    """
    cells = read_texts(grid).get(CELLS_FIELD)
    if cells is None:
        raise ImageError(f"{grid.name} does not say where its images are. Click on the image itself, below the grid.")
    with reading_untrusted(f"The places in {grid.name}"):
        place = cell_at(cells, x, y)
    if place is None:
        raise ImageError("There is no image at this place of the grid; click on one.")
    return read_cell(session, grid, *place)


def values_of_run(kind: str, definition: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Give the fields of the plot or check panel that ask for a run, and remarks on what they cannot say.

    Args:
        kind: "plot" or "check".
        definition: Of the run, as plain data.

    Raises:
        ElementalError: The run has an axis that there is not.
        LookupError, TypeError, ValueError, AttributeError: An entry is missing, or of another kind.
    """
    if kind == CHECK:
        elements = "\n|\n".join("\n".join(map(str, group)) for group in definition["elements"])
        return {"elements": elements, "ratio": float(definition["ratio"])}, []
    values: dict[str, Any] = {"compare": bool(definition.get("compare"))}
    remarks = []
    for side in [side for side in SIDES if side in definition]:
        axis, groups = find_axis(str(definition[side]["type"])), definition[side]["groups"]
        text = format_groups(axis, groups)
        values |= {f"{side}_type": axis.name, side: text or ""}
        if text is None:
            remarks.append(f"The values of the {side.upper()} axis cannot be written as a text.")
    return whole_plot(values), remarks


def _read_image(session: Session, path: Path) -> FoundForm:
    texts = read_texts(path)
    for kind, field in _FIELD_OF_KIND.items():
        if field in texts:
            return _found_run(session, kind, _load(texts[field], path.name), path.name)
    request = parse_infotext(texts.get(INFOTEXT_FIELD, ""))
    try:
        found = _found_recipe(session, path)
    except RecipeError as exc:
        if not request:
            raise
        found = FoundForm({}, remarks=(str(exc),))
    return _with_request(session, found, request)


def _read_other(session: Session, path: Path) -> FoundForm:
    if path.suffix.lower() != ".json":
        return _found_recipe(session, path)
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise RecipeError(f"{path.name} is too large for a recipe.")
        data = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError):
        data = None  # what is wrong with it is said below
    if isinstance(data, dict) and data.get("kind") in _FIELD_OF_KIND and isinstance(data.get("definition"), dict):
        return _found_run(session, data["kind"], data["definition"], path.name)
    return _found_recipe(session, path)


def _load(text: str, name: str) -> Mapping[str, Any]:
    with reading_untrusted(f"The run in {name}"):
        data = json.loads(text)
        if not isinstance(data, dict):
            raise ValueError("it is no definition of a run")
        return data


def _found_recipe(session: Session, path: Path) -> FoundForm:
    found = read_any_recipe(path)
    return _found_merge(session, found.recipe, *found.remarks)


def _found_run(session: Session, kind: str, definition: Mapping[str, Any], name: str) -> FoundForm:
    with reading_untrusted(f"The {kind} in {name}"):
        found = _found_setting(session, recipe_from_dict(definition["recipe"]), definition["request"])
        values, remarks = values_of_run(kind, definition)
    return replace(found, values={**found.values, **values}, panel=kind, remarks=(*found.remarks, *remarks))


def _found_setting(session: Session, recipe: MergeRecipe, request: Mapping[str, Any]) -> FoundForm:
    return _with_request(session, _found_merge(session, recipe), request_from_dict(request).to_dict())


def _found_merge(session: Session, recipe: MergeRecipe, *remarks: str) -> FoundForm:
    listed = find_listed(session, recipe)
    form = session.form_of(listed)
    missing = missing_models(session, listed)
    return FoundForm(form.to_dict(), remarks=(*remarks, *missing), doubts=tuple(doubts_of(recipe, listed)))


def _with_request(session: Session, found: FoundForm, request: Mapping[str, Any]) -> FoundForm:
    """Add the fields of an image; a sampler that the host does not have is left out."""
    known = {name: request[name] for name in IMAGE_FIELDS if name in request}
    samplers = {name.lower(): name for name in session.host.samplers()}
    wanted = str(known.pop("sampler", ""))
    remarks = found.remarks
    if wanted.lower() in samplers:
        known["sampler"] = samplers[wanted.lower()]
    elif wanted:
        remarks = (*remarks, f'There is no sampler "{wanted}" here; choose one.')
    return replace(found, values={**found.values, **known}, remarks=remarks)


def _record_beside(grid: Path) -> RunRecord | None:
    match = _GRID.fullmatch(grid.name)
    if match is None:
        return None
    try:
        return read_record(RunFiles(grid.parent, int(match[1] or 1)))
    except ImageError:
        return None


def _definition_of_grid(grid: Path) -> tuple[str, Mapping[str, Any]]:
    texts = read_texts(grid)
    for kind, field in _FIELD_OF_KIND.items():
        if field in texts:
            return kind, _load(texts[field], grid.name)
    raise ImageError(f"{grid.name} does not say which plot or check it is of.")


def _cells(session: Session, kind: str, definition: Mapping[str, Any]) -> list[Cell]:
    """Compute the cells of a run from what its grid says, with the host's models."""
    recipe = find_listed(session, recipe_from_dict(definition["recipe"]))
    here = {**definition, "recipe": recipe.to_dict()}
    if kind == CHECK:
        return list(check_from_dict(here).cells())
    context = make_axis_context(session.host, recipe, locator=session.locator)
    return list(plot_from_dict(here, context).cells())
