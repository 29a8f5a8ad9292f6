"""Which tensors each rule sets, fast enough for a thousand rules on the largest checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..architectures.tensor_sets import TensorIndex, TensorSet, members, union
from .rules import BlockSelector, ElementSelector, Rule


class Decision(NamedTuple):
    """Which rules decide what; each list has one entry a rule.

    Attributes:
        matched: The tensors that the rule selects, whether or not a later rule overrides it there.
        alpha: Those whose alpha it sets in the end.
        beta: Those whose beta it sets; a rule without beta leaves that to the rules before it.
    """

    matched: list[TensorSet]
    alpha: list[TensorSet]
    beta: list[TensorSet]


class RuleMatcher(TensorIndex):
    """The tensors of one checkpoint, ready to be asked for by rules."""

    def of_blocks(self, selector: BlockSelector) -> TensorSet:
        """Select by one side of a rule."""
        return self._choose(map(self.with_block, selector.words), selector)

    def of_elements(self, selector: ElementSelector) -> TensorSet:
        """Select by the other side of a rule."""
        return self._choose(map(self.with_part, selector.parts), selector)

    def matching(self, rule: Rule) -> TensorSet:
        """Select the tensors that a rule is for."""
        return self.of_blocks(rule.blocks) & self.of_elements(rule.elements)

    def decide(self, rules: Sequence[Rule]) -> Decision:
        """Find for every tensor the last rule that matches it."""
        matched = [self.matching(rule) for rule in rules]
        alpha, beta = list(matched), [0] * len(rules)
        open_alpha = open_beta = self.everything
        for index in reversed(range(len(rules))):
            alpha[index] &= open_alpha
            open_alpha &= ~matched[index]
            if rules[index].beta is not None:
                beta[index] = matched[index] & open_beta
                open_beta &= ~matched[index]
        return Decision(matched, alpha, beta)

    def _choose(self, sets: Iterable[TensorSet], selector: BlockSelector | ElementSelector) -> TensorSet:
        tensors = list(sets)
        if not tensors:
            return self.everything
        return union(tensors) ^ (self.everything if selector.inverted else 0)


def rule_by_tensor(sets: Sequence[TensorSet], tensors: TensorSet) -> dict[int, int]:
    """Tell which rule each tensor belongs to, by index; tensors of no rule are left out.

    Args:
        sets: The tensors of each rule; no tensor in two of them.
        tensors: Whose rules are wanted.
    """
    return {index: rule for rule, found in enumerate(sets) for index in members(found & tensors)}
