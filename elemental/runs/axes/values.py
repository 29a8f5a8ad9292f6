"""The values of an axis, from the text that users write."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from ...errors import ElementalError, RecipeError
from ...recipe.recipe import MergeRecipe
from ...recipe.suggestions import suggest
from .base import Axis, AxisValue, explain
from .catalogue import AXES
from .context import AxisContext


@dataclass(frozen=True)
class AxisValues:
    """An axis and its values.

    Attributes:
        side: One of :data:`~.base.SIDES`.
        axis: The axis.
        groups: The values of each grid; one group unless they were split by ``|``.
        remarks: What was left out when they were read.
    """

    side: str
    axis: Axis
    groups: tuple[tuple[AxisValue, ...], ...]
    remarks: tuple[str, ...] = field(default=(), compare=False)

    @property
    def values(self) -> tuple[AxisValue, ...]:
        """The values of all groups, one after the other."""
        return tuple(value for group in self.groups for value in group)

    def sets(self, recipe: MergeRecipe) -> frozenset[str]:
        """Name the parts of a setting that the values set; see :meth:`~.base.Axis.sets_of`."""
        return self.axis.sets_of(self.values, recipe)

    def to_dict(self) -> dict[str, Any]:
        """Give the axis as plain data that :func:`axis_from_dict` reads back."""
        return {"type": self.axis.name, "groups": [[value.text for value in group] for group in self.groups]}


def find_axis(name: str) -> Axis:
    """Give the axis of a name.

    Raises:
        RecipeError: There is no such axis.
    """
    if name not in AXES:
        raise RecipeError(f'There is no axis "{name}"{suggest(name, AXES) or "."} There are {", ".join(AXES)}.')
    return AXES[name]


def parse_axis(
    side: str,
    name: str,
    text: str,
    context: AxisContext,
    *,
    watch_count: Callable[[int], None] = lambda _: None,
    baseline: bool = False,
) -> AxisValues:
    r"""Read an axis as users write it.

    Args:
        side: One of :data:`~.base.SIDES`.
        name: The name of the axis.
        text: The values; ``|`` splits them into those of several grids, ``\|`` is a bar that does not.
        context: What the values are read against.
        watch_count: Gets the number of values as it grows, and may refuse it: a short text can name millions.
        baseline: Whether each grid begins with :attr:`~.base.Axis.baseline`, if the axis has one.

    Raises:
        ElementalError: The axis or a value is not known; the message names both.
    """
    axis = find_axis(name)
    groups = []
    for part in split_groups(text):
        pieces = axis.split(part)
        if not pieces:
            where = "its values hold nothing" if "|" not in text else 'nothing stands beside a "|"'
            raise RecipeError(f"{side} axis, {name}: {where}; give {axis.form}.")
        groups.append(pieces)
    watch_count(sum(map(len, groups)))
    read = partial(axis.read, context=context)
    values = _read_groups(side, axis, groups, read, watch_count)
    if baseline and axis.baseline is not None:
        values = _begin_with(axis.baseline, values)
    remarks = dict.fromkeys(axis.remark(piece, context) for pieces in groups for piece in pieces)
    return replace(values, remarks=tuple(filter(None, remarks)))


def _begin_with(first: AxisValue, values: AxisValues) -> AxisValues:
    """Put a value before those of each grid that do not begin with it."""
    groups = tuple(group if group[0] == first else (first, *group) for group in values.groups)
    return replace(values, groups=groups)


def split_groups(text: str) -> list[str]:
    r"""Cut values at each ``|`` into those of several grids; ``\|`` is a bar that does not cut."""
    return [part.replace("\\|", "|") for part in re.split(r"\n?(?<!\\)\|\n?", text)]


def axis_from_dict(side: str, data: Mapping[str, Any], context: AxisContext) -> AxisValues:
    """Read an axis from what :meth:`AxisValues.to_dict` gave.

    Raises:
        ElementalError: A value, the recipe or the request cannot be read.
        LookupError, TypeError, ValueError, AttributeError: An entry is missing, or of another kind.
    """
    axis = find_axis(str(data["type"]))
    return _read_groups(side, axis, data["groups"], partial(axis.read_stored, context=context))


def _read_groups(
    side: str,
    axis: Axis,
    groups: Sequence[Sequence[str]],
    read: Callable[[str], list[AxisValue]],
    watch_count: Callable[[int], None] = lambda _: None,
) -> AxisValues:
    values_by_group: list[tuple[AxisValue, ...]] = []
    for pieces in groups:
        values: list[AxisValue] = []
        for piece in pieces:
            try:
                values += read(piece)
            except ElementalError as exc:
                raise explain(exc, side=side, axis=axis, value=piece) from exc
            watch_count(sum(map(len, values_by_group)) + len(values))
        values_by_group.append(tuple(values))
    return AxisValues(side, axis, tuple(values_by_group))
