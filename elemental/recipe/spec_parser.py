"""Read the text of an elemental spec into rules.

::

    spec     = rule { separator rule }            separator = "," or line end; empty rules are skipped
    rule     = [target] blocks ":" elements ":" ratio [ ":" ratio_beta ]      no ratio_beta after a target
    target   = "lora." name | "B2" .. "B9"        whose ratio it is; the mode's without
    blocks   = "" | ALL | ["NOT"] name { space name }   name = BASE | TE | VAE | IN00.. | M00 | OUT00.. | name-name
    elements = "" | ALL | ["NOT"] part { space part }   part = any piece of an element's name
    ratio    = a finite decimal number
    comment  = "#" to the end of the line

All mistakes of a text are reported together, each with line and column.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ..errors import Span
from .lookalikes import plain_text
from .rule_targets import Target
from .rules import RuleSet
from .spec_diagnosis import find_problems
from .spec_errors import plain_line_ends, spec_error
from .spec_reader import Reader, split_pieces

_T = TypeVar("_T")


def parse_rules(text: str, *, name: str = "spec", recorded: bool = False) -> RuleSet:
    """Read the rules of an elemental spec.

    Args:
        text: The spec; a text that is empty or has only comments gives no rules.
        name: How errors call the text: "spec" or a file name.
        recorded: Whether this program wrote the text into a recipe or a run's record. It is read as it was always
            meant: without look-alike characters, and with ALL in a rule as a part of a name like others.

    Raises:
        SpecError: The text has mistakes. The error lists them all, up to a thousand, with line, column, caret and what
            is allowed.
    """
    reader = Reader(recorded=recorded)
    text = plain_line_ends(text if recorded else plain_text(text))
    rules, spans = _read_all(text, reader.rule, name, is_target=False)
    return RuleSet(tuple(rules), text, tuple(spans), name)


def parse_targets(text: str, *, name: str = "elements", recorded: bool = False) -> tuple[Target, ...]:
    """Read the targets of an element check: ``blocks:elements`` or ``blocks``, separated like rules.

    Either side can be the word ALL; see :class:`Target`.

    Args:
        text: The targets.
        name: How errors call the text.
        recorded: Whether this program wrote the text into a run's record.

    Raises:
        SpecError: The text has mistakes; the error lists them as for rules.
    """
    reader = Reader(recorded=recorded)
    text = plain_line_ends(text if recorded else plain_text(text))
    return tuple(_read_all(text, reader.target, name, is_target=True)[0])


def _read_all(
    text: str, read: Callable[[str], _T | None], name: str, *, is_target: bool
) -> tuple[list[_T], list[Span]]:
    """Read the rules or targets of a text, each with its place; equal ones are read once."""
    cache: dict[str, _T] = {}
    values, spans = [], []
    for piece, span in split_pieces(text):
        value = cache.get(piece) or read(piece)
        if value is None:
            raise spec_error(find_problems(text, read, is_target=is_target), text, name=name)
        cache[piece] = value
        values.append(value)
        spans.append(span)
    return values, spans
