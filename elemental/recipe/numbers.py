"""The numbers that modes have besides ratios, by name: complete, within their ranges, and as text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from ..errors import RecipeError
from ..modes.base import Number
from ..modes.catalogue import MergeMode
from .lookalikes import plain_text
from .rule_hints import explain_ratio
from .rules import format_ratio
from .spec_reader import parse_ratio
from .suggestions import suggest

_PAIR = re.compile(r"([^\s,;=]+)\s*=\s*([^\s,;=]+)")


class Numbers(Mapping[str, float]):
    """Numbers by name, which cannot be changed.

    Args:
        numbers: Of some mode; whole ones are written without a point.
    """

    def __init__(self, numbers: Mapping[str, float] | None = None) -> None:
        self._numbers = {name: _whole(number) for name, number in (numbers or {}).items()}

    def __getitem__(self, name: str) -> float:
        return self._numbers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def __hash__(self) -> int:
        return hash(frozenset(self._numbers.items()))

    def __repr__(self) -> str:
        return f"Numbers({self._numbers})"


def complete_numbers(mode: MergeMode, given: Mapping[str, float]) -> Numbers:
    """Give all numbers of a mode: those that are given, and the defaults of the others that have one.

    Raises:
        RecipeError: The mode has no such number, or it is out of its range.
    """
    known = {number.name: number for number in mode.record.numbers}
    for name, value in given.items():
        if name not in known:
            raise RecipeError(f'{mode.value} has no number "{name}"{suggest(name, known) or "."} {_has(mode)}')
        _check(mode, known[name], value)
    defaults = {name: number.default for name, number in known.items() if number.default is not None}
    return Numbers({name: {**defaults, **given}[name] for name in known if name in defaults or name in given})


def measured_numbers(mode: MergeMode) -> tuple[str, ...]:
    """Give the names of the numbers that a mode finds in the models, if they are not given."""
    return tuple(number.name for number in mode.record.numbers if number.default is None)


def known_numbers(mode: MergeMode, given: Mapping[str, float]) -> dict[str, float]:
    """Leave out the numbers that a mode does not have."""
    known = {number.name for number in mode.record.numbers}
    return {name: value for name, value in given.items() if name in known}


def all_numbers() -> dict[str, Number]:
    """Give the numbers of all modes by name; those of one name mean much the same."""
    return {number.name: number for mode in MergeMode for number in mode.record.numbers}


def parse_numbers(text: str) -> dict[str, float]:
    """Read numbers as people write them, such as ``p=0.9, seed=3``.

    Raises:
        RecipeError: Something is no pair of a name and a number, or a name stands there twice.
    """
    plain = plain_text(text or "").strip(" \t\r\n,;")
    if rest := re.sub(r"[\s,;]+", " ", _PAIR.sub("", plain)).strip():
        raise RecipeError(f'"{rest}" is no name with its number, such as p=0.9.')
    numbers: dict[str, float] = {}
    for name, value in _PAIR.findall(plain):
        if name in numbers:
            raise RecipeError(f'The number "{name}" stands there twice.')
        numbers[name] = _read(name, value)
    return numbers


def format_numbers(numbers: Mapping[str, float]) -> str:
    """Write numbers as :func:`parse_numbers` reads them."""
    return ", ".join(f"{name}={format_ratio(number)}" for name, number in numbers.items())


def describe_number(number: Number) -> str:
    """Say what a number is: its range, its default, and what it means."""
    default = "measured" if number.default is None else format_ratio(number.default)
    return f"{_range(number)}, {default} unless given: {number.meaning}"


def _read(name: str, text: str) -> float:
    number = parse_ratio(text)
    if number is None:
        raise RecipeError(f'{name}: "{text}" is no number{explain_ratio(text)}.')
    return number


def _check(mode: MergeMode, number: Number, value: float) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not number.least <= value <= number.most or (number.whole and value != int(value)):
        raise RecipeError(f"{mode.value} takes {_range(number)}, not {number.name} {value}. {_has(mode)}")


def _has(mode: MergeMode) -> str:
    ranges = [_range(number) for number in mode.record.numbers]
    others = ", ".join(other.value for other in MergeMode if other.record.numbers)
    return f"Its numbers: {', '.join(ranges)}." if ranges else f"Modes with numbers: {others}."


def _range(number: Number) -> str:
    kind = "whole, " if number.whole else ""
    return f"{number.name} ({kind}{format_ratio(number.least)} to {format_ratio(number.most)})"


def _whole(number: float) -> float:
    return int(number) if isinstance(number, float) and number.is_integer() else number
