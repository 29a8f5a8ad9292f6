"""The shortest rule for a set of tensors: which blocks and which parts of names to write."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from ...architectures.blocks import BASE, TEXT_ENCODER, VAE
from ...architectures.tensor_sets import TensorSet, union
from .name_parts import Part
from .set_cover import drop_needless
from .task import Patch, Task
from ..rule_matching import RuleMatcher
from ..rules import BlockSelector, ElementSelector, Rule

_SHORTEST_RANGE = 3
_PARTS_OF_BASE = (TEXT_ENCODER, VAE)
_EFFORT_OF_EXCEPTION = 8
"""What is left when several names are taken away is harder to see than what is named."""


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
        return min(found, key=lambda sides: (sum(map(reading_effort, sides)), str(sides[0])), default=None)

    def _needed_blocks(self, must: TensorSet) -> list[str]:
        own_parts = union(self.blocks.get(word, 0) for word in _PARTS_OF_BASE)
        whole_base = bool(must & self.blocks.get(BASE, 0) & ~own_parts)
        left_out = _PARTS_OF_BASE if whole_base else (BASE,)
        return [word for word, tensors in self.blocks.items() if tensors & must and word not in left_out]

    def _elements(self, must: TensorSet, narrow: TensorSet, forbidden: TensorSet) -> Iterator[ElementSelector]:
        if not forbidden:
            yield ElementSelector()
        right = [part for part in self.parts if part.text and part.tensors & must and not part.tensors & forbidden]
        wrong = [part for part in self.parts if part.tensors & forbidden and not part.tensors & must]
        for weighted in (True, False):
            if forbidden and (parts := _fewest(forbidden, wrong, weighted=weighted)):
                yield ElementSelector(parts, inverted=True)
            if parts := _fewest(must & narrow, right, weighted=weighted):
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


def reading_effort(selector: BlockSelector | ElementSelector) -> int:
    """Say how hard one side of a rule is to read, in characters."""
    exceptions = (len(str(selector).split()) - 1) * selector.inverted
    return len(str(selector)) + _EFFORT_OF_EXCEPTION * exceptions


def _with_ranges(order: Sequence[str], chosen: Collection[str], spared: Collection[str]) -> list[str]:
    runs: list[list[str]] = [[]]
    for word in order:
        if word in chosen:
            runs[-1].append(word)
        elif word in spared:
            runs.append([])
    return [word for run in runs for word in (run if len(run) < _SHORTEST_RANGE else [f"{run[0]}-{run[-1]}"])]


def _fewest(tensors: TensorSet, parts: Sequence[Part], *, weighted: bool) -> tuple[str, ...]:
    """Choose parts that match all of some tensors; none if that cannot be done.

    Args:
        tensors: The tensors to match.
        parts: The parts to choose from.
        weighted: Whether short parts are preferred to those that match many.
    """
    texts: dict[TensorSet, str] = {}
    for part in sorted(parts, key=lambda part: len(part.text)):
        texts.setdefault(part.tensors & tensors, part.text)
    texts.pop(0, None)
    left, chosen = tensors, list[TensorSet]()
    while left and texts:
        gains = [(found & left).bit_count() / (len(text) + 1 if weighted else 1) for found, text in texts.items()]
        chosen.append(list(texts)[gains.index(max(gains))])
        if not chosen[-1] & left:
            return ()
        left &= ~chosen[-1]
    by_length = sorted(chosen, key=lambda found: len(texts[found]))
    return tuple(texts[found] for found in drop_needless(tensors, by_length))


def write_rules(wording: Wording, task: Task, patches: Sequence[Patch]) -> Iterator[tuple[Rule, ...]]:
    """Write patches as rules, in some ways.

    Each rule sets what no other sets right; what others set right as well, it may match or not.

    Args:
        wording: Writes the sides of a rule.
        task: What is asked.
        patches: They solve the task, one after the other.
    """
    for order in (range(len(patches)), range(len(patches) - 1, -1, -1)):
        if rules := _write_in_order(wording, task, list(patches), order):
            yield rules


def _write_in_order(
    wording: Wording, task: Task, patches: list[Patch], order: Sequence[int]
) -> tuple[Rule, ...] | None:
    rules: dict[int, Rule] = {}
    for index in order:
        ratios, _ = patches[index]
        later = union(patch.tensors for patch in patches[index + 1 :])
        must = _set_by_it_alone(task, patches, index) & ~later
        sides = wording.shortest(must, task.harm(Patch(ratios, task.at_stake & ~later))) if must else None
        if must and sides is None:
            return None
        if sides:
            rules[index] = Rule(*sides, *ratios)
        patches[index] = Patch(ratios, task.at_stake & wording.matcher.matching(rules[index]) if sides else 0)
    return tuple(rules[index] for index in sorted(rules))


def _set_by_it_alone(task: Task, patches: Sequence[Patch], index: int) -> TensorSet:
    """Give the tensors that a patch sets right, and that the patches before it do not."""
    wrong = task.wrong
    for patch in patches[:index]:
        wrong = task.wrong_after(patch, wrong)
    return patches[index].tensors & wrong & ~task.harm(patches[index])
