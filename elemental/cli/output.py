"""What commands print: lines, JSON, plans and warnings."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable

from ..errors import SpecError
from ..merge.plan import MergePlan
from ..merge.plan_summary import describe_plan, summarise_plan


def print_lines(lines: Iterable[str]) -> None:
    """Print at once; if the reader of a pipe has gone, the command goes on without printing."""
    try:
        print("\n".join(lines), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_json(data: object) -> None:
    """Print plain data as JSON."""
    print_lines([json.dumps(data, indent=1, ensure_ascii=False)])


def print_plan(plan: MergePlan) -> None:
    """Print what a merge would do: models, ratios, the map of the U-Net, and counts."""
    print_lines(describe_plan(plan, colour=has_colours()))
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
        print(f"warning: {text}", file=sys.stderr)
    if strict and texts:
        raise SpecError("With --strict, warnings are errors.")


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
