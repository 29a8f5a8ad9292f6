"""What was meant by a part of an element's name that matches nothing in a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

from ..architectures.tensor_sets import NameSearch, TensorSet
from .block_hints import is_of_diffusers, sides_of_key
from .lookalikes import latin_text, plain_text
from .name_pieces import NamePieces
from .rule_hints import OF_DIFFUSERS
from .rule_matching import RuleMatcher
from .rule_targets import ALL
from .rules import Rule, format_ratio
from .spec_reader import Reader
from .suggestions import offer

_MOST_LISTED = 6


class PartHints:
    """Says what was meant by parts that match nothing; names that many parts are compared with are listed once.

    Args:
        matcher: Finds the checkpoint's tensors.
    """

    def __init__(self, matcher: RuleMatcher) -> None:
        self._matcher = matcher
        self._lower_case: dict[bool, NameSearch] = {}
        self._pieces: dict[tuple[bool, int], NamePieces] = {}

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
            return f'; did you mean "{spellings.pop()}"?'
        pieces = self._pieces_like(part)
        near = pieces.near(part, tensors)
        return offer(near) or _list(pieces.with_other_digits(part, tensors) or near)

    def _other_case(self, part: str, tensors: TensorSet) -> set[str]:
        """List the spellings in another case that exist."""
        lower, search = part.lower(), self._matcher.searched(part)
        is_key = search is not self._matcher.elements
        if is_key not in self._lower_case:
            self._lower_case[is_key] = _in_lower_case(search)
        if not self._lower_case[is_key].containing(lower) & tensors:
            return set()
        spellings = set()
        for name, own in search.names.items():
            start = name.lower().find(lower) if own & tensors else -1
            if start >= 0:
                spellings.add(name[start : start + len(part)])
        return spellings

    def _pieces_like(self, part: str) -> NamePieces:
        """Give the pieces of names with as many dots as the part."""
        search, size = self._matcher.searched(part), part.count(".") + 1
        kind = search is not self._matcher.elements, size
        if kind not in self._pieces:
            self._pieces[kind] = NamePieces(search, size)
        return self._pieces[kind]


def _in_lower_case(search: NameSearch) -> NameSearch:
    """Give what finds names in lower case: nearly always the same."""
    if all(name == name.lower() for name in search.names):
        return search
    names: dict[str, TensorSet] = {}
    for name, tensors in search.names.items():
        names[name.lower()] = names.get(name.lower(), 0) | tensors
    return NameSearch(names)


def _rule_for_piece_of_key(part: str, rule: Rule, matcher: RuleMatcher) -> str:
    """Write a rule for a piece of a key that reaches over the block, if it selects the same tensors; empty if not."""
    if len(rule.elements.parts) != 1 or rule.elements.inverted or "." not in part:
        return ""
    sides = list(sides_of_key(part))
    wanted = matcher.keys.containing(part) if sides else 0
    ratios = [format_ratio(ratio) for ratio in (rule.alpha, rule.beta) if ratio is not None]
    for left in sides if wanted else ():
        whole = ":".join((left, *ratios))
        found = Reader().rule(whole)
        if found is not None and matcher.matching(found) == wanted & matcher.of_blocks(rule.blocks):
            return whole
    return ""


def _list(names: Sequence[str]) -> str:
    return f"; there are {', '.join(names[:_MOST_LISTED])}" if names else ""
