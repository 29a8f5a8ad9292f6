"""What was meant by a part of an element's name that matches nothing in a checkpoint."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

from ..architectures.keys import FULL_KEY_PREFIXES, searched_name
from ..architectures.tensor_sets import TensorSet, members, set_of
from .block_hints import is_of_diffusers, sides_of_key
from .lookalikes import latin_text, plain_text
from .rule_hints import OF_DIFFUSERS
from .rule_matching import RuleMatcher
from .rule_targets import ALL
from .rules import Rule, format_ratio
from .spec_reader import Reader
from .suggestions import digits_of, near_names, offer

_MOST_LISTED = 6


class _Pieces(NamedTuple):
    """Pieces of element names with as many dots as some parts have.

    Attributes:
        names: All of them.
        by_digits: The same by the numbers in them: a name with others is never suggested.
    """

    names: Sequence[str]
    by_digits: Mapping[tuple[int, ...], Sequence[str]]


class PartHints:
    """Says what was meant by parts that match nothing; names that many parts are compared with are listed once.

    Args:
        matcher: Finds the checkpoint's tensors.
    """

    def __init__(self, matcher: RuleMatcher) -> None:
        self._matcher = matcher
        self._elements: dict[tuple[TensorSet, bool], Mapping[str, str]] = {}
        self._pieces: dict[tuple[TensorSet, bool, int], _Pieces] = {}
        self._cuts: dict[tuple[str, int], Sequence[str]] = {}
        self._digits: dict[str, tuple[int, ...]] = {}

    def explain(self, part: str, rule: Rule) -> str:
        """Say what was meant, as the end of a sentence; a suggestion selects what was meant, or nothing is suggested.

        Args:
            part: A part that matches nothing in the rule's blocks.
            rule: The rule.
        """
        tensors = self._matcher.of_blocks(rule.blocks)
        if part.upper() == ALL:
            return f"; for every element, write {ALL} alone, or nothing between the colons"
        latin = latin_text(plain_text(part))
        if latin != part and self._matcher.with_part(latin) & tensors:
            return f'; did you mean "{latin}"? Some of its letters are not Latin ones.'
        if whole := _rule_for_piece_of_key(part, rule, self._matcher):
            return f'; an element\'s name begins after its block: "{whole}"'
        if is_of_diffusers(part):
            return OF_DIFFUSERS
        spellings = self._other_case(part, tensors)
        if len(spellings) == 1:
            return f'; did you mean "{spellings[0]}"?'
        pieces = self._pieces_like(part, tensors)
        near = near_names(part, pieces.by_digits.get(digits_of(part), ()))
        return offer(near) or _list(_other_digits(part, pieces.names) or near)

    def _other_case(self, part: str, tensors: TensorSet) -> list[str]:
        """List the spellings in another case that exist."""
        lower = part.lower()
        spellings: dict[str, None] = {}
        for element, in_lower_case in self._elements_for(part, tensors).items():
            start = in_lower_case.find(lower)
            if start >= 0:
                spellings[element[start : start + len(part)]] = None
        return list(spellings)

    def _pieces_like(self, part: str, tensors: TensorSet) -> _Pieces:
        """List the pieces of element names with as many dots as the part, and these without a number at their end."""
        size = part.count(".") + 1
        kind = tensors, part.startswith(FULL_KEY_PREFIXES), size
        if kind not in self._pieces:
            cut = (self._cut(element, size) for element in self._elements_for(part, tensors))
            names = list(dict.fromkeys(chain.from_iterable(cut)))
            by_digits: dict[tuple[int, ...], list[str]] = defaultdict(list)
            for name in names:
                by_digits[self._digits[name]].append(name)
            self._pieces[kind] = _Pieces(names, by_digits)
        return self._pieces[kind]

    def _cut(self, element: str, size: int) -> Sequence[str]:
        """Give the pieces of so many words, and these without a number at their end; note the numbers in them."""
        if (element, size) not in self._cuts:
            pieces = self._cuts[element, size] = list(_pieces_of(element, size))
            self._digits.update((piece, digits_of(piece)) for piece in pieces if piece not in self._digits)
        return self._cuts[element, size]

    def _elements_for(self, part: str, tensors: TensorSet) -> Mapping[str, str]:
        """Give the names that a part is searched in, each with its lower-case form."""
        kind = tensors, part.startswith(FULL_KEY_PREFIXES)
        if kind not in self._elements:
            names = (searched_name(part, self._matcher.names[index]) for index in members(tensors))
            self._elements[kind] = {name: name.lower() for name in names}
        return self._elements[kind]


def _rule_for_piece_of_key(part: str, rule: Rule, matcher: RuleMatcher) -> str:
    """Write a rule for a piece of a key that reaches over the block, if it selects the same tensors; empty if not."""
    if len(rule.elements.parts) != 1 or rule.elements.inverted or "." not in part:
        return ""
    sides = list(sides_of_key(part))
    wanted = set_of([index for index, name in enumerate(matcher.names) if part in name.key]) if sides else 0
    ratios = [format_ratio(ratio) for ratio in (rule.alpha, rule.beta) if ratio is not None]
    for left in sides if wanted else ():
        whole = ":".join((left, *ratios))
        found = Reader().rule(whole)
        if found is not None and matcher.matching(found) == wanted & matcher.of_blocks(rule.blocks):
            return whole
    return ""


def _pieces_of(element: str, size: int) -> Iterator[str]:
    words = element.split(".")
    for start in range(len(words) - size + 1):
        piece = ".".join(words[start : start + size])
        yield piece
        stem = piece.rstrip("0123456789").rstrip(".")
        if stem:
            yield stem


def _other_digits(part: str, pieces: Sequence[str]) -> list[str]:
    """List the pieces that differ from the part in the digits at their end alone."""
    stem = part.rstrip("0123456789")
    return [piece for piece in pieces if piece != stem and piece.rstrip("0123456789") == stem] if stem != part else []


def _list(names: Sequence[str]) -> str:
    return f"; there are {', '.join(names[:_MOST_LISTED])}" if names else ""
