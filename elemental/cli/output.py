"""What commands print: lines, JSON, plans and warnings, none of which can control the terminal."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable

from ..errors import SpecError
from ..merge.plan import MergePlan
from ..merge.plan_summary import describe_plan, summarise_plan

_CONTROL = r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]"
"""Control characters but the newline, and those that change the direction of a text."""
_CONTROL_BUT_INVERSE = rf"(?!\x1b\[[07]m){_CONTROL}"
"""The same without the colours of a plan."""
_LONGEST_WORD, _SHOWN = 1_000, 500
"""26 block weights with all their digits are one word of up to 650 characters."""


def print_lines(lines: Iterable[str], *, coloured: bool = False) -> None:
    """Print at once, as :func:`printable` gives it; if the reader of a pipe has gone, the command goes on."""
    _print(printable("\n".join(lines), coloured=coloured))


def printable(text: str, *, coloured: bool = False) -> str:
    """Give a text as it may go to a terminal: keys and names in files from others can hold anything.

    Control characters but newlines are replaced by their escapes, and very long words are cut.

    Args:
        text: The text.
        coloured: Whether it may have the colours of a plan.
    """
    escaped = _escape(text, _CONTROL_BUT_INVERSE if coloured else _CONTROL)
    return re.sub(rf"(?<!\S)\S{{{_LONGEST_WORD},}}", lambda word: f"{word[0][:_SHOWN]}...", escaped)


def _escape(text: str, control: str = _CONTROL) -> str:
    """Replace control characters by escapes that JSON has, too."""
    return re.sub(control, lambda found: f"\\u{ord(found[0]):04x}", text)


def _print(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_json(data: object) -> None:
    """Print plain data as JSON."""
    _print(_escape(json.dumps(data, indent=1, ensure_ascii=False)))


def print_plan(plan: MergePlan) -> None:
    """Print what a merge would do: models, ratios, the map of the U-Net, and counts."""
    colour = has_colours()
    print_lines(describe_plan(plan, colour=colour), coloured=colour)
    print_lines(["", *summarise_plan(plan)])


def print_warnings(warnings: Iterable[str], *, strict: bool) -> None:
    """Print warnings on stderr.

    Args:
        warnings: Their texts.
        strict: Whether warnings are errors.

    Raises:
        SpecError: There are warnings, and they are errors.
    """
    texts = list(warnings)
    for text in texts:
        print(printable(f"warning: {text}"), file=sys.stderr)
    if strict and texts:
        raise SpecError("With --strict, warnings are errors.")


def print_note(text: str) -> None:
    """Print on stderr what happened on the way, at once."""
    print(printable(text), file=sys.stderr, flush=True)


def print_plan_warnings(plan: MergePlan, remarks: Iterable[str], *, strict: bool) -> None:
    """Print the warnings of a plan on stderr, after remarks on the options.

    Raises:
        SpecError: There are warnings, and they are errors.
    """
    print_warnings([*remarks, *(warning.message for warning in plan.warnings)], strict=strict)


def has_colours() -> bool:
    """Tell whether stdout is a terminal that may be sent colours."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def count_of(number: int, noun: str) -> str:
    """Write a number with its noun: "1 image", "1,001 images"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
