"""What an axis of an XY plot is: it reads values, and applies one of them to a setting."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..errors import ElementalError
from ..images.request import ImageRequest
from ..recipe.recipe import MergeRecipe
from ..recipe.rule_targets import Target
from .axis_context import AxisContext
from .value_lists import split_at_commas


@dataclass(frozen=True)
class Setting:
    """What decides one image.

    Attributes:
        recipe: The merge.
        request: The image.
        pinned: Elements whose ratio a later alpha is, instead of the recipe's own alpha.
    """

    recipe: MergeRecipe
    request: ImageRequest
    pinned: Target | None = None


class AxisValue(NamedTuple):
    """One value of an axis.

    Attributes:
        text: Reads back as the same value, whatever was random or looked up when it was first read.
        label: What people see.
        meaning: What the axis applies.
    """

    text: str
    label: str
    meaning: Any


class Axis(ABC):
    """Something that varies along a side of a plot.

    Attributes:
        name: As the command line has it.
        sets: The parts of a setting that it decides; two axes of a plot share none.
        form: What its values look like, for help.
    """

    name: str
    sets: frozenset[str]
    form: str

    def split(self, text: str) -> list[str]:
        """Cut the text of all values into that of each: at commas and line ends, unless the axis does otherwise."""
        return split_at_commas(text)

    @abstractmethod
    def read(self, text: str, context: AxisContext) -> list[AxisValue]:
        """Read one value, or several that one word stands for.

        Args:
            text: One of the pieces that :meth:`split` gives.
            context: What it is read against.

        Raises:
            ElementalError: It is none.
        """

    @abstractmethod
    def apply(self, setting: Setting, meaning: Any) -> Setting:
        """Give the setting with this value.

        Args:
            setting: What is changed, in a copy.
            meaning: That of a value which this axis has read.

        Raises:
            ElementalError: The value does not go with the rest.
        """


def explain(error: ElementalError, *, side: str, axis: Axis, value: str) -> ElementalError:
    """Put the axis and the value that an error is about before it.

    Args:
        error: What was raised; the result is of the same class, and says no more than its text.
        side: "x" or "y".
        axis: Which the value is of.
        value: As it was written.
    """
    return type(error)(f'{side} axis, {axis.name}, value "{value}": {error}')
