"""Further models of a recipe, B2, B3 and so on: their roles, and whether a mode takes them with these ratios."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..errors import RecipeError
from ..modes.catalogue import MergeMode
from .rules import format_ratio

if TYPE_CHECKING:
    from .recipe import MergeRecipe

MORE_ROLES = tuple(f"b{number}" for number in range(2, 10))
"""The roles of further models, in the order of a recipe."""


def modes_with_more() -> str:
    """List the modes that take further models."""
    return ", ".join(mode.value for mode in MergeMode if mode.takes_more)


def describe_more(mode: MergeMode) -> str:
    """Say what the ratio of a further model is, and what it is unless it is given; empty if the mode takes none."""
    takes = mode.record.more
    if takes is None:
        return ""
    return f"{takes.meaning} ({'needed' if takes.default is None else f'default: {format_ratio(takes.default)}'})"


def check_more(recipe: MergeRecipe) -> None:
    """Refuse further models that a recipe cannot have.

    Raises:
        RecipeError: The mode takes none, there are too many, or a ratio is one that the mode does not take.
    """
    mode, more = recipe.mode, recipe.more
    if more and not mode.takes_more:
        raise RecipeError(
            f"{mode.value}, {mode.formula}, takes no further models: remove them, or choose {modes_with_more()}."
        )
    refuse_too_many(len(more))
    for role, model in zip(MORE_ROLES, more, strict=False):
        if problem := problem_of_ratio(mode, model.ratio):
            raise RecipeError(f"{problem} (of {role.upper()}).")


def refuse_too_many(count: int) -> None:
    """Refuse more further models than a merge takes.

    Raises:
        RecipeError: There are too many.
    """
    if count > len(MORE_ROLES):
        most = f"{len(MORE_ROLES)}, B2 to {MORE_ROLES[-1].upper()}"
        raise RecipeError(f"There are {count:,} further models, and a merge takes up to {most}.")


def complete_ratio(given: float | None, mode: MergeMode, place: int, *, how: str) -> float:
    """Give the ratio of a further model, or the mode's usual one if none is given.

    Args:
        given: The ratio; None if there is none.
        mode: The mode.
        place: The place of the model among the further ones, from 0.
        how: How a ratio is given, for the error.

    Raises:
        RecipeError: There is none, and the mode has no usual one.
    """
    takes = mode.record.more
    if given is None and takes is not None and takes.default is None:
        named = MORE_ROLES[place].upper() if place < len(MORE_ROLES) else "a further model"
        raise RecipeError(f"{mode.value} needs a ratio for {named}, its share of the mix: {how}.")
    usual = 1.0 if takes is None else takes.default or 0.0
    return usual if given is None else given


def problem_of_ratio(mode: MergeMode, ratio: float) -> str:
    """Say why the ratio of a further model cannot be this one, without a full stop; empty if it can.

    Args:
        mode: A mode that takes further models.
        ratio: The ratio.
    """
    takes = mode.record.more
    if not math.isfinite(ratio):
        return "The ratio of a further model must be a finite number"
    if takes is not None and takes.whole and ratio not in (0, 1):
        return f"{mode.value} has no weights: the ratio of a further model is 1 or 0, not {format_ratio(ratio)}"
    if takes is not None and ratio < takes.least:
        least = format_ratio(takes.least)
        return f"{mode.value} takes ratios of further models from {least} on, not {format_ratio(ratio)}"
    return ""
