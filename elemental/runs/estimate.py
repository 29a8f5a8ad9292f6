"""Look over the cells of a run before it starts: what it will cost, what was not meant, what cannot be done."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError, ElementalError, ImageError, RecipeError
from ..merge.files.checkpoint import Signature, read_signature
from ..merge.files.model_locator import AS_RECORDED, ModelLocator
from ..merge.files.open_models import OpenModels
from ..merge.plan import NOTHING_CHANGES, MergePlan
from ..merge.planner import planning_key
from ..recipe.recipe import MergeRecipe
from .axis_values import AxisValues
from .cells import Cell
from .element_check import ElementCheck
from .xy_plot import XYPlot

MOST_CELLS = 1000
"""More images than this are made only if the user says so."""


@dataclass(frozen=True)
class Estimate:
    """What is known of a run before it starts.

    Attributes:
        cells: The number of images.
        merges: The number of distinct recipes.
        warnings: What was probably not meant.
        models: What each file that is read looks like now, by its path.
        seconds: That the estimate took.
    """

    cells: int
    merges: int
    warnings: tuple[str, ...]
    models: Mapping[str, Signature]
    seconds: float


def refuse_many(count: int, most: int | None) -> None:
    """Refuse more images than a user can have meant.

    Args:
        count: How many there are.
        most: How many may be; None for any number.

    Raises:
        ImageError: There are more than ``most``.
    """
    if most is not None and count > most:
        raise ImageError(f"These are {count:,} images, more than {most:,}; the command line makes them with --yes.")


def estimate_plot(plot: XYPlot, *, locator: ModelLocator = AS_RECORDED) -> Estimate:
    """Plan every distinct merge of a plot.

    Args:
        plot: What is to be made.
        locator: Finds the models.

    Raises:
        ElementalError: A model is missing or does not fit, or an axis has no effect at all.
    """
    cells = list(plot.cells())
    planned = _plan_all(cells, plot.base.recipe, locator, plot.describe)
    for axis in plot.axes:
        if len(axis.values) > 1 and _is_idle(axis, cells, planned.effects):
            name = f"{axis.side} axis, {axis.axis.name}"
            reason = "they are alike, or something else sets all that they would, such as block weights or rules"
            raise RecipeError("\n".join([f"{name}: its values make no difference; {reason}.", *planned.remarks]))
    return planned.estimate(cells)


def estimate_check(check: ElementCheck, *, locator: ModelLocator = AS_RECORDED) -> Estimate:
    """Plan every merge of a check.

    Args:
        check: What is to be made.
        locator: Finds the models.

    Raises:
        ElementalError: A model is missing or does not fit, or no target differs from the base.
    """
    cells = list(check.cells())
    planned = _plan_all(cells, check.base.recipe, locator, check.describe)
    same = planned.effects[check.base.recipe]
    idle = [cell for cell in cells[1:] if planned.effects[cell.recipe] == same]
    if len(idle) == len(check.targets):
        reason = f"these elements have the ratio {check.ratio:g} without it, too, or are not there"
        raise RecipeError("\n".join([f"The check would show no difference: {reason}.", *planned.remarks]))
    planned.warnings.extend(f"{check.describe(cell)}: it has the ratio without the check, too." for cell in idle)
    return planned.estimate(cells)


def refuse_changed(models: Mapping[str, Sequence[int]]) -> None:
    """Refuse to go on with models that are not the ones that a run began with.

    Args:
        models: Size in bytes and modification time in nanoseconds of each file, by its path, when the run began.

    Raises:
        CheckpointError: One has changed or is gone.
    """
    for path, known in models.items():
        if read_signature(Path(path)) != tuple(known):
            raise CheckpointError(f"{path} has changed since the run began; start the run anew.")


@dataclass(frozen=True)
class _Planned:
    """The distinct recipes of some cells, planned.

    Attributes:
        effects: For each recipe what is the same for another only if both give the same model.
        warnings: All remarks.
        models: As in :class:`Estimate`.
        started: When the estimate was.
    """

    effects: Mapping[MergeRecipe, object]
    warnings: list[str]
    models: Mapping[str, Signature]
    started: float

    @property
    def remarks(self) -> tuple[str, ...]:
        """The warnings, each once."""
        return tuple(dict.fromkeys(self.warnings))

    def estimate(self, cells: Sequence[Cell]) -> Estimate:
        seconds = time.perf_counter() - self.started
        return Estimate(len(cells), len({cell.recipe for cell in cells}), self.remarks, self.models, seconds)


def _plan_all(
    cells: Sequence[Cell], base: MergeRecipe, locator: ModelLocator, describe: Callable[[Cell], str]
) -> _Planned:
    started = time.perf_counter()
    effects: dict[MergeRecipe, object] = {}
    warnings: list[str] = []
    models: dict[str, Signature] = {}
    own_rules = base.rules.rules
    with OpenModels(locator) as open_models:

        def plan(recipe: MergeRecipe) -> MergePlan:
            models.update({str(model.path): model.signature for model in open_models.open(recipe).values()})
            planner = open_models.planner(recipe)
            effects[recipe] = planning_key(recipe), frozenset(planner.ratios(recipe).items())
            return planner.plan(recipe)

        if own_rules and any(cell.recipe.rules.rules[: len(own_rules)] == own_rules for cell in cells):
            warnings += _remarks(plan(base), "", first=0)
        for cell in cells:
            recipe = cell.recipe
            if recipe in effects:
                continue
            on_top = own_rules and recipe.rules.rules[: len(own_rules)] == own_rules
            try:
                planned = plan(recipe)
            except ElementalError as exc:
                raise type(exc)(f"{describe(cell)}: {exc}") from exc
            # what was said of the base's rules need not be said for each cell, and that a cell's rule overrides one
            # of them is what it is for
            warnings += _remarks(planned, f"{describe(cell)}: ", first=len(own_rules) if on_top else 0)
    return _Planned(effects, warnings, models, started)


def _remarks(plan: MergePlan, about: str, *, first: int) -> list[str]:
    """Give the warnings of one recipe about rules from one on, and general ones; that a cell shows model A is none."""
    return [
        warning.message if warning.rule is None else f"{about}{warning.message}"
        for warning in plan.warnings
        if warning != NOTHING_CHANGES and (warning.rule is None or warning.rule >= first)
    ]


def _is_idle(axis: AxisValues, cells: Sequence[Cell], effects: Mapping[MergeRecipe, object]) -> bool:
    """Tell whether all values of an axis give the same images, wherever on the other axis."""
    images: dict[int, set[object]] = {}
    for cell in cells:
        other = cell.y if axis.side == "x" else cell.x
        images.setdefault(other, set()).add((effects[cell.recipe], cell.request))
    return all(len(found) == 1 for found in images.values())
