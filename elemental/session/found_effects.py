"""What is kept of an estimate of effects for every recipe of the same models and mode: the map, what a plan changes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property

from ..architectures.element_families import find_families
from ..errors import ElementalError
from ..images.effect_scale import format_share
from ..merge.files.checkpoint import read_signature
from ..merge.files.model_locator import expand_home
from ..merge.plan import MergePlan, Role, TensorPlan
from ..recipe.chains import files_of
from ..recipe.recipe import MergeRecipe
from ..runs.effect_estimate import EffectOrder
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
        ratios: Alpha and beta of each tensor of the merge on top of which the effects were estimated.
        families: The effects of whole families of groups, by family and block.
    """

    ranking: EffectRanking
    made_from: str
    models: Hashable
    ratios: Mapping[str, tuple[float, float | None]]
    families: Mapping[tuple[str, str], CellEffect] = field(default_factory=dict)

    def find(self, plan: MergePlan) -> MapEffects | None:
        """Give what the map of a plan shows; None if the plan is of other models, or of another mode."""
        return for_models(self.models, self.shown, plan)

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
            self.describe,
            self.families,
        )

    def describe(self, plan: MergePlan) -> str:
        """Say what share of the change a plan is expected to make, and how many elements it moves.

        The change is that from A to the whole of B, with the effects as they were estimated. Empty if the plan has
        other betas, on which the effects depend.
        """
        moves = self.moves(plan)
        if moves is None or not self.ranking.whole:
            return ""
        if not moves:
            return "Estimate: no change."
        share = min(1.0, self.ranking.samples.effect(moves) / self.ranking.whole)
        count = f"{len(moves):,} element{'s' * (len(moves) != 1)}"
        return f"Estimate: about {format_share(share)} of the change, {count}."

    def moves(self, plan: MergePlan) -> dict[str, float] | None:
        """Give the alpha of each tensor that a plan moves away from A.

        Returns:
            None if a beta is another.
        """
        planned = {key: ratios for key, ratios in ratios_of(plan).items() if key in self.ratios}
        if any(beta != self.ratios[key][1] for key, (_, beta) in planned.items()):
            return None
        return {key: alpha for key, (alpha, _) in planned.items() if alpha}


def ratios_of(plan: MergePlan) -> dict[str, tuple[float, float | None]]:
    """Give alpha and beta of each tensor; what is copied has the alpha of its model, and the beta of no merge."""
    return {tensor.name.key: _ratios(tensor) for tensor in plan.tensors}


def _ratios(tensor: TensorPlan) -> tuple[float, float | None]:
    if tensor.note:
        return float(tensor.inputs == (Role.B,)), None
    return tensor.alpha, tensor.beta


def found_effects(order: EffectOrder, ranking: EffectRanking, plan: MergePlan, models: Hashable) -> FoundEffects:
    """Keep what is shown of an estimate.

    Args:
        order: What was asked for.
        ranking: The ranking of its samples.
        plan: The merge on top of which it was made.
        models: Its models, as they were when it began.
    """
    made_from = "; ".join(describe_estimate(order, ranking.samples).splitlines())
    known = ratios_of(plan)
    ratios = {key: known[key] for key in ranking.samples.keys if key in known}
    found = FoundEffects(ranking, made_from, models, ratios, _family_effects(ranking, plan))
    _ = found.shown  # made now, so that the next look at the form need not wait for it
    return found


def _family_effects(ranking: EffectRanking, plan: MergePlan) -> dict[tuple[str, str], CellEffect]:
    names = [tensor.name for tensor in plan.tensors]
    families = (family for family in find_families(ranking.rows, names) if family.folds)
    keys = {
        (family.name, block): [names[index].key for index in place.indices]
        for family in families
        for block, place in family.places.items()
    }
    found = zip(keys, ranking.samples.group_effects(list(keys.values())), strict=True)
    return {at: CellEffect(effect, 0, effect / ranking.whole if ranking.whole else 0.0) for at, effect in found}


def for_models(models: Hashable, shown: MapEffects, plan: MergePlan) -> MapEffects | None:
    """Give effects if they are of a plan's models.

    Args:
        models: The models and the mode of the effects, as :func:`models_of` gives them.
        shown: The effects.
        plan: The plan.
    """
    with suppress(ElementalError):  # a model was deleted a moment ago
        return shown if models_of(plan.recipe) == models else None
    return None


def models_of(recipe: MergeRecipe) -> Hashable:
    """Give the mode of a recipe and its models, the files with size and time, which are equal if effects still hold.

    Raises:
        CheckpointError: A model is missing.
    """
    paths = {words: expand_home(source.path) for words, source in files_of(recipe)}
    files = tuple((words, path, read_signature(path)) for words, path in paths.items())
    return recipe.mode, files, tuple((role, source.recipe) for role, source in recipe.sources.items())
