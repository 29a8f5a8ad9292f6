"""Find the tensors that each rule sets, fast enough for a thousand rules on an SDXL checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from ..architectures.tensor_sets import TensorIndex, TensorSet, members, union
from .rules import BlockSelector, ElementSelector, Rule

_Ratio = TypeVar("_Ratio", float, "float | None")


class Decision(NamedTuple):
    """The tensors that each rule sets; each list has one entry a rule.

    Attributes:
        matched: The tensors that match the rule, including those that a later rule overrides.
        alpha: The tensors whose alpha the rule sets.
        beta: The tensors whose beta the rule sets; rules without beta do not override earlier ones here.
        targets: For each target the tensors whose ratio its rules set, by the rules' indices. Alpha and beta of other
            tensors, or of none, are not theirs: their sets there are empty.
    """

    matched: list[TensorSet]
    alpha: list[TensorSet]
    beta: list[TensorSet]
    targets: Mapping[str, Mapping[int, TensorSet]]

    def sets(self, index: int, rule: Rule) -> TensorSet:
        """Give the tensors of which a rule sets a ratio, whichever."""
        return self.alpha[index] | self.beta[index] | self.targets.get(rule.target, {}).get(index, 0)


class RuleMatcher(TensorIndex):
    """Finds the tensors of a checkpoint that match rules."""

    def of_blocks(self, selector: BlockSelector) -> TensorSet:
        """Select the tensors that match the block side of a rule."""
        return self._choose(map(self.with_block, selector.words), selector)

    def of_elements(self, selector: ElementSelector) -> TensorSet:
        """Select the tensors that match the element side of a rule."""
        return self._choose(map(self.with_part, selector.parts), selector)

    def matching(self, rule: Rule) -> TensorSet:
        """Select the tensors that match a rule."""
        return self.of_blocks(rule.blocks) & self.of_elements(rule.elements)

    def decide(self, rules: Sequence[Rule]) -> Decision:
        """Find for every tensor the last rule that matches it, of each target."""
        matched = [self.matching(rule) for rule in rules]
        alpha, beta = [0] * len(rules), [0] * len(rules)
        targets: dict[str, dict[int, TensorSet]] = {}
        open_alpha = open_beta = self.everything  # not set by a later rule
        open_targets: dict[str, TensorSet] = {}
        for index in reversed(range(len(rules))):
            if target := rules[index].target:
                left = open_targets.get(target, self.everything)
                targets.setdefault(target, {})[index] = matched[index] & left
                open_targets[target] = left & ~matched[index]
                continue
            alpha[index] = matched[index] & open_alpha
            open_alpha &= ~matched[index]
            if rules[index].beta is not None:
                beta[index] = matched[index] & open_beta
                open_beta &= ~matched[index]
        return Decision(matched, alpha, beta, targets)

    def _choose(self, sets: Iterable[TensorSet], selector: BlockSelector | ElementSelector) -> TensorSet:
        tensors = list(sets)
        if not tensors:
            return self.everything
        return union(tensors) ^ (self.everything if selector.inverted else 0)


def by_ratio(
    ruled: Iterable[tuple[_Ratio, TensorSet]], base: Iterable[tuple[_Ratio, TensorSet]], tensors: TensorSet
) -> dict[_Ratio, TensorSet]:
    """Group tensors by their ratio: the one that a rule sets, or else that of the base; some sets may be empty.

    Args:
        ruled: The ratio of each rule, and the tensors that have it from there; no tensor is in two of these sets.
        base: The ratios without rules, and the tensors that each is for.
        tensors: The tensors to group.
    """
    found: dict[_Ratio, TensorSet] = {}
    for ratio, own in ruled:
        found[ratio] = found.get(ratio, 0) | (own & tensors)
        tensors &= ~own
    for ratio, own in base:
        found[ratio] = found.get(ratio, 0) | (own & tensors)
    return found


def rule_by_tensor(sets: Sequence[TensorSet], tensors: TensorSet) -> dict[int, int]:
    """Give the rule of each tensor, both as indices; tensors without a rule are left out.

    Args:
        sets: The tensors of each rule; no tensor is in two of them.
        tensors: The tensors to look up.
    """
    return {index: rule for rule, ruled in enumerate(sets) for index in members(ruled & tensors)}
