"""Sets of tensors as integers, one bit for each tensor: union and intersection take one operation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from .blocks import expand_block
from .keys import FULL_KEY_PREFIXES, KeyName, part_of_base

TensorSet = int
"""A set of tensors: bit i stands for the i-th name of its :class:`TensorIndex`."""


_FEW = 30
"""The parts that are searched in all elements, before it pays to cut these into pieces."""


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
        self._by_element: dict[str, TensorSet] = {}
        self._by_part: dict[str, TensorSet] = {}
        self._by_piece: dict[int, dict[str, TensorSet]] = {}
        self._blocks = list(dict.fromkeys(name.block for name in names))
        places: dict[str, list[int]] = {}
        for index, (_, component, block, element) in enumerate(names):
            self._by_element[element] = self._by_element.get(element, 0) | 1 << index
            places.setdefault(block, []).append(index)
            if (part := part_of_base(component)) is not None:
                places.setdefault(part, []).append(index)
        self._by_block = {block: set_of(indices) for block, indices in places.items()}

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
        elements = self._by_element if len(self._by_part) < _FEW else self._pieces(part.count("."))
        return union(tensors for element, tensors in elements.items() if part in element)

    def _pieces(self, dots: int) -> Mapping[str, TensorSet]:
        """Give the pieces of elements with so many dots, each with its tensors: far fewer than there are elements.

        A part of as many dots is in an element where it is in one of these pieces.
        """
        pieces = self._by_piece.get(dots)
        if pieces is None:
            pieces = self._by_piece[dots] = {}
            for element, tensors in self._by_element.items():
                words = element.split(".")
                for start in range(len(words) - dots):
                    piece = ".".join(words[start : start + dots + 1])
                    pieces[piece] = pieces.get(piece, 0) | tensors
        return pieces


def set_of(indices: Sequence[int]) -> TensorSet:
    """Make a set of many indices, faster than by uniting them one by one."""
    bits = bytearray(max(indices, default=0) // 8 + 1)
    for index in indices:
        bits[index >> 3] |= 1 << (index & 7)
    return int.from_bytes(bits, "little")


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
