"""Write the values of an axis as the text that users write, from the texts of the values alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from .base import Axis
from .values import split_groups

_BETWEEN = (", ", "\n", "\n\n")


def format_groups(axis: Axis, groups: Sequence[Sequence[str]]) -> str | None:
    r"""Write values as one text that reads back as them; None if there is no such text.

    Args:
        axis: The axis.
        groups: The text of each value, grid by grid.
    """
    parts = [_format_values(axis, list(values)) for values in groups]
    text = _join_groups([part for part in parts if part is not None])
    return None if None in parts or _read(axis, text) != [list(values) for values in groups] else text


def append_value(axis: Axis, text: str, value: str) -> str | None:
    """Write a value behind others, in the spelling that reads back as it; None if there is no such spelling.

    Args:
        axis: The axis.
        text: The others, as a user wrote them; they stay as they are, but for blanks and commas at the end.
        value: The value.
    """
    kept = text.rstrip(" \t\n,")
    before = _read(axis, kept)
    wanted = [*before[:-1], [*before[-1], value]]
    betweens = ("",) if not kept else (" ", *_BETWEEN) if kept.endswith("|") else _BETWEEN
    spellings = (f"{kept}{between}{_escape(piece)}" for piece in (value, f'"{value}"') for between in betweens)
    return next((spelling for spelling in spellings if _read(axis, spelling) == wanted), None)


def take_baseline(axis: Axis, text: str) -> tuple[str, bool]:
    """Take away the blank lines at the beginning of each grid's specs that ask for an image without rules.

    Returns:
        The text without them, and whether they were there; the text as it is, if not all grids have them.
    """
    groups = _read(axis, text)
    if axis.baseline is None or not all(len(values) > 1 and not values[0] for values in groups):
        return text, False
    parts = (re.sub(r"^(?:[ \t]*\r?\n)+", "", part) for part in split_groups(text))
    return _join_groups(list(parts)), True


def _read(axis: Axis, text: str) -> list[list[str]]:
    return [axis.split(part) for part in split_groups(text)]


def _join_groups(parts: Sequence[str]) -> str:
    return "\n|\n".join(map(_escape, parts))


def _escape(text: str) -> str:
    return text.replace("|", "\\|")


def _format_values(axis: Axis, values: Sequence[str]) -> str | None:
    return next((text for text in _spellings(values) if axis.split(text) == values), None)


def _spellings(values: Sequence[str]) -> Iterator[str]:
    quoted = [f'"{value}"' if "," in value else value for value in values]
    for pieces in (values, quoted):
        for between in _BETWEEN:
            yield between.join(pieces)
