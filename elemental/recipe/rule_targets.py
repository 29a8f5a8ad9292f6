"""What one ratio is tried on: the left side of a rule, by itself, or a list of such to be made from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..architectures.keys import FULL_KEY_PREFIXES, KeyName
from .rules import BlockSelector, ElementSelector, Rule

ALL = "ALL"
"""In place of blocks: each block by itself. In place of elements: each element by itself."""


class Target(NamedTuple):
    """Elements that are given a ratio together.

    Attributes:
        blocks: In which blocks.
        elements: Which elements; all of them if it has no parts.
        each_block: Stands for as many targets as there are blocks.
        each_element: Stands for as many targets as there are elements in the blocks.
    """

    blocks: BlockSelector
    elements: ElementSelector
    each_block: bool = False
    each_element: bool = False

    def rule(self, ratio: float) -> Rule:
        """Give the rule that sets these elements to a ratio."""
        return Rule(self.blocks, self.elements, ratio)

    def __str__(self) -> str:
        blocks = ALL if self.each_block else str(self.blocks)
        elements = ALL if self.each_element else str(self.elements)
        return f"{blocks}:{elements}" if elements or not blocks else blocks


def expand_targets(targets: Sequence[Target], names: Sequence[KeyName], blocks: Sequence[str]) -> list[Target]:
    """Put the blocks and elements of a checkpoint in the place of the word ALL.

    Args:
        targets: As they were written.
        names: The tensors of the checkpoint.
        blocks: Its architecture's blocks, in order.
    """
    present = {name.block for name in names}
    own_blocks = [block for block in blocks if block in present]
    expanded: list[Target] = []
    for target in targets:
        singles = [target]
        if target.each_block:
            singles = [target._replace(blocks=BlockSelector((block,)), each_block=False) for block in own_blocks]
        for single in singles:
            expanded += _each_element(single, names) if single.each_element else [single]
    return expanded


def _each_element(target: Target, names: Sequence[KeyName]) -> Iterator[Target]:
    chosen = [name for name in names if target.blocks.matches(name)]
    for name in chosen:
        part = name.element
        alike = [other for other in chosen if other.block == name.block and part in other.element]
        if len(alike) > 1 and name.key.startswith(FULL_KEY_PREFIXES):
            part = name.key  # "0.weight" is a piece of "time_embed.0.weight", too
        yield Target(BlockSelector((name.block,)), ElementSelector((part,)))
