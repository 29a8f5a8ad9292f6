"""Chains: recipes in the place of models. The files that they lead to, what they are called, how far they may go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import RecipeError

if TYPE_CHECKING:
    from .recipe import MergeRecipe, ModelSource

MOST_LEVELS = 8
"""Recipes within one another, below the outermost one."""

MOST_RECIPES = 16
"""Recipes in the place of models in all: each is computed in memory of its own."""

UNNAMED = "recipe"
"""What a recipe in the place of a model is called that has no name."""


def spoken_role(role: str) -> str:
    """Give the role of a model in a sentence: "model A", "the VAE file"."""
    return "the VAE file" if role == "vae" else f"model {role.upper()}"


def describe_place(spoken: str, source: ModelSource) -> str:
    """Say, before an error within it, in whose place a recipe stands: "model A"."""
    return f"{spoken[:1].upper()}{spoken[1:]} is the recipe {source.name}"


def files_of(recipe: MergeRecipe, within: str = "") -> Iterator[tuple[str, ModelSource]]:
    """List the files of a recipe and of the recipes in it, in the order of their roles.

    Args:
        recipe: The recipe.
        within: What follows the words for each file; for the recipes in it " of NAME".

    Yields:
        What a sentence calls the file, such as "model A of soft.json", and the file.
    """
    for role, source in recipe.sources.items():
        if source.recipe is None:
            yield f"{spoken_role(role)}{within}", source
        else:
            yield from files_of(source.recipe, f" of {source.name}{within}")
    for number, lora in enumerate(recipe.loras, 1):
        yield f"LoRA {number}{within}", lora.file


def base_file(source: ModelSource) -> ModelSource:
    """Give the file whose keys and shapes a model has: its own, or that of the model A of its recipe, and so on."""
    return source if source.recipe is None else base_file(source.recipe.model_a)


def recipes_in(recipe: MergeRecipe) -> Iterator[ModelSource]:
    """List the recipes in the place of models, also those within them."""
    for source in recipe.sources.values():
        if source.recipe is not None:
            yield source
            yield from recipes_in(source.recipe)


def check_chain(recipe: MergeRecipe) -> None:
    """Refuse a recipe with too many recipes in it.

    Raises:
        RecipeError: There are more than 8 within one another, or more than 16 in all.
    """
    if _levels(recipe) > MOST_LEVELS:
        raise too_deep()
    if sum(1 for _ in recipes_in(recipe)) > MOST_RECIPES:
        raise RecipeError(
            f"More than {MOST_RECIPES} recipes stand in the place of models: merge some of them into files first."
        )


def refuse_deep(data: Any, levels: int = MOST_LEVELS) -> None:
    """Refuse plain data of a recipe with too many recipes within one another, before it is read.

    Raises:
        RecipeError: There are more.
    """
    models, more = (data.get("models"), data.get("more")) if isinstance(data, Mapping) else (None, None)
    named = list(models.values()) if isinstance(models, Mapping) else []
    for source in named + (more if isinstance(more, list) else []):
        if isinstance(source, Mapping) and "recipe" in source:
            if not levels:
                raise too_deep()
            refuse_deep(source["recipe"], levels - 1)


def _levels(recipe: MergeRecipe) -> int:
    return max((1 + _levels(source.recipe) for source in recipe.sources.values() if source.recipe), default=0)


def too_deep() -> RecipeError:
    """Make the error about too many recipes within one another."""
    return RecipeError(
        f"More than {MOST_LEVELS} recipes stand within one another in the place of models: "
        "merge the innermost ones into a file first."
    )
