"""What the values of an axis are read against: blocks, elements, presets, samplers and models."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...architectures.blocks import Architecture
from ...architectures.keys import KeyName, name_key
from ...hosts.base import Host
from ...merge.files.checkpoint import Checkpoint, is_there
from ...merge.files.model_locator import AS_RECORDED, ModelLocator, expand_home, model_source
from ...recipe.chains import base_file
from ...recipe.presets import Presets
from ...recipe.recipe import MergeRecipe, ModelSource
from ...workflows import load_presets

_SEEDS = 2**32


@dataclass(frozen=True)
class AxisContext:
    """What the values of an axis are read against.

    Attributes:
        architecture: The architecture of the models.
        names: The tensors of model A.
        presets: Block weights by name.
        samplers: The names of samplers, as the host spells them.
        find_model: Finds a model by what the user calls it.
        draw_seed: Draws a seed, from 0 to 2^32 - 1.
    """

    architecture: Architecture
    names: Sequence[KeyName]
    presets: Presets
    samplers: Sequence[str]
    find_model: Callable[[str], ModelSource]
    draw_seed: Callable[[], int]


def make_axis_context(host: Host, recipe: MergeRecipe, *, locator: ModelLocator = AS_RECORDED) -> AxisContext:
    """Gather what the values of axes are read against.

    Args:
        host: The host, for its samplers.
        recipe: The recipe, for the blocks and elements of its model A.
        locator: Finds the models.

    Raises:
        CheckpointError: Model A is missing, damaged, has changed, or cannot be merged.
        RecipeError: The user's presets cannot be read.
    """
    with Checkpoint(locator.locate(base_file(recipe.model_a))) as model:
        architecture = model.architecture
        names = [name_key(key, architecture) for key in model.tensors]
    return AxisContext(
        architecture=architecture,
        names=names,
        presets=load_presets(),
        samplers=host.samplers(),
        find_model=functools.partial(_find_model, locator),
        draw_seed=lambda: random.randrange(_SEEDS),
    )


def _find_model(locator: ModelLocator, text: str) -> ModelSource:
    """Find a model by its path, or by its name alone, as grids have it.

    Raises:
        CheckpointError: Several files could be meant.
    """
    source = model_source(text)
    if source.name != text or is_there(expand_home(source.path)):
        return source
    found = locator.find_named(text)
    return source if found is None else model_source(found)
