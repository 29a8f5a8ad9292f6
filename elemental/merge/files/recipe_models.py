"""Recipes in the place of models: read from files, with the files of their models where they are found."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ...errors import CheckpointError, ElementalError, RecipeError
from ...recipe.chains import MOST_LEVELS, files_of, too_deep
from ...recipe.recipe import MergeRecipe, ModelSource
from ...recipe.text_files import read_text
from ..plan import FileRole
from .checkpoint import SAFETENSORS, Checkpoint, is_there
from .foreign_recipes import ReadRecipe
from .metadata import any_recipe_from_json, any_recipe_from_metadata, with_files
from .model_locator import AS_RECORDED, ModelLocator, describe_doubt, expand_home, model_source

RECIPES = (".json",)
"""The ends of names of recipes."""

FindInside = Callable[[MergeRecipe, Path], MergeRecipe]
"""Gives a recipe with the models that are found; the path is that of its file."""


class ReadModel(NamedTuple):
    """A model that was named.

    Attributes:
        source: The file, or the recipe in its place.
        remarks: What of the recipe could not be read, and which of its models were found by their names alone.
    """

    source: ModelSource
    remarks: tuple[str, ...] = ()


def is_recipe(path: str | Path) -> bool:
    """Tell by its name whether a file stands for what its recipe makes."""
    return Path(path).suffix.lower() in RECIPES


def read_model(path: str | Path, *, locator: ModelLocator = AS_RECORDED, unfold: bool = False) -> ReadModel:
    """Make the recipe entry of a model that a user names: of a file, or, if it is a ``.json``, of the recipe in it.

    Args:
        path: The file.
        locator: Finds the models of the recipe, which are also looked for beside it.
        unfold: Whether a merged ``.safetensors`` stands for the recipe in its header.

    Raises:
        CheckpointError: The file cannot be read.
        RecipeError: It holds no recipe, or one that leads back to itself.
        SpecError: The rules of the recipe cannot be read.
    """
    merged = unfold and Path(path).suffix.lower() in SAFETENSORS and _has_recipe(expand_home(path))
    if not merged and not is_recipe(path):
        return ReadModel(model_source(path))
    remarks: list[str] = []
    recipe = read_recipe_file(expand_home(path), InnerModels(locator, remarks).find, remarks)
    return ReadModel(replace(model_source(path), recipe=recipe), tuple(remarks))


class InnerModels(NamedTuple):
    """Finds the models of recipes that stand in the place of models: where they say, or beside them.

    Attributes:
        locator: Finds them, too.
        remarks: Takes which were found by their names alone.
    """

    locator: ModelLocator
    remarks: list[str]

    def find(self, recipe: MergeRecipe, file: Path) -> MergeRecipe:
        """Give a recipe, which is from a file, with the models that are found."""
        found = name_where_found(recipe, replace(self.locator, beside=file.parent))
        self.remarks.extend(doubts_of(recipe, found, f" of {file.name}"))
        return found


def read_recipe_file(file: Path, find: FindInside, remarks: list[str], trail: tuple[Path, ...] = ()) -> MergeRecipe:
    """Read a recipe that stands in the place of a model, and the recipes that its models are.

    Args:
        file: The file.
        find: Finds the models of a recipe.
        remarks: Takes what could not be read.
        trail: The recipes that led to it.

    Raises:
        CheckpointError: A file cannot be read.
        RecipeError: A file holds no recipe, or the recipe leads back to itself.
        SpecError: The rules of a recipe cannot be read.
    """
    here = (*trail, Path(os.path.abspath(file)))  # noqa: PTH100 - one name for each way to it; links end at the limit
    if len(trail) > MOST_LEVELS + 1:
        raise too_deep()
    if here[-1] in trail:
        way = " -> ".join(path.name for path in here)
        raise RecipeError(f"A recipe cannot be a model of itself: {way}.\nName another model in one of them.")
    try:
        read = _read(file)
    except RecipeError as exc:
        raise exc if str(file) in str(exc) else RecipeError(f"{file}: {exc}") from exc
    remarks.extend(f"{file.name}: {remark}" for remark in read.remarks)
    return embed_recipes(find(read.recipe, file), file.parent, find, remarks, here)


def embed_recipes(
    recipe: MergeRecipe, folder: Path, find: FindInside, remarks: list[str], trail: tuple[Path, ...] = ()
) -> MergeRecipe:
    """Read the recipes that the models of a recipe are, where it only names their ``.json``.

    Args:
        recipe: The recipe.
        folder: Where it is from; names without folders are looked for there.
        find: Finds the models of a recipe.
        remarks: Takes what could not be read.
        trail: The recipes that led to it, and itself.

    Raises:
        ElementalError: As in :func:`read_recipe_file`.
    """

    def embedded(source: ModelSource, _: FileRole) -> ModelSource:
        if not is_recipe(source.path):
            return source
        inner = read_recipe_file(folder / expand_home(source.path), find, remarks, trail)
        return ModelSource(source.path, recipe=inner)

    return with_files(recipe, embedded)


def name_where_found(recipe: MergeRecipe, locator: ModelLocator) -> MergeRecipe:
    """Give a recipe, whose models may be named without folders, with the paths of those that are found."""

    def find(source: ModelSource, _: FileRole) -> ModelSource:
        with suppress(CheckpointError):
            return replace(source, path=model_source(locator.locate(source)).path)
        return source

    return with_files(recipe, find)


def doubts_of(recipe: MergeRecipe, found: MergeRecipe, within: str = "") -> list[str]:
    """Say which models of a recipe were found by their names alone.

    Args:
        recipe: As it was read.
        found: The same with the paths of the models that were found.
        within: What follows the words for each of them.
    """
    doubts = []
    for (words, read), (_, source) in zip(files_of(recipe, within), files_of(found, within), strict=True):
        path = expand_home(source.path)
        if source.path != read.path and is_there(path):
            doubts.append(describe_doubt(read, path, words))
    return list(filter(None, doubts))


def _has_recipe(file: Path) -> bool:
    """Tell whether a file was merged, by a recipe that can be read."""
    with suppress(ElementalError):  # what is wrong with a file is said when it is opened as a model
        _read(file)
        return True
    return False


def _read(file: Path) -> ReadRecipe:
    if file.suffix.lower() in SAFETENSORS:
        with Checkpoint(file) as checkpoint:
            return any_recipe_from_metadata(checkpoint.metadata, name=str(file))
    try:
        return any_recipe_from_json(read_text(file), name=str(file))
    except (OSError, ValueError) as exc:  # a name with a null character is a ValueError
        raise CheckpointError(f"Cannot read the recipe in {file}: {exc}.") from exc
