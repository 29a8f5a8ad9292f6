"""What an event brings from the fields of a page, read by the kind of each: a request can say anything."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import ElementalError

MOST_LETTERS = 200_000
"""Of one text; whole files of rules have a tenth of them, and a text is planned in a fifth of a second then."""

Reader = Callable[[Any], Any]


def reader_of(kind: str, arguments: Mapping[str, Any]) -> Reader | None:
    """Give what reads the values of a field; it raises an ElementalError about what no such field can hold.

    Args:
        kind: The component's class.
        arguments: With which it was made.
    """
    name = str(arguments.get("label") or "a field")
    if kind == "Textbox":
        return lambda value: _text(name, "" if value is None else value)
    if kind == "Dropdown":
        free = arguments.get("allow_custom_value") or not arguments.get("choices")  # what is listed later is not known
        choices = None if free else frozenset(arguments["choices"])
        return lambda value: _choice(name, value, choices)
    if kind in ("Slider", "Number"):
        return lambda value: _number(name, value)
    if kind == "Checkbox":
        return lambda value: _switch(name, value)
    return None


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ElementalError(f"{name} must be a text.")
    if len(value) > MOST_LETTERS:
        raise ElementalError(f"{name} is too long: {len(value):,} letters, where {MOST_LETTERS:,} are the most.")
    try:
        value.encode()
    except UnicodeEncodeError as exc:  # half a letter, which could neither be written nor sent back
        raise ElementalError(f"{name} holds what is no letter.") from exc
    return value


def _choice(name: str, value: Any, choices: frozenset[str] | None) -> str | None:
    if value is None or value == []:  # nothing is chosen
        return None
    text = _text(name, value)
    if choices is not None and text not in choices:
        raise ElementalError(f'"{text[:100]}" is none of the choices of {name}.')
    return text


def _number(name: str, value: Any) -> float | None:
    if value is None or value == "":  # the field is blank
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not _is_finite(value):
        raise ElementalError(f"{name} must be a number.")
    return value


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False


def _switch(name: str, value: Any) -> bool:
    if value is not None and not isinstance(value, bool):
        raise ElementalError(f"{name} must be on or off.")
    return bool(value)
