"""The ratio of each further model, B2, B3 and so on, for each tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ..architectures.tensor_sets import TensorSet, members
from ..recipe.recipe import MergeRecipe
from ..recipe.rule_matching import Decision, by_ratio
from ..recipe.spec_warnings import SpecWarning
from .plan import MORE_ROLES, Role, TensorPlan

MoreRatios = tuple[float, ...]


class MorePlan:
    """The ratios of the further models of a recipe.

    Args:
        recipe: The recipe.
        decision: The tensors that each of its rules sets.
        tensors: The tensors that are asked for.
    """

    def __init__(self, recipe: MergeRecipe, decision: Decision, tensors: TensorSet) -> None:
        self._recipe = recipe
        self._base = recipe.more_ratios
        self._ruled = [
            {index: rule for rule, ruled in _sets(decision, role).items() for index in members(ruled & tensors)}
            for role in roles_of(recipe)
        ]
        self._has_rules = any(self._ruled)

    def of(self, index: int) -> tuple[MoreRatios, tuple[int | None, ...]]:
        """Give the ratios of a tensor, and the rule that set each; no rules if none set any.

        Args:
            index: The tensor's place in the result.
        """
        if not self._has_rules:
            return self._base, ()
        found = tuple(rules.get(index) for rules in self._ruled)
        rules = self._recipe.rules.rules
        ratios = (base if rule is None else rules[rule].alpha for base, rule in zip(self._base, found, strict=True))
        return tuple(ratios), found if any(rule is not None for rule in found) else ()


def more_sets(recipe: MergeRecipe, decision: Decision, everything: TensorSet) -> dict[MoreRatios, TensorSet]:
    """Give the tensors of each choice of ratios of the further models.

    Args:
        recipe: The recipe.
        decision: The tensors that each of its rules sets.
        everything: All tensors.
    """
    sets: dict[MoreRatios, TensorSet] = {(): everything}
    for role, base in zip(roles_of(recipe), recipe.more_ratios, strict=True):
        ruled = ((recipe.rules.rules[rule].alpha, own) for rule, own in _sets(decision, role).items())
        own_ratios = by_ratio(ruled, [(base, everything)], everything)
        sets = {
            (*ratios, ratio): both
            for ratios, some in sets.items()
            for ratio, own in own_ratios.items()
            if (both := some & own)
        }
    return sets


def roles_of(recipe: MergeRecipe) -> Sequence[Role]:
    """Give the roles of a recipe's further models."""
    return MORE_ROLES[: len(recipe.more)]


def warn_of_unused(recipe: MergeRecipe, tensors: Sequence[TensorPlan]) -> Iterator[SpecWarning]:
    """Warn of further models whose ratio is 0 everywhere.

    Args:
        recipe: The recipe.
        tensors: The plan of all tensors.
    """
    for place, role in enumerate(roles_of(recipe)):
        if not any(tensor.more[place] for tensor in tensors):
            yield SpecWarning(f"{role.name}: nothing of it is merged, since its ratio is 0.")


def _sets(decision: Decision, role: Role) -> Mapping[int, TensorSet]:
    return decision.targets.get(role.name, {})
