"""Read the text of an elemental spec into rules.

::

    spec     = rule { separator rule }            separator = "," or line end; empty rules are skipped
    rule     = blocks ":" elements ":" ratio [ ":" ratio_beta ]
    blocks   = "" | ["NOT"] name { space name }   name = BASE | TE | VAE | IN00.. | M00 | OUT00.. | name-name
    elements = "" | ["NOT"] part { space part }   part = any piece of an element's name
    ratio    = a finite decimal number
    comment  = "#" to the end of the line

All mistakes of a text are reported together, each with line and column.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple, TypeVar

from ..architectures.blocks import TEXT_ENCODER, VAE, normalise_block
from ..errors import Span
from .rule_targets import ALL, Target
from .rules import NOT, BlockSelector, ElementSelector, Rule, RuleSet
from .spec_errors import MOST_PROBLEMS, Mistake, Problem, plain_line_ends, spec_error

_T = TypeVar("_T")
_PIECE = re.compile(r"#[^\n]*|[^\s,#][^,#\n]*")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def parse_rules(text: str, *, name: str = "spec") -> RuleSet:
    """Read the rules of an elemental spec.

    Args:
        text: The spec; a text that is empty or has only comments gives no rules.
        name: How errors call the text: "spec" or a file name.

    Raises:
        SpecError: The text has mistakes. The error lists them all, up to a thousand, with line, column, caret and what
            is allowed.
    """
    rules, spans = _read_all(text, _Reader.rule, name)
    return RuleSet(tuple(rules), text, tuple(spans), name)


def parse_targets(text: str, *, name: str = "elements") -> tuple[Target, ...]:
    """Read the targets of an element check: ``blocks:elements`` or ``blocks``, separated like rules.

    Either side can be the word ALL; see :class:`Target`.

    Args:
        text: The targets.
        name: How errors call the text.

    Raises:
        SpecError: The text has mistakes; the error lists them as for rules.
    """
    return tuple(_read_all(text, _Reader.target, name)[0])


def parse_ratio(text: str) -> float | None:
    """Read a decimal number; None if the text is anything else, infinity if the number is too large for a float."""
    return float(text) if _NUMBER.fullmatch(text) else None


def _read_all(text: str, read: Callable[[_Reader, str], _T | None], name: str) -> tuple[list[_T], list[Span]]:
    """Read the rules or targets of a text, each with its place; equal ones are read once."""
    reader, diagnostics = _Reader(), _Diagnostics(is_target=read is _Reader.target)
    cache: dict[str, _T] = {}
    values, spans = [], []
    with suppress(_TooManyProblems):
        for piece, span in _pieces(text):
            value = cache.get(piece) or read(reader, piece)
            if value is None:
                diagnostics.add_problems(_Field(piece, span.line, span.column - 1))
                continue
            cache[piece] = value
            values.append(value)
            spans.append(span)
    if diagnostics.problems:
        raise spec_error(diagnostics.problems, text, name=name)
    return values, spans


def _pieces(text: str) -> Iterator[tuple[str, Span]]:
    """Split a text at separators, without comments."""
    text = plain_line_ends(text)
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


class _Reader:
    """Reads rules and targets without mistakes, and gives None for others.

    Blocks, elements and ratios repeat in long specs: each spelling is read once.
    """

    def __init__(self) -> None:
        self._blocks: dict[str, BlockSelector | None] = {}
        self._elements: dict[str, ElementSelector | None] = {}
        self._ratios: dict[str, float | None] = {}

    def rule(self, piece: str) -> Rule | None:
        fields = piece.split(":")
        if not 3 <= len(fields) <= 4:
            return None
        blocks = _once(self._blocks, fields[0], _read_blocks)
        elements = _once(self._elements, fields[1], _read_elements)
        alpha = _once(self._ratios, fields[2], _read_ratio)
        beta = _once(self._ratios, fields[3], _read_ratio) if len(fields) == 4 else None
        if blocks is None or elements is None or alpha is None or (len(fields) == 4 and beta is None):
            return None
        return Rule(blocks, elements, alpha, beta)

    def target(self, piece: str) -> Target | None:
        fields = [*(field.strip() for field in piece.split(":")), ""]
        if len(fields) > 3:
            return None
        each = [text.upper() == ALL for text in fields]
        blocks = BlockSelector() if each[0] else _once(self._blocks, fields[0], _read_blocks)
        elements = ElementSelector() if each[1] else _once(self._elements, fields[1], _read_elements)
        if blocks is None or elements is None:
            return None
        return Target(blocks, elements, each_block=each[0], each_element=each[1])


def _once(cache: dict[str, _T | None], text: str, read: Callable[[str], _T | None]) -> _T | None:
    if text not in cache:
        cache[text] = read(text)
    return cache[text]


def _read_blocks(text: str) -> BlockSelector | None:
    inverted, words = _split(text)
    names = []
    for word in words:
        name = normalise_block(word)
        if name is None:
            return None
        names.append(name)
    return None if len(names) < inverted else BlockSelector(tuple(names), inverted)


def _read_elements(text: str) -> ElementSelector | None:
    inverted, words = _split(text)
    wrong = len(words) < inverted or (NOT in text.upper() and any(word.upper() == NOT for word in words))
    return None if wrong else ElementSelector(tuple(words), inverted)


def _split(text: str) -> tuple[bool, list[str]]:
    """Split at white space; a leading NOT is removed and reported."""
    words = text.split()
    inverted = bool(words) and words[0].upper() == NOT
    return inverted, words[inverted:]


def _read_ratio(text: str) -> float | None:
    ratio = parse_ratio(text.strip())
    return ratio if ratio is not None and math.isfinite(ratio) else None


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

    def __init__(self, *, is_target: bool) -> None:
        self.problems: list[Problem] = []
        self._is_target = is_target

    def add_problems(self, piece: _Field) -> None:
        fields = piece.text.split(":")
        if self._is_target and len(fields) > 2:
            self._fail(piece, Mistake.TARGET_COLONS)
        elif not self._is_target and not 3 <= len(fields) <= 4:
            self._fail(piece, Mistake.COLONS)
        else:
            blocks, *others = _stripped(fields, piece)
            if not (self._is_target and blocks.text.upper() == ALL):
                self._blocks(blocks)
            if others and not (self._is_target and others[0].text.upper() == ALL):
                self._elements(others[0])
            for ratio in others[1:]:
                self._ratio(ratio)

    def _blocks(self, field: _Field) -> None:
        for word in self._words(field):
            self._block(word)

    def _block(self, word: _Field) -> None:
        if normalise_block(word.text) is not None:
            return
        ends = word.text.upper().split("-")
        if word.text == "-":
            self._fail(word, Mistake.BARE_DASH)
        elif len(ends) == 2 and (TEXT_ENCODER in ends or VAE in ends):
            self._fail(word, Mistake.PART_IN_RANGE)
        else:
            self._fail(word, Mistake.BLOCK)

    def _elements(self, field: _Field) -> None:
        for _ in self._words(field):
            pass  # any word can be a part of an element's name; only NOT can be misplaced

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
        self.problems.append(Problem(field.span(), mistake, field.text))
        if len(self.problems) == MOST_PROBLEMS:
            raise _TooManyProblems


def _stripped(fields: list[str], piece: _Field) -> list[_Field]:
    """Strip the fields of a piece, and locate them."""
    located, start = [], piece.start
    for field in fields:
        text = field.strip()
        located.append(_Field(text, piece.line, start + field.find(text)))
        start += len(field) + 1
    return located
