"""Sets of tensors as integers, one bit for each tensor: union and intersection take one operation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from .blocks import expand_block
from .keys import FULL_KEY_PREFIXES, KeyName, part_of_base

TensorSet = int
"""A set of tensors: bit i stands for the i-th name of its :class:`TensorIndex`."""


class TensorIndex:
    """Finds tensors of a checkpoint by block and by parts of their names; each lookup is cached.

    Args:
        names: The tensors.

    Attributes:
        names: The tensors, in the order of the bits.
        everything: The set of all tensors.
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
        """Select the tensors of a block or of a range of blocks."""
        return union(self._by_block.get(name, 0) for name in expand_block(word))

    def with_part(self, part: str) -> TensorSet:
        """Select the tensors whose element contains a part, or whose full key does if the part starts like one."""
        tensors = self._by_part.get(part)
        if tensors is None:
            tensors = self._by_part[part] = self._search(part)
        return tensors

    def blocks_of(self, tensors: TensorSet) -> list[str]:
        """List the blocks that have some of these tensors, in the order of the names."""
        return [block for block in self._blocks if self._by_block[block] & tensors]

    def _search(self, part: str) -> TensorSet:
        if part.startswith(FULL_KEY_PREFIXES):
            return sum(1 << index for index, name in enumerate(self.names) if part in name.key)
        return union(tensors for element, tensors in self._by_element.items() if part in element)


def members(tensors: TensorSet) -> Iterator[int]:
    """List the indices in a set, lowest first."""
    while tensors:
        lowest = tensors & -tensors
        yield lowest.bit_length() - 1
        tensors ^= lowest


def union(sets: Iterable[TensorSet]) -> TensorSet:
    """Unite sets."""
    united = 0
    for tensors in sets:
        united |= tensors
    return united
