"""Sets of tensors as integers, one bit for each tensor: union and intersection take one operation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain

from .blocks import expand_block
from .keys import FULL_KEY_PREFIXES, KeyName, part_of_base

TensorSet = int
"""A set of tensors: bit i stands for the i-th name of its :class:`TensorIndex`."""


_FEW = 30
"""The searches in all names, before it pays to look at the words of these."""


class TensorIndex:
    """Finds tensors of a checkpoint by block and by parts of their names; each lookup is cached.

    Args:
        names: The tensors.

    Attributes:
        names: The tensors, in the order of the bits.
        everything: The set of all tensors.
        elements: The tensors by their elements.
    """

    def __init__(self, names: Sequence[KeyName]) -> None:
        self.names = names
        self.everything: TensorSet = (1 << len(names)) - 1
        self._by_word: dict[str, TensorSet] = {}
        self._by_part: dict[str, TensorSet] = {}
        self._blocks = list(dict.fromkeys(name.block for name in names))
        by_element: dict[str, TensorSet] = {}
        places: dict[str, list[int]] = {}
        for index, (_, component, block, element) in enumerate(names):
            by_element[element] = by_element.get(element, 0) | 1 << index
            places.setdefault(block, []).append(index)
            if (part := part_of_base(component)) is not None:
                places.setdefault(part, []).append(index)
        self.elements = NameSearch(by_element)
        self._by_block = {block: set_of(indices) for block, indices in places.items()}

    @cached_property
    def keys(self) -> NameSearch:
        """The tensors by their full keys."""
        return NameSearch({name.key: 1 << index for index, name in enumerate(self.names)})

    def with_block(self, word: str) -> TensorSet:
        """Select the tensors of a block or of a range of blocks."""
        tensors = self._by_word.get(word)
        if tensors is None:
            tensors = self._by_word[word] = union(self._by_block.get(name, 0) for name in expand_block(word))
        return tensors

    def with_part(self, part: str) -> TensorSet:
        """Select the tensors whose element contains a part, or whose full key does if the part starts like one."""
        tensors = self._by_part.get(part)
        if tensors is None:
            tensors = self._by_part[part] = self.searched(part).containing(part)
        return tensors

    def searched(self, part: str) -> NameSearch:
        """Give the names that a part is searched in: elements, or full keys if the part starts like one."""
        return self.keys if part.startswith(FULL_KEY_PREFIXES) else self.elements

    def blocks_of(self, tensors: TensorSet) -> list[str]:
        """List the blocks that have some of these tensors, in the order of the names."""
        return [block for block in self._blocks if self._by_block[block] & tensors]


class NameSearch:
    """Finds tensors by pieces of their names.

    Args:
        names: The tensors of each name.

    Attributes:
        names: The same.
    """

    def __init__(self, names: Mapping[str, TensorSet]) -> None:
        self.names = names
        self._words: Words | None = None
        self._searches = 0

    @property
    def words(self) -> Words:
        """The words of the names."""
        if self._words is None:
            self._words = Words(self.names)
        return self._words

    def containing(self, piece: str) -> TensorSet:
        """Select the tensors in whose name a piece stands."""
        self._searches += 1
        if self._words is None and self._searches <= _FEW:
            return union(tensors for name, tensors in self.names.items() if piece in name)
        return self.words.containing(piece)


class Words:
    """Finds tensors by the words of their names, which dots separate: a checkpoint has some hundred words.

    Args:
        names: The tensors of each name.
    """

    def __init__(self, names: Mapping[str, TensorSet]) -> None:
        self._heads = _heads(names)
        self._places: dict[str, dict[int, TensorSet]] = {}
        self._starts: dict[str, Mapping[int, TensorSet]] = {}
        self._ends: dict[str, Mapping[int, TensorSet]] = {}
        for place, heads in enumerate(self._heads):
            for head, tensors in heads.items():
                places = self._places.setdefault(head.rpartition(".")[2], {})
                places[place] = places.get(place, 0) | tensors
        self._anywhere = {word: union(places.values()) for word, places in self._places.items()}

    def containing(self, piece: str) -> TensorSet:
        """Select the tensors in whose name a piece stands: the end of a word, whole words, the start of a word."""
        first, *rest = piece.split(".")
        if not rest:
            return union(tensors for word, tensors in self._anywhere.items() if first in word)
        *middle, last = rest
        if first not in self._ends:
            self._ends[first] = self._together(word for word in self._places if word.endswith(first))
        if last not in self._starts:
            self._starts[last] = self._together(word for word in self._places if word.startswith(last))
        found = self._ends[first]
        for word in middle:
            found = _followed(found, self._places.get(word, {}))
        return union(_followed(found, self._starts[last]).values())

    def runs(self, size: int) -> dict[str, TensorSet]:
        """Give the pieces of names that consist of so many whole words, each with its tensors."""
        runs: dict[str, TensorSet] = {}
        for head, tensors in chain.from_iterable(heads.items() for heads in self._heads[size - 1 :]):
            run = ".".join(head.rsplit(".", size)[-size:])
            runs[run] = runs.get(run, 0) | tensors
        return runs

    def _together(self, words: Iterable[str]) -> dict[int, TensorSet]:
        """Give the tensors that have any of some words at each place."""
        found: dict[int, TensorSet] = {}
        for word in words:
            for place, tensors in self._places[word].items():
                found[place] = found.get(place, 0) | tensors
        return found


def _heads(names: Mapping[str, TensorSet]) -> list[dict[str, TensorSet]]:
    """Give the tensors of all that names begin with, by its number of dots: many names begin with the same words."""
    heads: list[dict[str, TensorSet]] = [{} for _ in range(1 + max((name.count(".") for name in names), default=0))]
    for name, tensors in names.items():
        heads[name.count(".")][name] = tensors
    for shorter, longer in zip(heads[-2::-1], heads[:0:-1], strict=True):
        for name, tensors in longer.items():
            head = name.rpartition(".")[0]
            shorter[head] = shorter.get(head, 0) | tensors
    return heads


def _followed(found: Mapping[int, TensorSet], following: Mapping[int, TensorSet]) -> Mapping[int, TensorSet]:
    """Give what of tensors with something at each place has something else at the next place."""
    return {place: both for place, tensors in following.items() if (both := tensors & found.get(place - 1, 0))}


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
