"""What is asked of a cover: tensors, the ratios that they have and are to have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from ...architectures.tensor_sets import TensorSet, union
from ..rule_matching import RuleMatcher
from ..rules import Ratios, Rule

RatioSets = Mapping[Ratios, TensorSet]
"""The tensors of each pair of ratios."""


class Patch(NamedTuple):
    """Tensors that one rule will set, before it is written."""

    ratios: Ratios
    tensors: TensorSet


class Task:
    """Tensors, the ratios that they have without rules, and those that they are to have.

    Args:
        matcher: Finds the checkpoint's tensors.
        wanted: What they are to have; tensors that are not here may get any ratios.
        base: What they have.
    """

    def __init__(self, matcher: RuleMatcher, wanted: RatioSets, base: RatioSets) -> None:
        self.matcher = matcher
        self.wanted = wanted
        self.base = base
        self.at_stake: TensorSet = union(wanted.values())

    @cached_property
    def wrong(self) -> TensorSet:
        """The tensors that need a rule."""
        return self.at_stake & ~union(tensors & self.base.get(ratios, 0) for ratios, tensors in self.wanted.items())

    def harm(self, patch: Patch) -> TensorSet:
        """Give the tensors that a patch would set to ratios that they are not to have."""
        return patch.tensors & self.at_stake & ~self.wanted.get(patch.ratios, 0)

    def wrong_after(self, patch: Patch, wrong: TensorSet) -> TensorSet:
        """Give the tensors that are wrong after a patch, of those that were before and others."""
        return (wrong & ~patch.tensors) | self.harm(patch)

    def is_solved_by(self, rules: Sequence[Rule]) -> bool:
        """Tell whether rules give all tensors the ratios that they are to have."""
        return not self.wrong_with(rules)

    def wrong_with(self, rules: Sequence[Rule]) -> TensorSet:
        """Give the tensors that rules do not give the ratios that they are to have."""
        decision = self.matcher.decide(rules)
        alphas = dict(self._by_ratio(0, decision.alpha, [rule.alpha for rule in rules]))
        betas = dict(self._by_ratio(1, decision.beta, [rule.beta for rule in rules]))
        right = (tensors & alphas[alpha] & betas[beta] for (alpha, beta), tensors in self.wanted.items())
        return self.at_stake & ~union(right)

    def _by_ratio(
        self, field: int, ruled: Sequence[TensorSet], ratios: Sequence[float | None]
    ) -> Iterator[tuple[float | None, TensorSet]]:
        """Give the tensors of each alpha, or of each beta, after rules that set ``ruled``."""
        kept = ~union(ruled)
        for ratio in {pair[field] for pair in (*self.wanted, *self.base)}:
            own = union(tensors for tensors, ruled_ratio in zip(ruled, ratios, strict=True) if ruled_ratio == ratio)
            yield ratio, own | (kept & union(tensors for pair, tensors in self.base.items() if pair[field] == ratio))
