"""Read one rule or target of a spec; what has a mistake is None, and explained elsewhere."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import TypeVar

from ..architectures.blocks import normalise_block
from ..errors import Span
from .ratio_targets import split_target
from .rule_targets import ALL, Target
from .rules import NOT, BlockSelector, ElementSelector, Rule

_T = TypeVar("_T")
_PIECE = re.compile(r"#[^\n]*|[^\s,#][^,#\n]*")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
ODD_PART = re.compile(r"""[!*;%"'`()\[\]{}|+&/\\<>=~^$?@]|^-""")
"""Characters that no element's name has: a part with them was meant as something else."""


def parse_ratio(text: str) -> float | None:
    """Read a decimal number; None if the text is anything else, infinity if the number is too large for a float."""
    return float(text) if _NUMBER.fullmatch(text) else None


def split_pieces(text: str) -> Iterator[tuple[str, Span]]:
    """Split a text at separators, without comments; its line ends are newlines."""
    line, line_start, end = 1, 0, 0
    for match in _PIECE.finditer(text):
        piece, start = match[0], match.start()
        if piece[0] == "#":
            continue
        newlines = text.count("\n", end, start)
        if newlines:
            line, line_start = line + newlines, text.rfind("\n", end, start) + 1
        end = start
        piece = piece.rstrip()
        yield piece, Span(line, start - line_start + 1, len(piece))


class Reader:
    """Reads rules and targets without mistakes, and gives None for others.

    Blocks, elements and ratios repeat in long specs: each spelling is read once.

    Args:
        recorded: Whether the text was written by this program: there ALL in a rule is a part of a name like others.
    """

    def __init__(self, *, recorded: bool = False) -> None:
        self._read_blocks = _read_block_names if recorded else _read_blocks
        self._read_elements = _read_parts if recorded else _read_elements
        self._blocks: dict[str, BlockSelector | None] = {}
        self._sides: dict[str, tuple[str, BlockSelector] | None] = {}
        self._elements: dict[str, ElementSelector | None] = {}
        self._ratios: dict[str, float | None] = {}

    def rule(self, piece: str) -> Rule | None:
        """Read a rule."""
        fields = piece.split(":")
        if not 3 <= len(fields) <= 4:
            return None
        side = _once(self._sides, fields[0], self._read_side)
        elements = _once(self._elements, fields[1], self._read_elements)
        alpha = _once(self._ratios, fields[2], _read_ratio)
        beta = _once(self._ratios, fields[3], _read_ratio) if len(fields) == 4 else None
        if side is None or elements is None or alpha is None or (len(fields) == 4 and beta is None):
            return None
        target, blocks = side
        return None if target and beta is not None else Rule(blocks, elements, alpha, beta, target)

    def target(self, piece: str) -> Target | None:
        """Read a target."""
        fields = [*(field.strip() for field in piece.split(":")), ""]
        if len(fields) > 3:
            return None
        each = [text.upper() == ALL for text in fields]
        blocks = BlockSelector() if each[0] else _once(self._blocks, fields[0], self._read_blocks)
        elements = ElementSelector() if each[1] else _once(self._elements, fields[1], self._read_elements)
        if blocks is None or elements is None:
            return None
        return Target(blocks, elements, each_block=each[0], each_element=each[1])

    def _read_side(self, text: str) -> tuple[str, BlockSelector] | None:
        target, rest = split_target(text)
        blocks = _once(self._blocks, rest, self._read_blocks)
        return None if blocks is None else (target, blocks)


def split_not(text: str) -> tuple[bool, list[str]]:
    """Split at white space; a leading NOT is removed and reported."""
    words = text.split()
    inverted = bool(words) and words[0].upper() == NOT
    return inverted, words[inverted:]


def _once(cache: dict[str, _T | None], text: str, read: Callable[[str], _T | None]) -> _T | None:
    if text not in cache:
        cache[text] = read(text)
    return cache[text]


def _read_blocks(text: str) -> BlockSelector | None:
    return BlockSelector() if text.strip().upper() == ALL else _read_block_names(text)


def _read_block_names(text: str) -> BlockSelector | None:
    inverted, words = split_not(text)
    names = []
    for word in words:
        name = normalise_block(word)
        if name is None:
            return None
        names.append(name)
    return None if len(names) < inverted else BlockSelector(tuple(names), inverted)


def _read_elements(text: str) -> ElementSelector | None:
    if text.strip().upper() == ALL:
        return ElementSelector()
    selector = _read_parts(text)
    wrong = selector is not None and any(part.upper() == ALL or ODD_PART.search(part) for part in selector.parts)
    return None if wrong else selector


def _read_parts(text: str) -> ElementSelector | None:
    inverted, words = split_not(text)
    wrong = len(words) < inverted or (NOT in text.upper() and any(word.upper() == NOT for word in words))
    return None if wrong else ElementSelector(tuple(words), inverted)


def _read_ratio(text: str) -> float | None:
    ratio = parse_ratio(text.strip())
    return ratio if ratio is not None and math.isfinite(ratio) else None
