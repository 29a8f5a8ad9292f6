"""Elemental spec: text -> rules, by this grammar.

::

    spec     = rule { separator rule }            separator = "," or line end; empty pieces are skipped
    rule     = blocks ":" elements ":" ratio [ ":" ratio_beta ]
    blocks   = "" | ["NOT"] name { space name }   name = BASE | TE | VAE | IN00.. | M00 | OUT00.. | name-name
    elements = "" | ["NOT"] part { space part }   part = any piece of an element's name
    ratio    = a finite decimal number
    comment  = "#" to the end of the line

All mistakes of a text are reported together, each with its place.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from ..errors import Span
from .blocks import TEXT_ENCODER, VAE, normalise_block
from .problems import Mistake, Problem, spec_error, split_lines
from .rules import NOT, BlockSelector, ElementSelector, Rule, RuleSet
from .targets import ALL, Target

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


class _Field(NamedTuple):
    """A stripped piece of one line; ``line`` counts from 1, ``start`` from 0."""

    text: str
    line: int
    start: int

    def span(self) -> Span:
        return Span(self.line, self.start + 1, max(1, len(self.text)))


def parse_rules(text: str, *, name: str = "spec") -> RuleSet:
    """Read the rules of an elemental spec.

    Args:
        text: The spec; empty, or nothing but comments, gives no rules.
        name: What to call the text in errors, "spec" or a file name.

    Raises:
        SpecError: With every mistake of the text, each with line, column, caret and what is allowed.
    """
    parser = _Parser()
    rules, spans = [], []
    for piece in _pieces(text):
        rule = parser.rule(piece)
        if rule is not None:
            rules.append(rule)
            spans.append(piece.span())
    if parser.problems:
        raise spec_error(parser.problems, text, name=name)
    return RuleSet(tuple(rules), text, tuple(spans), name)


def parse_targets(text: str, *, name: str = "elements") -> tuple[Target, ...]:
    """Read what one ratio shall be tried on: ``blocks:elements`` or ``blocks``, separated like rules.

    Either side may be the word ALL; see :class:`Target`.

    Args:
        text: The targets.
        name: What to call the text in errors.

    Raises:
        SpecError: With every mistake of the text.
    """
    parser = _Parser()
    targets = [parser.target(piece) for piece in _pieces(text)]
    if parser.problems:
        raise spec_error(parser.problems, text, name=name)
    return tuple(target for target in targets if target is not None)


def parse_ratio(text: str) -> float | None:
    """Read a decimal number, or give None for whatever else; a number too large for a float is infinite."""
    return float(text) if _NUMBER.fullmatch(text) else None


def _pieces(text: str) -> Iterator[_Field]:
    for number, line in enumerate(split_lines(text), 1):
        start = 0
        for piece in line.partition("#")[0].split(","):
            field = _strip(piece, number, start)
            if field.text:
                yield field
            start += len(piece) + 1


def _strip(text: str, line: int, start: int) -> _Field:
    stripped = text.strip()
    return _Field(stripped, line, start + text.find(stripped))


class _Parser:
    """Reads rules one by one, and collects what is wrong with them.

    The same blocks, elements and ratios come again and again in a long spec: each spelling is read once.
    """

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._blocks: dict[str, BlockSelector] = {"": BlockSelector()}
        self._elements: dict[str, ElementSelector] = {"": ElementSelector()}
        self._ratios: dict[str, float] = {}

    def rule(self, piece: _Field) -> Rule | None:
        fields = piece.text.split(":")
        if not 3 <= len(fields) <= 4:
            self._fail(piece, Mistake.COLONS)
            return None
        texts = [field.strip() for field in fields]
        blocks = self._blocks.get(texts[0])
        elements = self._elements.get(texts[1])
        ratios = [self._ratios.get(text) for text in texts[2:]]
        if blocks is None or elements is None or None in ratios:
            placed = _place(fields, piece)
            blocks = self._read_blocks(placed[0])
            elements = self._read_elements(placed[1])
            ratios = [self._read_ratio(field) for field in placed[2:]]
        beta = ratios[1] if len(ratios) == 2 else None
        if blocks is None or elements is None or ratios[0] is None or (len(ratios) == 2 and beta is None):
            return None
        return Rule(blocks, elements, ratios[0], beta)

    def target(self, piece: _Field) -> Target | None:
        fields = piece.text.split(":")
        if len(fields) > 2:
            self._fail(piece, Mistake.TARGET_COLONS)
            return None
        placed = _place([*fields, ""][:2], piece)
        each = [field.text.upper() == ALL for field in placed]
        blocks = BlockSelector() if each[0] else self._read_blocks(placed[0])
        elements = ElementSelector() if each[1] else self._read_elements(placed[1])
        if blocks is None or elements is None:
            return None
        return Target(blocks, elements, each_block=each[0], each_element=each[1])

    def _read_blocks(self, field: _Field) -> BlockSelector | None:
        words = self._words(field)
        if words is None:
            return None
        inverted, fields = words
        names = [self._block(word) for word in fields]
        if None in names:
            return None
        return self._blocks.setdefault(field.text, BlockSelector(tuple(filter(None, names)), inverted))

    def _block(self, word: _Field) -> str | None:
        name = normalise_block(word.text)
        if name is None:
            ends = word.text.upper().split("-")
            if word.text == "-":
                self._fail(word, Mistake.BARE_DASH)
            elif len(ends) == 2 and (TEXT_ENCODER in ends or VAE in ends):
                self._fail(word, Mistake.PART_IN_RANGE)
            else:
                self._fail(word, Mistake.BLOCK)
        return name

    def _read_elements(self, field: _Field) -> ElementSelector | None:
        words = self._words(field)
        if words is None:
            return None
        inverted, fields = words
        return self._elements.setdefault(field.text, ElementSelector(tuple(word.text for word in fields), inverted))

    def _words(self, field: _Field) -> tuple[bool, list[_Field]] | None:
        """Split at white space, take NOT off the front, and refuse it everywhere else."""
        words = [_Field(found[0], field.line, field.start + found.start()) for found in re.finditer(r"\S+", field.text)]
        inverted = bool(words) and words[0].text.upper() == NOT
        if inverted and len(words) == 1:
            self._fail(words[0], Mistake.EMPTY_NOT)
            return None
        late = [word for word in words[inverted:] if word.text.upper() == NOT]
        for word in late:
            self._fail(word, Mistake.LATE_NOT)
        return None if late else (inverted, words[inverted:])

    def _read_ratio(self, field: _Field) -> float | None:
        ratio = parse_ratio(field.text)
        if ratio is None:
            self._fail(field, Mistake.RATIO)
            return None
        if not math.isfinite(ratio):
            self._fail(field, Mistake.INFINITE)
            return None
        return self._ratios.setdefault(field.text, ratio)

    def _fail(self, field: _Field, mistake: Mistake) -> None:
        self.problems.append(Problem(field.span(), mistake, field.text))


def _place(fields: list[str], piece: _Field) -> list[_Field]:
    placed, start = [], piece.start
    for field in fields:
        placed.append(_strip(field, piece.line, start))
        start += len(field) + 1
    return placed
