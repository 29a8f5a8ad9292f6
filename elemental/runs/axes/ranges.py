"""Ranges of numbers as the WebUI's X/Y/Z plot takes them: 1-4, 0-1(+0.25), 1-0(-0.5), 0-1[5]."""

from __future__ import annotations

import re
from fractions import Fraction

from ...errors import RecipeError

_MOST = 100_000
_NUMBER = r"[+-]?\s*(?:[0-9]+\.?[0-9]*|\.[0-9]+)"
_RANGE = re.compile(rf"({_NUMBER})\s*-\s*({_NUMBER})\s*(?:\(\s*({_NUMBER})\s*\)|\[\s*([0-9]+)\s*\])?")


def expand_range(text: str, *, whole: bool) -> list[str] | None:
    """List the numbers of a range, each as text; None if the text is no range.

    Source of the forms: scripts/xyz_grid.py of github.com/AUTOMATIC1111/stable-diffusion-webui. Numbers are exact
    decimals: 0-1(+0.1) has 0.3, not 0.30000000000000004. Unlike there, no number is beyond the end.

    Args:
        text: One value of an axis.
        whole: Whether the axis takes whole numbers; then the numbers of ``[n]`` are cut to whole ones.

    Raises:
        RecipeError: The step is 0 or leads away from the end, the count is 0, or there are more than 100,000 numbers.
    """
    found = _RANGE.fullmatch(text)
    if found is None:
        return None
    first, last = _exact(found[1]), _exact(found[2])
    numbers = _in_steps(text, first, last, found[3]) if found[4] is None else _evenly(text, first, last, int(found[4]))
    return [_write(Fraction(int(number)) if whole and found[4] else number) for number in numbers]


def range_ends(text: str) -> tuple[float, float] | None:
    """Read the two ends of a range without steps, such as ``0-1.5`` or ``-1--.5``; None if the text is none."""
    found = _RANGE.fullmatch(text.strip())
    if found is None or found[3] or found[4]:
        return None
    return float(_exact(found[1])), float(_exact(found[2]))


def _in_steps(text: str, first: Fraction, last: Fraction, step_text: str | None) -> list[Fraction]:
    step = _exact(step_text or "1")
    if step == 0 or (last - first) * step < 0:
        size = _write(abs(step) or Fraction(1))
        sign = "+" if last >= first else "-"
        ends = re.sub(r"\s*\(.*", "", text)
        raise RecipeError(f'"{text}" never reaches its end; the step is written {ends}({sign}{size}).')
    count = int((last - first) / step) + 1
    if step_text is None and first != last and count == 1:
        raise RecipeError(
            f'"{text}" goes in steps of 1; write a step, as in {text}(+0.1), or how many, as in {text}[5].'
        )
    _refuse_many(text, count)
    return [first + index * step for index in range(count)]


def _evenly(text: str, first: Fraction, last: Fraction, count: int) -> list[Fraction]:
    if count == 0:
        raise RecipeError(f'"{text}" has no values: [5] is five numbers from the first to the last.')
    _refuse_many(text, count)
    return [first + (last - first) * index / max(1, count - 1) for index in range(count)]


def _refuse_many(text: str, count: int) -> None:
    if count > _MOST:
        raise RecipeError(f'"{text}" is {count:,} values; an axis takes {_MOST:,} at most.')


def _exact(text: str) -> Fraction:
    return Fraction(re.sub(r"\s", "", text))


def _write(number: Fraction) -> str:
    return str(number.numerator) if number.denominator == 1 else repr(float(number))
