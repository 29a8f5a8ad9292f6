"""What is made of a simplified merge: plain data, a spec, and a grid of A, the merge and what was found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..images.diff import draw_difference, mean_difference
from ..images.files import make_folder, write_png, write_whole
from ..images.grid_drawing import GridCell, GridSheet, draw_grid
from ..images.image_request import GeneratedImage
from ..images.infotext import format_infotext
from ..merge.files.metadata import LABEL_FIELD, RECIPE_FIELD, name_recipe, recipe_to_share
from ..recipe.rules import RuleSet, format_rules
from .axes.base import Setting
from .grid_contents import describe_setting
from .run_files import RunFiles
from .simplify import Simplified, SimplifyOrder

_SPEC, _GRID = ("simplified", ".txt"), ("simplified", ".png")


def spec_of(order: SimplifyOrder, result: Simplified) -> str:
    """Give the rules that were found, as a spec; of a merge that leaves something out, those that do so."""
    found = result.recipe.rules.rules
    return format_rules(RuleSet(found[len(order.recipe.rules) :] if order.leave_out else found))


def simplified_to_dict(order: SimplifyOrder, result: Simplified) -> dict[str, Any]:
    """Give the result as plain data; distances are mean absolute differences of channel values, of 255."""
    spec = spec_of(order, result)
    return {
        "spec": spec,
        "elements": result.elements,
        "rules": len(spec.splitlines()),
        "distance": round(result.distance, 4),
        "full_distance": round(result.full_distance, 4),
        "images": result.generated,
    }


def write_simplified(folder: Path, order: SimplifyOrder, result: Simplified) -> list[Path]:
    """Write the spec as a text, and the grid, which holds the recipe, with numbered names.

    Raises:
        ImageError: A file cannot be written.
    """
    make_folder(folder)
    number = 1
    while any(RunFiles(folder, number).path(*name).exists() for name in (_SPEC, _GRID)):
        number += 1
    files = RunFiles(folder, number)
    spec, grid = files.path(*_SPEC), files.path(*_GRID)
    write_whole(spec, f"{spec_of(order, result)}\n".encode())
    request, texts = order.requests[0], {RECIPE_FIELD: recipe_to_share(result.recipe.to_dict())}
    infotext = format_infotext(request, seed=request.seed, model={LABEL_FIELD: name_recipe(result.recipe)})
    write_png(grid, GeneratedImage(draw_grid(_sheet(order, result))[0], request.seed, infotext, texts))
    return [grid, spec]


def _sheet(order: SimplifyOrder, result: Simplified) -> GridSheet:
    request = order.requests[0]
    varied = ("prompt", "seed") if len(order.requests) > 1 else ()
    found = "left out" if order.leave_out else "simplified"
    near = "A" if order.leave_out else "the merge"
    rows = []
    for of_a, of_merge, simplified in result.images:
        target = of_a if order.leave_out else of_merge
        note = f"{mean_difference(target, simplified):.1f} of {mean_difference(of_a, of_merge):.1f}"
        cells = [GridCell(of_a), GridCell(of_merge), GridCell(simplified)]
        rows.append([*cells, GridCell(draw_difference(target, simplified), note)])
    return GridSheet(
        rows=rows,
        columns=["A", "the merge", found, f"difference from {near}, three times as bright"],
        row_labels=[f"{each.prompt}\nseed {each.seed}" for each in order.requests] if varied else (),
        legend=describe_setting(Setting(result.recipe, request), varied=varied),
        size=(request.width, request.height),
    )
