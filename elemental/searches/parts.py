"""The makers of parts: each puts values into a recipe, and knows where in the recipe a search of them begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from ..architectures.blocks import TEXT_ENCODER, Architecture
from ..architectures.tensor_sets import TensorSet
from ..recipe.adjustments import NAMES
from ..recipe.block_weights import BlockWeights
from ..recipe.more_models import MORE_ROLES
from ..recipe.numbers import Numbers
from ..recipe.recipe import MergeRecipe
from ..recipe.rule_matching import RuleMatcher, by_ratio
from ..recipe.rules import Rule, RuleSet
from ..recipe.target_checks import target_of_lora
from ..runs.axes.context import AxisContext

_DIGITS = 6
"""Of block weights between two points of a curve."""


@dataclass(frozen=True)
class PutRule:
    """Adds a rule after those of the recipe.

    Attributes:
        rule: The rule; its ratio is replaced.
    """

    rule: Rule

    def __call__(self, recipe: MergeRecipe, values: Sequence[float]) -> MergeRecipe:
        """Give the recipe with the value."""
        rule = self.rule._replace(alpha=values[0])
        return replace(recipe, rules=RuleSet((*recipe.rules.rules, rule)))


@dataclass(frozen=True)
class PutRatio:
    """Sets alpha or beta of the recipe.

    Attributes:
        name: Which.
    """

    name: str

    def __call__(self, recipe: MergeRecipe, values: Sequence[float]) -> MergeRecipe:
        """Give the recipe with the value."""
        return replace(recipe, alpha=values[0]) if self.name == "alpha" else replace(recipe, beta=values[0])


@dataclass(frozen=True)
class PutNumber:
    """Sets a number of the mode.

    Attributes:
        name: Its name.
    """

    name: str

    def __call__(self, recipe: MergeRecipe, values: Sequence[float]) -> MergeRecipe:
        """Give the recipe with the value."""
        return replace(recipe, numbers=Numbers({**recipe.numbers, self.name: values[0]}))


@dataclass(frozen=True)
class PutLora:
    """Sets the ratio of a LoRA; a ratio of its own for text encoders stays.

    Attributes:
        place: Which of the recipe's LoRAs, from 0 on.
    """

    place: int

    def __call__(self, recipe: MergeRecipe, values: Sequence[float]) -> MergeRecipe:
        """Give the recipe with the value."""
        loras = list(recipe.loras)
        loras[self.place] = replace(loras[self.place], ratio=values[0])
        return replace(recipe, loras=tuple(loras))


@dataclass(frozen=True)
class PutAdjustment:
    """Sets one of the eight numbers that a result is adjusted with.

    Attributes:
        name: One of :data:`~.adjustments.NAMES`.
    """

    name: str

    def __call__(self, recipe: MergeRecipe, values: Sequence[float]) -> MergeRecipe:
        """Give the recipe with the value."""
        numbers = list(recipe.adjust or [0.0] * len(NAMES))
        numbers[NAMES.index(self.name)] = values[0]
        return replace(recipe, adjust=tuple(numbers))


@dataclass(frozen=True)
class PutCurve:
    """Sets the block weights of the U-Net to a curve, linear between points that are spread evenly; BASE stays.

    Attributes:
        blocks: How many blocks the U-Net has.
    """

    blocks: int

    def __call__(self, recipe: MergeRecipe, values: Sequence[float]) -> MergeRecipe:
        """Give the recipe with the values, which are at least two."""
        step = (self.blocks - 1) / (len(values) - 1)
        weights = tuple(round(_between(values, index / step), _DIGITS) for index in range(self.blocks))
        base = None if recipe.block_alpha is None else recipe.block_alpha.base
        return replace(recipe, block_alpha=BlockWeights(weights, base))


class Point(NamedTuple):
    """A point of a curve.

    Attributes:
        block: The nearest block.
        ratio: The ratio that the recipe has there.
    """

    block: str
    ratio: float


def curve_points(recipe: MergeRecipe, architecture: Architecture, count: int) -> list[Point]:
    """Spread points evenly along the blocks of the U-Net, the first and the last block included.

    Args:
        recipe: Its block weights, or alpha, are the ratios.
        architecture: Of the models.
        count: How many, from 2 to the number of blocks.

    Raises:
        RecipeError: The block weights are for another architecture.
    """
    blocks, weights = architecture.unet_blocks, _weights_of(recipe, architecture)
    ratios = [weights[block] for block in blocks]
    places = [index * (len(blocks) - 1) / (count - 1) for index in range(count)]
    return [Point(blocks[int(place + 0.5)], _between(ratios, place)) for place in places]


def ratio_of(rule: Rule, recipe: MergeRecipe, context: AxisContext) -> float:
    """Give the ratio that the elements of a rule have in a recipe, or if they have several, that of most of the rest.

    That is alpha, or the ratio of the LoRA or the further model that the rule is for.

    Args:
        rule: The rule.
        recipe: The recipe, which has what the rule is for.
        context: The blocks and elements of model A.

    Raises:
        RecipeError: The block weights are for another architecture.
    """
    matcher = RuleMatcher(context.names)
    decision, rules = matcher.decide(recipe.rules.rules), recipe.rules.rules
    sets = enumerate(decision.alpha) if not rule.target else decision.targets.get(rule.target, {}).items()
    ruled = [(rules[index].alpha, tensors) for index, tensors in sets]
    plain, base = _ratios_without_rules(rule.target, recipe, matcher, context.architecture)
    found = by_ratio(ruled, base, matcher.matching(rule))
    ratios = [ratio for ratio, tensors in found.items() if tensors]
    return ratios[0] if len(ratios) == 1 else plain


def _ratios_without_rules(
    target: str, recipe: MergeRecipe, matcher: RuleMatcher, architecture: Architecture
) -> tuple[float, list[tuple[float, TensorSet]]]:
    """Give the ratio of most of the model, and the tensors of each ratio, of which none is in two sets."""
    if not target:
        weights = _weights_of(recipe, architecture)
        return recipe.alpha, [(ratio, matcher.with_block(block)) for block, ratio in weights.items()]
    for lora in recipe.loras:
        if target_of_lora(lora) == target:
            texts = matcher.with_block(TEXT_ENCODER)
            return lora.ratio, [(lora.in_text_encoders, texts), (lora.ratio, matcher.everything & ~texts)]
    ratios = {role.upper(): model.ratio for role, model in zip(MORE_ROLES, recipe.more, strict=False)}
    return ratios[target], [(ratios[target], matcher.everything)]


def _weights_of(recipe: MergeRecipe, architecture: Architecture) -> dict[str, float]:
    if recipe.block_alpha is None:
        return dict.fromkeys(architecture.blocks, recipe.alpha)
    return recipe.block_alpha.by_block(architecture, base=recipe.alpha)


def _between(numbers: Sequence[float], place: float) -> float:
    """Give what is at a place between the numbers of a list."""
    first = min(int(place), len(numbers) - 2)
    return numbers[first] + (numbers[first + 1] - numbers[first]) * (place - first)
