"""Plan the cells of a run before it starts: what it will cost, what was probably not meant, what cannot be done."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import CheckpointError, ElementalError, ImageError, RecipeError
from ..merge.files.checkpoint import Signature, read_signature
from ..merge.files.model_locator import AS_RECORDED, ModelLocator
from ..merge.files.open_models import OpenModels
from ..merge.plan import ONLY_MODEL_A, MergePlan
from ..merge.planner import planning_key
from ..recipe.recipe import MergeRecipe
from ..recipe.rules import format_ratio
from .axes.base import SIDES
from .axes.values import AxisValues
from .cells import Cell
from .element_check import ElementCheck
from .xy_plot import XYPlot

MOST_CELLS = 1000
"""More images than this are made only if the user says so."""


@dataclass(frozen=True)
class Estimate:
    """What a run will cost, known before it starts.

    Attributes:
        cells: The number of images.
        merges: The number of distinct recipes.
        warnings: What was probably not meant.
        models: What each file that is read looks like now, by its path.
        seconds: How long the estimate took.
    """

    cells: int
    merges: int
    warnings: tuple[str, ...]
    models: Mapping[str, Signature]
    seconds: float


def refuse_many(count: int, most: int | None) -> None:
    """Refuse more images than a user can have meant.

    Args:
        count: The number of images.
        most: The largest number that is allowed; None for any.

    Raises:
        ImageError: There are more than ``most``.
    """
    if most is not None and count > most:
        raise ImageError(f"These are {count:,} images, more than {most:,}; the command line makes them with --yes.")


def estimate_plot(plot: XYPlot, *, locator: ModelLocator = AS_RECORDED) -> Estimate:
    """Plan every distinct merge of an XY plot.

    Args:
        plot: The plot.
        locator: Finds the models.

    Raises:
        ElementalError: A model is missing or does not fit, or the values of an axis make no difference.
    """
    cells = list(plot.cells())
    plans = _plan_cells(cells, plot.base.recipe, locator, plot.describe)
    for axis in plot.axes:
        if len(axis.values) > 1 and _is_idle(axis, cells, plans.effects):
            name = f"{axis.side} axis, {axis.axis.name}"
            reason = "they are alike, or something else sets all that they would, such as block weights or rules"
            raise RecipeError("\n".join([f"{name}: its values make no difference; {reason}.", *plans.remarks]))
    return plans.estimate(cells)


def estimate_check(check: ElementCheck, *, locator: ModelLocator = AS_RECORDED) -> Estimate:
    """Plan every merge of an element check.

    Args:
        check: The check.
        locator: Finds the models.

    Raises:
        ElementalError: A model is missing or does not fit, or no target differs from the base.
    """
    cells = list(check.cells())
    plans = _plan_cells(cells, check.base.recipe, locator, check.describe)
    base_effect = plans.effects[check.base.recipe]
    idle = [cell for cell in cells[1:] if plans.effects[cell.recipe] == base_effect]
    if len(idle) == len(check.targets):
        reason = f"these elements have the ratio {format_ratio(check.ratio)} without it, too, or are not there"
        raise RecipeError("\n".join([f"The element check would show no difference: {reason}.", *plans.remarks]))
    plans.warnings.extend(f"{check.describe(cell)}: it has this ratio without the element check, too." for cell in idle)
    return plans.estimate(cells)


def estimate_cells(
    cells: Sequence[Cell], base: MergeRecipe, describe: Callable[[Cell], str], *, locator: ModelLocator = AS_RECORDED
) -> Estimate:
    """Plan every merge of some cells.

    Args:
        cells: The cells.
        base: The recipe that they start from; its own rules are warned of once.
        describe: Names a cell in warnings and errors.
        locator: Finds the models.

    Raises:
        ElementalError: A model is missing or does not fit.
    """
    return _plan_cells(cells, base, locator, describe).estimate(cells)


def refuse_changed(models: Mapping[str, Signature]) -> None:
    """Refuse to go on with models that are not the ones that a run began with.

    Args:
        models: What each file looked like when the run began, by its path.

    Raises:
        CheckpointError: A file has changed or is gone.
    """
    for path, signature in models.items():
        if read_signature(Path(path)) != signature:
            raise CheckpointError(f"{path} has changed since the run began; start a new run.")


@dataclass
class _Plans:
    """Plans the distinct recipes of some cells, and keeps what an estimate needs of them.

    Attributes:
        base: The recipe that all cells start from.
        effects: For each recipe a value that is equal for two of them only if both give the same model.
        warnings: All warnings, in the order of the cells.
        models: As in :class:`Estimate`.
        started: When the estimate began, in seconds of the performance counter.
    """

    base: MergeRecipe
    effects: dict[MergeRecipe, object] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    models: dict[str, Signature] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    def extends_base(self, recipe: MergeRecipe) -> bool:
        """Tell whether a recipe has all rules of the base, and maybe more after them."""
        base_rules = self.base.rules.rules
        return recipe.rules.rules[: len(base_rules)] == base_rules

    def add(self, recipe: MergeRecipe, open_models: OpenModels, *, prefix: str, first_rule: int = 0) -> None:
        """Plan a recipe.

        Args:
            recipe: Any recipe.
            open_models: Opens its models, and keeps them open.
            prefix: What warnings about its rules begin with.
            first_rule: The number of the first rule that is warned of, from 0.

        Raises:
            ElementalError: A model is missing or does not fit.
        """
        planner = open_models.planner(recipe)
        models = open_models.open(recipe).values()
        files = [*(file for model in models for file in model.files), *open_models.open_loras(recipe)]
        self.models |= {str(file.path): file.signature for file in files}
        settings = planner.ratios(recipe), planner.lora_uses(recipe), planner.more_ratios(recipe)
        beside = recipe.numbers, recipe.adjust  # what plans of all tensors can share, but not their numbers
        self.effects[recipe] = planning_key(recipe), beside, *(frozenset(setting.items()) for setting in settings)
        self.warnings += _remarks(planner.plan(recipe), prefix, first_rule)

    @property
    def remarks(self) -> tuple[str, ...]:
        """The warnings, each once."""
        return tuple(dict.fromkeys(self.warnings))

    def estimate(self, cells: Sequence[Cell]) -> Estimate:
        seconds = time.perf_counter() - self.started
        return Estimate(len(cells), len({cell.recipe for cell in cells}), self.remarks, self.models, seconds)


def _plan_cells(
    cells: Sequence[Cell], base: MergeRecipe, locator: ModelLocator, describe: Callable[[Cell], str]
) -> _Plans:
    """Plan each distinct recipe once; errors and warnings name the first cell that shows it."""
    plans = _Plans(base)
    base_count = len(base.rules.rules)
    with OpenModels(locator) as open_models:
        # The rules of the base are warned of once, not for each cell; and a cell's rule is meant to override them.
        if base_count and any(plans.extends_base(cell.recipe) for cell in cells):
            plans.add(base, open_models, prefix="")
        for cell in cells:
            if cell.recipe in plans.effects:
                continue
            first_rule = base_count if plans.extends_base(cell.recipe) else 0
            try:
                plans.add(cell.recipe, open_models, prefix=f"{describe(cell)}: ", first_rule=first_rule)
            except ElementalError as exc:
                raise type(exc)(f"{describe(cell)}: {exc}") from exc
    return plans


def _remarks(plan: MergePlan, prefix: str, first_rule: int) -> list[str]:
    """Give the warnings about rules from one on, and general ones; that a cell shows model A is not worth a warning."""
    return [
        warning.message if warning.rule is None else f"{prefix}{warning.message}"
        for warning in plan.warnings
        if warning not in ONLY_MODEL_A and (warning.rule is None or warning.rule >= first_rule)
    ]


def _is_idle(axis: AxisValues, cells: Sequence[Cell], effects: Mapping[MergeRecipe, object]) -> bool:
    """Tell whether all values of an axis give the same images, whatever those of the others."""
    images: dict[tuple[int | None, ...], set[object]] = {}
    for cell in cells:
        others = tuple(getattr(cell, side) for side in SIDES if side != axis.side)
        images.setdefault(others, set()).add((effects[cell.recipe], cell.request))
    return all(len(distinct) == 1 for distinct in images.values())
