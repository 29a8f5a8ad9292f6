"""Find the mistakes in the rules or targets of a spec that cannot be read."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from ..architectures.blocks import TEXT_ENCODER, VAE, normalise_block
from ..errors import Span
from .ratio_targets import read_target, split_target
from .rule_targets import ALL
from .rules import NOT
from .spec_errors import MOST_PROBLEMS, Mistake, Problem
from .spec_reader import parse_ratio, split_pieces

_MOST_JOINED = 32

Read = Callable[[str], object]
"""Reads one rule or target; None if it has a mistake."""

_Pieces = Sequence[tuple[str, Span]]


def find_problems(text: str, read: Read, *, is_target: bool) -> list[Problem]:
    """Find the mistakes of a text, up to :data:`.spec_errors.MOST_PROBLEMS`.

    Args:
        text: The whole text; its line ends are newlines.
        read: What reads its rules or targets.
        is_target: Whether it holds targets, which have no ratio.
    """
    diagnostics = _Diagnostics(read, is_target=is_target)
    pieces = list(split_pieces(text))
    index = 0
    with suppress(_TooManyProblems):
        while index < len(pieces):
            index += diagnostics.look_at(pieces, index)
    return diagnostics.problems


class _Field(NamedTuple):
    """A stripped piece of one line; ``line`` counts from 1, ``start`` from 0."""

    text: str
    line: int
    start: int

    def span(self) -> Span:
        return Span(self.line, self.start + 1, max(1, len(self.text)))


class _TooManyProblems(Exception):
    """The text has so many mistakes that it was probably not meant as a spec."""


class _Diagnostics:
    """Finds the mistakes in rules and targets that cannot be read."""

    def __init__(self, read: Read, *, is_target: bool) -> None:
        self.problems: list[Problem] = []
        self._read = read
        self._is_target = is_target
        self._piece = ""

    def look_at(self, pieces: _Pieces, index: int) -> int:
        """Find the mistakes of one piece, and say how many pieces were looked at: more than one if a comma is wrong."""
        self._piece, span = pieces[index]
        count = 0 if self._is_target else _count_joined(pieces, index, self._read)
        if count:
            whole = " ".join(piece for piece, _ in pieces[index : index + count])
            last = pieces[index + count - 1][1]
            length = last.column + last.length - span.column
            self._add(Problem(Span(span.line, span.column, length), Mistake.COMMAS, whole))
        elif self._read(self._piece) is None:
            self._add_problems(_Field(self._piece, span.line, span.column - 1))
        return max(1, count)

    def _add_problems(self, piece: _Field) -> None:
        fields = piece.text.split(":")
        if self._is_target and len(fields) > 2:
            self._fail(piece, Mistake.TARGET_COLONS)
        elif not self._is_target and not 3 <= len(fields) <= 4:
            self._fail(piece, Mistake.COLONS)
        else:
            blocks, *others = _stripped(fields, piece)
            if not self._is_target:
                blocks = self._without_target(blocks, others)
            if blocks.text.upper() != ALL:
                self._blocks(blocks)
            if others and others[0].text.upper() != ALL:
                self._elements(others[0])
            for ratio in others[1:]:
                self._ratio(ratio)

    def _without_target(self, blocks: _Field, others: Sequence[_Field]) -> _Field:
        """Leave out whose ratio a rule sets; the mode's alone has a beta."""
        target, rest = split_target(blocks.text)
        if target and len(others) > 2:
            word = blocks.text.split()[0]
            self._add(Problem(others[2].span(), Mistake.OWNER_BETA, word, self._piece))
        return _Field(rest, blocks.line, blocks.start + len(blocks.text) - len(rest))

    def _blocks(self, field: _Field) -> None:
        for word in self._words(field):
            self._block(word)

    def _block(self, word: _Field) -> None:
        if normalise_block(word.text) is not None:
            return
        ends = word.text.upper().split("-")
        if word.text == "-":
            self._fail(word, Mistake.BARE_DASH)
        elif word.text.upper() == ALL:
            self._fail(word, Mistake.ALL_WITH_OTHERS)
        elif read_target(word.text):
            self._fail(word, Mistake.NO_OWNER if self._is_target else Mistake.LATE_OWNER)
        elif len(ends) == 2 and (TEXT_ENCODER in ends or VAE in ends):
            self._fail(word, Mistake.PART_IN_RANGE)
        else:
            self._fail(word, Mistake.BLOCK)

    def _elements(self, field: _Field) -> None:
        for word in self._words(field):
            if self._read(f":{word.text}" if self._is_target else f":{word.text}:1") is None:
                self._fail(word, Mistake.PART)
            elif word.text.upper() == ALL and self._read(self._piece) is None:
                self._fail(word, Mistake.ALL_WITH_OTHERS)

    def _words(self, field: _Field) -> Iterator[_Field]:
        """Split at white space; a leading NOT is skipped, any other is a mistake."""
        for index, match in enumerate(re.finditer(r"\S+", field.text)):
            word = _Field(match[0], field.line, field.start + match.start())
            if word.text.upper() != NOT:
                yield word
            elif index:
                self._fail(word, Mistake.LATE_NOT)
            elif word.text == field.text:
                self._fail(word, Mistake.EMPTY_NOT)

    def _ratio(self, field: _Field) -> None:
        ratio = parse_ratio(field.text)
        if ratio is None:
            self._fail(field, Mistake.RATIO)
        elif not math.isfinite(ratio):
            self._fail(field, Mistake.INFINITE)

    def _fail(self, field: _Field, mistake: Mistake) -> None:
        self._add(Problem(field.span(), mistake, field.text, self._piece))

    def _add(self, problem: Problem) -> None:
        self.problems.append(problem)
        if len(self.problems) == MOST_PROBLEMS:
            raise _TooManyProblems


def _count_joined(pieces: _Pieces, index: int, read: Read) -> int:
    """Count the pieces from one on that make a rule with spaces instead of the commas between them; 0 if none do."""
    first, span = pieces[index]
    colons = first.count(":")
    words = [first]
    if colons > 1:
        return 0
    for piece, place in pieces[index + 1 : index + _MOST_JOINED]:
        words.append(piece)
        colons += piece.count(":")
        if place.line != span.line or colons > 3:
            return 0
        if colons >= 2:
            whole = " ".join(words)
            return len(words) if read(whole) is not None and _has_plain_parts(whole) else 0
    return 0


def _has_plain_parts(rule: str) -> bool:
    """Tell whether the element side of a rule has neither blocks nor numbers, which belong to rules of their own."""
    parts = rule.split(":")[1].split()
    return all(normalise_block(part) is None and parse_ratio(part) is None for part in parts)


def _stripped(fields: list[str], piece: _Field) -> list[_Field]:
    """Strip the fields of a piece, and locate them."""
    located, start = [], piece.start
    for field in fields:
        text = field.strip()
        located.append(_Field(text, piece.line, start + field.find(text)))
        start += len(field) + 1
    return located
