"""The shortest rule for a set of tensors: which blocks and which parts of names to write."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ...architectures.blocks import BASE, TEXT_ENCODER, VAE
from ...architectures.tensor_sets import TensorSet, union
from ..rule_matching import RuleMatcher
from ..rules import BlockSelector, ElementSelector
from .name_parts import Part
from .set_cover import drop_needless

_SHORTEST_RANGE = 3
_PARTS_OF_BASE = (TEXT_ENCODER, VAE)
_MOST_EXCEPTIONS = 5
_EFFORT_OF_EXCEPTION = 8
_EFFORT_OF_CUT = 8
"""In characters: what is left when names are taken away is harder to see than what is named, and so is what all begins
with "to_".
"""


@dataclass(frozen=True)
class Wording:
    """Writes the sides of rules.

    Attributes:
        matcher: Finds the checkpoint's tensors.
        blocks: The tensors of each block, of TE and of VAE; in block order.
        parts: The parts of names to choose from.
    """

    matcher: RuleMatcher
    blocks: Mapping[str, TensorSet]
    parts: Sequence[Part]

    def shortest(self, must: TensorSet, forbidden: TensorSet) -> tuple[BlockSelector, ElementSelector] | None:
        """Find the sides of the shortest rule that matches some tensors and spares others.

        Args:
            must: The tensors to match, at least one.
            forbidden: The tensors not to match; others may be matched.

        Returns:
            None if no rule was found.
        """
        needed = self._needed_blocks(must)
        narrow = union(self.blocks[word] for word in needed)
        found = [
            (blocks, elements)
            for elements in self._elements(must, narrow, forbidden & narrow)
            for blocks in self._blocks(must, forbidden & self.matcher.of_elements(elements), needed)
        ]
        return min(found, key=lambda sides: (reading_effort(*sides), str(sides[0])), default=None)

    def _needed_blocks(self, must: TensorSet) -> list[str]:
        own_parts = union(self.blocks.get(word, 0) for word in _PARTS_OF_BASE)
        whole_base = bool(must & self.blocks.get(BASE, 0) & ~own_parts)
        left_out = _PARTS_OF_BASE if whole_base else (BASE,)
        return [word for word, tensors in self.blocks.items() if tensors & must and word not in left_out]

    def _elements(self, must: TensorSet, narrow: TensorSet, forbidden: TensorSet) -> Iterator[ElementSelector]:
        if not forbidden:
            yield ElementSelector()
        right = [part for part in self.parts if part.text and part.tensors & must and not part.tensors & forbidden]
        wrong = [part for part in self.parts if part.text and part.tensors & forbidden and not part.tensors & must]
        for weighted in (True, False):
            if forbidden and (parts := _fewest(forbidden, wrong, weighted=weighted, most=_MOST_EXCEPTIONS)):
                yield ElementSelector(parts, inverted=True)
            if parts := _fewest(must & narrow, right, weighted=weighted, most=len(right)):
                yield ElementSelector(parts)

    def _blocks(self, must: TensorSet, forbidden: TensorSet, needed: Sequence[str]) -> Iterator[BlockSelector]:
        wrong = [word for word, tensors in self.blocks.items() if tensors & forbidden]
        choices = [
            BlockSelector(),
            *(BlockSelector(words) for words in self._words(needed, wrong)),
            *(BlockSelector(words, inverted=True) for words in self._words(wrong, needed)),
        ]
        for blocks in choices:
            tensors = self.matcher.of_blocks(blocks)
            if not must & ~tensors and not forbidden & tensors:
                yield blocks

    def _words(self, chosen: Collection[str], spared: Collection[str]) -> Iterator[tuple[str, ...]]:
        """Write blocks as a list; ranges may reach over blocks that are not spared."""
        of_unet = [word for word in self.blocks if word not in (BASE, *_PARTS_OF_BASE)]
        unet = _with_ranges(of_unet, chosen, spared)
        for base in ((), (BASE,), tuple(word for word in _PARTS_OF_BASE if word in chosen)):
            if base or unet:
                yield (*base, *unet)


def reading_effort(blocks: BlockSelector, elements: ElementSelector) -> int:
    """Say how hard the sides of a rule are to read, in characters."""
    exceptions = len(blocks.words) * blocks.inverted + len(elements.parts) * elements.inverted
    return len(str(blocks)) + sum(map(_effort_of_part, elements.parts)) + _EFFORT_OF_EXCEPTION * exceptions


def _effort_of_part(text: str) -> int:
    return len(text) + 1 + (0 if text[-1].isalnum() else _EFFORT_OF_CUT)


def _with_ranges(order: Sequence[str], chosen: Collection[str], spared: Collection[str]) -> list[str]:
    runs: list[list[str]] = [[]]
    for word in order:
        if word in chosen:
            runs[-1].append(word)
        elif word in spared:
            runs.append([])
    return [word for run in runs for word in (run if len(run) < _SHORTEST_RANGE else [f"{run[0]}-{run[-1]}"])]


def _fewest(tensors: TensorSet, parts: Sequence[Part], *, weighted: bool, most: int) -> tuple[str, ...]:
    """Choose parts that match all of some tensors; none if that cannot be done.

    Args:
        tensors: The tensors to match.
        parts: The parts to choose from.
        weighted: Whether short parts are preferred to those that match many.
        most: The largest number of parts that is of use.
    """
    texts: dict[TensorSet, str] = {}
    for part in sorted(parts, key=lambda part: _effort_of_part(part.text)):
        texts.setdefault(part.tensors & tensors, part.text)
    left, chosen = tensors, list[TensorSet]()
    while left and len(chosen) < most:
        worth = {
            found: gain / (_effort_of_part(text) if weighted else 1)
            for found, text in texts.items()
            if (gain := (found & left).bit_count())
        }
        if not worth:
            return ()
        chosen.append(max(worth, key=worth.__getitem__))
        left &= ~chosen[-1]
    by_length = sorted(chosen, key=lambda found: _effort_of_part(texts[found]))
    return () if left else tuple(texts[found] for found in drop_needless(tensors, by_length))
