"""The numbers of a mode that are measured in whole models: measured once, remembered, and put into the recipe."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ..errors import RecipeError
from ..recipe.chains import recipes_in
from ..recipe.numbers import Numbers, complete_numbers, measured_numbers
from ..recipe.recipe import MergeRecipe, ModelSource
from .chained_model import ChainedModel
from .files.hashes import cache_folder, full_path, read_entry, write_entry
from .files.metadata import with_each
from .files.open_models import OpenModels
from .models import Model
from .plan import FileRole, formula_roles
from .progress import Controls

_VERSION = 1
"""Of what is measured and how; numbers that were measured otherwise are not remembered."""

_Measured = Mapping[str, float]


def with_measured_numbers(recipe: MergeRecipe, models: OpenModels, *, controls: Controls | None = None) -> MergeRecipe:
    """Give a recipe with all numbers of its mode, and of the modes of the recipes in it.

    Those that are missing are measured by one pass over the models, unless they are remembered of the same files. Then
    they stand in the recipe, wherever that is written, and whoever merges by it uses the same.

    Args:
        recipe: Any recipe; one that lacks no number is given back as it is.
        models: Opens its models.
        controls: Progress, in bytes that are read, and stop.

    Raises:
        CheckpointError: A model is missing, damaged, has changed, or cannot be merged.
        MergeError: The models do not fit together, or one is quantised.
        RecipeError: There is nothing to measure; or block weights are for another architecture.
        Stopped: ``controls`` asked to stop.
    """

    def complete(source: ModelSource, _: FileRole) -> ModelSource:
        if source.recipe is None:
            return source
        return replace(source, recipe=with_measured_numbers(source.recipe, models, controls=controls))

    if any(source.recipe and source.recipe.unmeasured for source in recipes_in(recipe)):
        recipe = with_each(recipe, complete)
    if not recipe.unmeasured:
        return recipe
    found = _find(recipe, models, controls or Controls())
    return replace(recipe, numbers=Numbers({**found, **recipe.numbers}))


def _find(recipe: MergeRecipe, models: OpenModels, controls: Controls) -> _Measured:
    opened = models.open(recipe)
    key = json.dumps([_VERSION, recipe.mode.value, *(_describe(opened[role]) for role in formula_roles(recipe.mode))])
    if key not in models.measured:
        models.measured[key] = _remembered(recipe, key) or _measure(recipe, models, key, controls)
    return models.measured[key]


def _describe(model: Model) -> object:
    """Identify the numbers of a model by its files and formulas, as JSON can say it."""
    if not isinstance(model, ChainedModel):
        return [[full_path(file.path), *file.signature] for file in model.files]
    within = {role.value: _describe(inner) for role, inner in model.models.items()}
    files = [[full_path(lora.file.path), *lora.file.signature] for lora in model.loras]
    return [model.plan.recipe.to_dict(), within, files]


def _remembered(recipe: MergeRecipe, key: str) -> _Measured | None:
    entry, mode = read_entry(_place(key)), recipe.mode
    try:
        found = {name: float(entry["numbers"][name]) for name in measured_numbers(mode)}
        complete_numbers(mode, found)
    except (KeyError, TypeError, ValueError, RecipeError):
        return None  # nothing was measured, or the entry is damaged
    return found if entry.get("of") == key else None


def _measure(recipe: MergeRecipe, models: OpenModels, key: str, controls: Controls) -> _Measured:
    from .model_survey import survey_models

    plan = models.planner(recipe).plan(recipe)
    found = survey_models(plan, models.open(recipe), controls)
    write_entry(_place(key), {"of": key, "numbers": dict(found)})
    return found


def _place(key: str) -> Path:
    return cache_folder() / "measured" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
