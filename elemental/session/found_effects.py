"""What is kept of an estimate of effects: the cells of the map, for every recipe of the same models and mode."""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

from ..errors import ElementalError
from ..merge.files.checkpoint import read_signature
from ..merge.files.model_locator import expand_home
from ..merge.plan import MergePlan
from ..recipe.recipe import MergeRecipe
from ..runs.effect_estimate import Effects
from ..runs.effect_ranking import EffectRanking
from ..runs.effect_results import describe_estimate
from .map_effects import CellEffect, MapEffects


@dataclass(frozen=True)
class FoundEffects:
    """An estimate, and what of it is shown.

    Attributes:
        ranking: Its ranking.
        made_from: What it was made from, in a line.
        models: Its models and mode, as :func:`models_of` gives them.
    """

    ranking: EffectRanking
    made_from: str
    models: Hashable

    def find(self, plan: MergePlan) -> MapEffects | None:
        """Give what the map of a plan shows; None if the plan is of other models, or of another mode."""
        with suppress(ElementalError):  # a model was deleted a moment ago
            return self.shown if models_of(plan.recipe) == self.models else None
        return None

    @cached_property
    def shown(self) -> MapEffects:
        """What the map shows."""
        groups = self.ranking.groups
        return MapEffects(
            {
                (effect.name, effect.column): CellEffect(effect.effect, rank, effect.share)
                for rank, effect in enumerate(groups, 1)
            },
            self.made_from,
            {effect.name: effect.effect for effect in self.ranking.tensors},
            self.ranking.shares_together(groups),
        )


def found_effects(effects: Effects, ranking: EffectRanking, models: Hashable) -> FoundEffects:
    """Keep what is shown of an estimate.

    Args:
        effects: The estimate.
        ranking: Its ranking.
        models: Its models, as they were when it began.
    """
    return FoundEffects(ranking, "; ".join(describe_estimate(effects.order, effects.samples).splitlines()), models)


def models_of(recipe: MergeRecipe) -> Hashable:
    """Give the mode of a recipe and its models' files with size and time, which are equal if effects still hold.

    Raises:
        CheckpointError: A model is missing.
    """
    paths = {role: expand_home(source.path) for role, source in recipe.sources.items()}
    return recipe.mode, tuple((role, path, read_signature(path)) for role, path in paths.items())
