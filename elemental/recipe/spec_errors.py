"""Messages for mistakes in a spec: line and column, a caret, what is allowed, and the nearest valid name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from enum import Enum, auto
from typing import NamedTuple

from ..architectures.blocks import ARCHITECTURES, RULE_NAMES, TEXT_ENCODER, VAE
from ..errors import Span, SpecError, SpecProblem

_FORM = "A rule is blocks:elements:ratio or blocks:elements:ratio:beta, as in OUT03 OUT04:attn2:0.5"
_LOOKALIKES = {"\uff1a": ":", "\uff0c": ",", "\u3001": ",", "\uff0e": "."}
_MOST_LISTED = 100  # the mistakes after these are counted only
MOST_PROBLEMS = 1000
"""Reading stops after this many mistakes: the text was probably not meant as a spec."""
_LINE_WINDOW = 100  # characters shown of a long line


class Mistake(Enum):
    """The kinds of mistakes in a spec."""

    COLONS = auto()
    TARGET_COLONS = auto()
    BLOCK = auto()
    BARE_DASH = auto()
    PART_IN_RANGE = auto()
    EMPTY_NOT = auto()
    LATE_NOT = auto()
    RATIO = auto()
    INFINITE = auto()


class Problem(NamedTuple):
    """One mistake; its message is made when it is read, as a long text can have thousands of mistakes."""

    span: Span
    mistake: Mistake
    piece: str

    @property
    def message(self) -> str:
        """What is wrong, with the nearest valid spelling."""
        return _message(self.mistake, _shorten(self.piece)) + _lookalike(self.piece)

    @property
    def allowed(self) -> str:
        """What is allowed instead."""
        return _allowed(self.mistake)


class PlainProblem(NamedTuple):
    """A problem with a given message."""

    span: Span
    message: str
    allowed: str = ""


def spec_error(problems: Sequence[SpecProblem], source: str, *, name: str = "spec") -> SpecError:
    """Make one error for all problems of a text.

    Args:
        problems: The problems, at least one, in the order of the text.
        source: The whole text.
        name: How the message calls the text: "spec" or a file name.
    """
    lines = split_lines(source)
    parts: list[str] = []
    for problem in problems[:_MOST_LISTED]:
        parts += _render(problem, lines[problem.span.line - 1], name)
        if problem.allowed not in parts:  # the same advice is given once
            parts.append(problem.allowed)
    if len(problems) > _MOST_LISTED:
        least = "at least " if len(problems) == MOST_PROBLEMS else ""
        parts.append(f"... and {least}{len(problems) - _MOST_LISTED} more mistakes")
    return SpecError("\n".join(parts), problems)


def split_lines(text: str) -> list[str]:
    """Split a text at line ends of any system, and at nothing else."""
    return plain_line_ends(text).split("\n")


def plain_line_ends(text: str) -> str:
    """Replace the line ends of any system by newlines."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def suggest(word: str, names: Iterable[str]) -> str:
    """Suggest the nearest name, as the end of a sentence; empty if none is near."""
    nearest = difflib.get_close_matches(word, list(names), n=1, cutoff=0.65)
    return f'; did you mean "{nearest[0]}"?' if nearest else ""


def suggest_block(word: str, names: Iterable[str]) -> str:
    """Suggest the nearest block, as the end of a sentence: of the same side the one with the nearest number."""
    numbered = re.fullmatch(r"(IN|OUT|M)([0-9]{1,6})", word.upper())
    if numbered is None:
        return suggest(word.upper(), names)
    side, number = numbered[1], int(numbered[2])
    same_side = [name for name in names if re.fullmatch(rf"{side}[0-9]+", name)]
    closest = min(same_side, key=lambda name: abs(int(name.removeprefix(side)) - number), default=None)
    return f'; did you mean "{closest}"?' if closest else ""


def _message(mistake: Mistake, piece: str) -> str:
    if mistake is Mistake.COLONS:
        return f"a rule has two or three colons{_colon_hint(piece)}"
    if mistake is Mistake.TARGET_COLONS:
        return "a target is blocks or blocks:elements, without a ratio"
    if mistake is Mistake.BLOCK:
        return f'unknown block "{piece}"{suggest_block(piece, RULE_NAMES)}'
    if mistake is Mistake.PART_IN_RANGE:
        return f'"{piece}" is not a range: {TEXT_ENCODER} and {VAE} cannot be in ranges'
    return {
        Mistake.BARE_DASH: "a range is written without spaces",
        Mistake.EMPTY_NOT: "NOT with nothing after it",
        Mistake.LATE_NOT: "NOT must come first; it inverts everything after it",
        Mistake.RATIO: f'the ratio "{piece}" is not a number' if piece else "the ratio is missing",
        Mistake.INFINITE: f"the ratio {piece} is too large",
    }[mistake]


def _allowed(mistake: Mistake) -> str:
    if mistake is Mistake.COLONS:
        return f"{_FORM}."
    if mistake is Mistake.BLOCK:
        return _allowed_blocks()
    return {
        Mistake.TARGET_COLONS: "Write OUT05:attn2 for some elements, OUT05 for a whole block, ALL for every block.",
        Mistake.BARE_DASH: "Write IN03-IN06.",
        Mistake.PART_IN_RANGE: "Write them next to the range, as in BASE-IN03 TE.",
        Mistake.EMPTY_NOT: "NOT OUT04 is every block except OUT04; for every block, write nothing before the colon.",
        Mistake.LATE_NOT: "To include some and exclude others, write two rules; the later rule wins.",
        Mistake.RATIO: "A ratio is a decimal number such as 1, .5, 0.25, -0.3 or 1e-1.",
        Mistake.INFINITE: "A ratio is a finite number, usually from 0 to 1.",
    }[mistake]


def _colon_hint(piece: str) -> str:
    if re.fullmatch(r"\d+", piece):
        return "; if this is a ratio, use a decimal point, as in 0.5"
    if re.fullmatch(r"[^:]*:\s*[-+.\d]+", piece):
        return "; a ratio for whole blocks is written with two colons, as in OUT05::1"
    return ""


def _lookalike(piece: str) -> str:
    char = next((char for char in piece if char in _LOOKALIKES), None)
    return f'; replace the full-width "{char}" by "{_LOOKALIKES[char]}"' if char else ""


def _allowed_blocks() -> str:
    by_blocks: dict[str, list[str]] = {}
    for architecture in ARCHITECTURES:
        by_blocks.setdefault(architecture.block_summary, []).append(architecture.name)
    tables = [
        f"{' and '.join(names)} {'have' if len(names) > 1 else 'has'} {blocks}" for blocks, names in by_blocks.items()
    ]
    return f"{'; '.join(tables)}. {TEXT_ENCODER} and {VAE} are the two parts of BASE."


def _shorten(piece: str) -> str:
    return piece if len(piece) <= 60 else f"{piece[:57]}..."


def _render(problem: SpecProblem, line: str, name: str) -> list[str]:
    span = problem.span
    return [f"{name}, line {span.line}, column {span.column}: {problem.message}", *_caret(line, span)]


def _caret(line: str, span: Span) -> tuple[str, str]:
    """Quote a line, or the part of a long one around the mistake, with carets below the mistake."""
    start = span.column - 1
    first = max(0, start - _LINE_WINDOW // 2)
    quoted = line[first : first + _LINE_WINDOW].replace("\t", " ")
    length = max(1, min(span.length, first + len(quoted) - start))
    return f"    {quoted}".rstrip(), " " * (4 + start - first) + "^" * length
