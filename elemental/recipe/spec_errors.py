"""Messages for mistakes in a spec: line and column, a caret, what is allowed, and the nearest valid name."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto
from typing import NamedTuple

from ..architectures.blocks import ARCHITECTURES, TEXT_ENCODER, VAE, Architecture
from ..errors import Span, SpecError, SpecProblem
from .rule_hints import explain_block, explain_colons, explain_part, explain_ratio
from .rule_targets import ALL
from .rules import NOT

NO_SECOND_RATIO = (
    "The ratio of a LoRA or a further model is one number, so such a rule has two colons, as in lora.detail OUT03::0.5."
)
"""What is allowed instead of a beta after a target."""
_FORM = "A rule is blocks:elements:ratio or blocks:elements:ratio:beta, as in OUT03 OUT04:attn2:0.5"
_MOST_LISTED = 100  # the mistakes after these are counted only
MOST_PROBLEMS = 1000
"""Reading stops after this many mistakes: the text was probably not meant as a spec."""
_LINE_WINDOW = 100  # characters shown of a long line
_LONGEST_EXPLAINED = 300  # characters of a rule; what is longer was not meant as one


class Mistake(Enum):
    """The kinds of mistakes in a spec."""

    COLONS = auto()
    COMMAS = auto()
    TARGET_COLONS = auto()
    BLOCK = auto()
    PART = auto()
    ALL_WITH_OTHERS = auto()
    BARE_DASH = auto()
    PART_IN_RANGE = auto()
    EMPTY_NOT = auto()
    LATE_NOT = auto()
    LATE_OWNER = auto()
    NO_OWNER = auto()
    OWNER_BETA = auto()
    RATIO = auto()
    INFINITE = auto()


class Problem(NamedTuple):
    """One mistake; its message is made when it is read, as a long text can have thousands of mistakes.

    Attributes:
        span: Its place.
        mistake: Its kind.
        piece: The text that is wrong.
        rule: The rule or target that it is in.
    """

    span: Span
    mistake: Mistake
    piece: str
    rule: str = ""

    @property
    def message(self) -> str:
        """What is wrong, with what was meant if that is certain."""
        if max(len(self.piece), len(self.rule)) > _LONGEST_EXPLAINED:
            return _message(self.mistake, _shorten(self.piece))
        shown = self.piece if self.mistake is Mistake.COMMAS else _shorten(self.piece)
        return _message(self.mistake, shown) + _explain(self.mistake, self.piece, self.rule)

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


def for_architecture(error: SpecError, architecture: Architecture) -> SpecError:
    """Give an error that names the blocks of one architecture alone, where it names those of all."""
    text = str(error).replace(_allowed_blocks(ARCHITECTURES), _allowed_blocks([architecture]))
    return SpecError(text, error.problems)


def split_lines(text: str) -> list[str]:
    """Split a text at line ends of any system, and at nothing else."""
    return plain_line_ends(text).split("\n")


def plain_line_ends(text: str) -> str:
    """Replace the line ends of any system by newlines."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _message(mistake: Mistake, piece: str) -> str:
    return {
        Mistake.COLONS: "a rule has two or three colons",
        Mistake.COMMAS: f'commas separate rules; several blocks or elements have spaces between: "{piece}"',
        Mistake.TARGET_COLONS: "a target is blocks or blocks:elements, without a ratio",
        Mistake.BLOCK: f'unknown block "{piece}"',
        Mistake.PART: f'no element has "{piece}" in its name',
        Mistake.ALL_WITH_OTHERS: f"{ALL} stands alone, without {NOT} or other names",
        Mistake.PART_IN_RANGE: f'"{piece}" is not a range: {TEXT_ENCODER} and {VAE} cannot be in ranges',
        Mistake.BARE_DASH: "a range is written without spaces",
        Mistake.EMPTY_NOT: "NOT with nothing after it",
        Mistake.LATE_NOT: "NOT must come first; it inverts everything after it",
        Mistake.LATE_OWNER: f'"{piece}" stands first in a rule, before {NOT} and blocks, and once',
        Mistake.NO_OWNER: f'"{piece}" has no place here: it is alpha that these elements get',
        Mistake.OWNER_BETA: f'"{piece}" has no beta',
        Mistake.RATIO: f'the ratio "{piece}" is not a number' if piece else "the ratio is missing",
        Mistake.INFINITE: f"the ratio {piece} is too large",
    }[mistake]


def _explain(mistake: Mistake, piece: str, rule: str) -> str:
    """Say what was meant, as the end of a message; empty if that is not certain."""
    if mistake is Mistake.COLONS:
        return explain_colons(piece)
    if mistake is Mistake.BLOCK:
        return explain_block(piece, rule)
    if mistake is Mistake.PART:
        return explain_part(piece)
    return explain_ratio(piece) if mistake is Mistake.RATIO else ""


def _allowed(mistake: Mistake) -> str:
    if mistake in (Mistake.COLONS, Mistake.COMMAS):
        return f"{_FORM}."
    if mistake is Mistake.BLOCK:
        return _allowed_blocks(ARCHITECTURES)
    return {
        Mistake.PART: "A part is any piece of an element's name, such as attn2 or ff.net.",
        Mistake.ALL_WITH_OTHERS: f"{ALL} is every block, or every element of the blocks before the colon.",
        Mistake.TARGET_COLONS: "Write OUT05:attn2 for some elements, OUT05 for a whole block, ALL for every block.",
        Mistake.BARE_DASH: "Write IN03-IN06.",
        Mistake.PART_IN_RANGE: "Write them next to the range, as in BASE-IN03 TE.",
        Mistake.EMPTY_NOT: "NOT OUT04 is every block except OUT04; for every block, write nothing before the colon.",
        Mistake.LATE_NOT: "To include some and exclude others, write two rules; the later rule wins.",
        Mistake.LATE_OWNER: "To set the ratios of several LoRAs or models, write a rule for each.",
        Mistake.NO_OWNER: "The ratio of a LoRA or a model is set by a rule, such as lora.detail OUT03:attn2:0.5.",
        Mistake.OWNER_BETA: NO_SECOND_RATIO,
        Mistake.RATIO: "A ratio is a decimal number such as 1, .5, 0.25, -0.3 or 1e-1.",
        Mistake.INFINITE: "A ratio is a finite number, usually from 0 to 1.",
    }[mistake]


def _allowed_blocks(architectures: Sequence[Architecture]) -> str:
    by_blocks: dict[str, list[str]] = {}
    for architecture in architectures:
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
