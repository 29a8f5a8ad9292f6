"""Recipes with other ratios everywhere: moved a little further, or some way from A."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from ..errors import RecipeError
from .block_weights import BlockWeights
from .ratio_targets import is_further
from .recipe import MergeRecipe
from .rules import Rule, RuleSet, format_ratio

_Change = Callable[[float], float]


def with_more_alpha(recipe: MergeRecipe, more: float) -> MergeRecipe:
    """Give a recipe in which alpha is larger by a number everywhere: as such, in block weights and in rules.

    Rules with a target are not of alpha, and stay as they are, as do further models.

    Raises:
        RecipeError: The mode takes no ratio that is so large.
    """
    try:
        return _changed(recipe, lambda alpha: alpha + more, lambda ratio: ratio)
    except RecipeError as exc:
        most = (recipe.mode.record.limits or (0.0, math.inf))[1]
        raise RecipeError(
            f"An image is made with alpha {format_ratio(more)} larger everywhere, and {recipe.mode.value} takes ratios "
            f"up to {format_ratio(most)}: use {format_ratio(round(most - more, 6))} at most."
        ) from exc


def on_the_way(recipe: MergeRecipe, share: float) -> MergeRecipe:
    """Give a recipe that is on the way from A to a merge: all of the mode's ratios are multiplied with a share.

    LoRAs are added to A as they are to the merge, so their ratios, and rules for these, stay as they are.

    Args:
        recipe: The merge.
        share: 0 for A, 1 for the merge.
    """
    return _changed(recipe, lambda alpha: alpha * share, lambda beta: beta * share)


def _changed(recipe: MergeRecipe, alpha: _Change, beta: _Change) -> MergeRecipe:
    rules = tuple(_changed_rule(rule, alpha, beta) for rule in recipe.rules.rules)
    return replace(
        recipe,
        alpha=alpha(recipe.alpha),
        beta=None if recipe.beta is None else beta(recipe.beta),
        block_alpha=_changed_weights(recipe.block_alpha, alpha),
        block_beta=_changed_weights(recipe.block_beta, beta),
        more=tuple(replace(model, ratio=beta(model.ratio)) for model in recipe.more),
        rules=RuleSet(rules),
    )


def _changed_rule(rule: Rule, alpha: _Change, other: _Change) -> Rule:
    if rule.target:
        return rule._replace(alpha=other(rule.alpha)) if is_further(rule.target) else rule
    return rule._replace(alpha=alpha(rule.alpha), beta=None if rule.beta is None else other(rule.beta))


def _changed_weights(weights: BlockWeights | None, change: _Change) -> BlockWeights | None:
    if weights is None:
        return None
    return BlockWeights(tuple(map(change, weights.unet)), None if weights.base is None else change(weights.base))
