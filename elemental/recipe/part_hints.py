"""What was meant by a part of an element's name that matches nothing in a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable

from ..architectures.keys import searched_name
from ..architectures.tensor_sets import TensorSet, members
from .block_hints import is_of_diffusers, sides_of_key
from .lookalikes import latin_text, plain_text
from .rule_hints import OF_DIFFUSERS
from .rule_matching import RuleMatcher
from .rule_targets import ALL
from .rules import Rule, format_ratio
from .spec_reader import Reader
from .suggestions import near_names, suggest

_MOST_LISTED = 6


def explain_absent_part(part: str, rule: Rule, matcher: RuleMatcher) -> str:
    """Say what was meant, as the end of a sentence; what is suggested selects what was meant, or nothing is suggested.

    Args:
        part: A part that matches nothing in the rule's blocks.
        rule: The rule.
        matcher: Finds the checkpoint's tensors.
    """
    tensors = matcher.of_blocks(rule.blocks)
    if part.upper() == ALL:
        return f"; for every element, write {ALL} alone, or nothing between the colons"
    latin = latin_text(plain_text(part))
    if latin != part and matcher.with_part(latin) & tensors:
        return f'; did you mean "{latin}"? Some of its letters are not Latin ones.'
    if whole := _rule_for_piece_of_key(part, rule, matcher):
        return f'; an element\'s name begins after its block: "{whole}"'
    if is_of_diffusers(part):
        return OF_DIFFUSERS
    spellings = _other_case(part, tensors, matcher)
    if len(spellings) == 1:
        return f'; did you mean "{spellings[0]}"?'
    pieces = _pieces(part, tensors, matcher)
    return suggest(part, pieces) or _list_alike(part, pieces)


def _rule_for_piece_of_key(part: str, rule: Rule, matcher: RuleMatcher) -> str:
    """Write a rule for a piece of a key that reaches over the block, if it selects the same tensors; empty if not."""
    if len(rule.elements.parts) != 1 or rule.elements.inverted or "." not in part:
        return ""
    wanted = sum(1 << index for index, name in enumerate(matcher.names) if part in name.key)
    ratios = [format_ratio(ratio) for ratio in (rule.alpha, rule.beta) if ratio is not None]
    for left in sides_of_key(part) if wanted else ():
        whole = ":".join((left, *ratios))
        found = Reader().rule(whole)
        if found is not None and matcher.matching(found) == wanted & matcher.of_blocks(rule.blocks):
            return whole
    return ""


def _other_case(part: str, tensors: TensorSet, matcher: RuleMatcher) -> list[str]:
    """List the spellings in another case that exist."""
    lower = part.lower()
    spellings: dict[str, None] = {}
    for element in _elements(part, tensors, matcher):
        start = element.lower().find(lower)
        if start >= 0:
            spellings[element[start : start + len(part)]] = None
    return list(spellings)


def _pieces(part: str, tensors: TensorSet, matcher: RuleMatcher) -> list[str]:
    """List the pieces of element names with as many dots as the part, and these without a number at their end."""
    size = part.count(".") + 1
    pieces: dict[str, None] = {}
    for element in _elements(part, tensors, matcher):
        words = element.split(".")
        for start in range(len(words) - size + 1):
            piece = ".".join(words[start : start + size])
            pieces[piece] = None
            stem = piece.rstrip("0123456789").rstrip(".")
            if stem:
                pieces[stem] = None
    return list(pieces)


def _elements(part: str, tensors: TensorSet, matcher: RuleMatcher) -> Iterable[str]:
    return dict.fromkeys(searched_name(part, matcher.names[index]) for index in members(tensors))


def _list_alike(part: str, pieces: list[str]) -> str:
    """List pieces that differ from the part in their digits alone, or that many others are as near as."""
    stem = part.rstrip("0123456789")
    same = [piece for piece in pieces if piece != stem and piece.rstrip("0123456789") == stem] if stem != part else []
    same = same or near_names(part, pieces)
    return f"; there are {', '.join(same[:_MOST_LISTED])}" if same else ""
