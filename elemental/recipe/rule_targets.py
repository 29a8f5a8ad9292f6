"""Targets of an element check: the left side of a rule, or ALL for every block or element of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..architectures.keys import FULL_KEY_PREFIXES, KeyName
from .rules import BlockSelector, ElementSelector, Rule

ALL = "ALL"
"""In place of blocks: each block separately. In place of elements: each element separately."""


class Target(NamedTuple):
    """Elements that get one ratio together.

    Attributes:
        blocks: The blocks.
        elements: The elements of these blocks; without parts all of them.
        each_block: Whether the target stands for one target a block.
        each_element: Whether it stands for one target an element.
    """

    blocks: BlockSelector
    elements: ElementSelector
    each_block: bool = False
    each_element: bool = False

    def rule(self, ratio: float) -> Rule:
        """Give the rule that sets the elements to a ratio."""
        return Rule(self.blocks, self.elements, ratio)

    def __str__(self) -> str:
        blocks = ALL if self.each_block else str(self.blocks)
        elements = ALL if self.each_element else str(self.elements)
        return f"{blocks}:{elements}" if elements or not blocks else blocks


def expand_targets(targets: Sequence[Target], names: Sequence[KeyName], blocks: Sequence[str]) -> list[Target]:
    """Replace ALL by the blocks and elements of a checkpoint; by blocks that have such elements, if some are named.

    Args:
        targets: The targets as written.
        names: The tensors of the checkpoint.
        blocks: The blocks of its architecture, in order.
    """
    blocks_with_tensors = {name.block for name in names}
    present_blocks = [block for block in blocks if block in blocks_with_tensors]
    expanded: list[Target] = []
    for target in targets:
        singles = [target]
        if target.each_block:
            chosen = _blocks_with(target.elements, names)
            singles = [
                target._replace(blocks=BlockSelector((block,)), each_block=False)
                for block in present_blocks
                if block in chosen
            ]
        for single in singles:
            expanded += _each_element(single, names) if single.each_element else [single]
    return expanded


def format_skipped(targets: Sequence[Target], names: Sequence[KeyName], blocks: Sequence[str]) -> str:
    """Say which blocks :func:`expand_targets` leaves out, as a sentence; empty if none.

    Args:
        targets: The targets as written.
        names: The tensors of the checkpoint.
        blocks: The blocks of its architecture, in order.
    """
    sentences = []
    for target in targets:
        if target.each_block and target.elements.parts:
            chosen = _blocks_with(target.elements, names)
            skipped = [block for block in blocks if block not in chosen]
            if skipped and chosen:
                sentences.append(f'"{target}" leaves out blocks without such elements: {", ".join(skipped)}.')
    return " ".join(dict.fromkeys(sentences))


def _blocks_with(elements: ElementSelector, names: Sequence[KeyName]) -> set[str]:
    return {name.block for name in names if elements.matches(name)}


def _each_element(target: Target, names: Sequence[KeyName]) -> Iterator[Target]:
    chosen = [name for name in names if target.blocks.matches(name)]
    for name in chosen:
        part = name.element
        matches = [other for other in chosen if other.block == name.block and part in other.element]
        if len(matches) > 1 and name.key.startswith(FULL_KEY_PREFIXES):
            part = name.key  # "0.weight" matches "time_embed.0.weight" too
        yield Target(BlockSelector((name.block,)), ElementSelector((part,)))
