"""Which tensors each rule selects, fast enough for a thousand rules on the largest checkpoint.

A set of tensors is one Python integer, a bit a tensor. A block name and a part are looked up once each, and a
rule is then a handful of operations on such integers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .blocks import expand_block
from .keys import KeyName
from .rules import FULL_KEY_PREFIXES, BlockSelector, ElementSelector, Rule, part_of_base

TensorSet = int
"""A set of tensors: bit i stands for the i-th name of the selection."""


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


class Selection:
    """The tensors of one checkpoint, ready to be asked for by rules.

    Args:
        names: The tensors.

    Attributes:
        names: The tensors, in the order of a set's bits.
        everything: The set of all of them.
    """

    def __init__(self, names: Sequence[KeyName]) -> None:
        self.names = names
        self.everything: TensorSet = (1 << len(names)) - 1
        self._by_block: dict[str, TensorSet] = {}
        self._by_element: dict[str, TensorSet] = {}
        self._by_part: dict[str, TensorSet] = {}
        self._blocks = list(dict.fromkeys(name.block for name in names))
        for index, name in enumerate(names):
            bit = 1 << index
            self._by_element[name.element] = self._by_element.get(name.element, 0) | bit
            for block in filter(None, (name.block, part_of_base(name.component))):
                self._by_block[block] = self._by_block.get(block, 0) | bit

    def with_block(self, word: str) -> TensorSet:
        """Select the tensors of a block, or of a range of blocks."""
        return _union(self._by_block.get(name, 0) for name in expand_block(word))

    def with_part(self, part: str) -> TensorSet:
        """Select the tensors whose element, or full key where the part starts like one, contains a part."""
        known = self._by_part.get(part)
        if known is None:
            known = self._by_part[part] = self._find(part)
        return known

    def of_blocks(self, selector: BlockSelector) -> TensorSet:
        """Select by one side of a rule."""
        return self._choose(map(self.with_block, selector.words), selector)

    def of_elements(self, selector: ElementSelector) -> TensorSet:
        """Select by the other side of a rule."""
        return self._choose(map(self.with_part, selector.parts), selector)

    def blocks_of(self, tensors: TensorSet) -> list[str]:
        """List the blocks that some of these tensors are in, in the order of the names."""
        return [block for block in self._blocks if self._by_block[block] & tensors]

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

    def _find(self, part: str) -> TensorSet:
        if part.startswith(FULL_KEY_PREFIXES):
            return sum(1 << index for index, name in enumerate(self.names) if part in name.key)
        return _union(tensors for element, tensors in self._by_element.items() if part in element)

    def _choose(self, found: Iterator[TensorSet], selector: BlockSelector | ElementSelector) -> TensorSet:
        tensors = list(found)
        if not tensors:
            return self.everything
        return _union(iter(tensors)) ^ (self.everything if selector.inverted else 0)


def members(tensors: TensorSet) -> Iterator[int]:
    """List the indices of a set, lowest first."""
    while tensors:
        lowest = tensors & -tensors
        yield lowest.bit_length() - 1
        tensors ^= lowest


def _union(sets: Iterator[TensorSet]) -> TensorSet:
    union = 0
    for tensors in sets:
        union |= tensors
    return union


def rule_by_tensor(sets: Sequence[TensorSet], tensors: TensorSet) -> dict[int, int]:
    """Tell which rule each tensor belongs to, by index; tensors of no rule are left out.

    Args:
        sets: The tensors of each rule; no tensor in two of them.
        tensors: Whose rules are wanted.
    """
    return {index: rule for rule, found in enumerate(sets) for index in members(found & tensors)}
