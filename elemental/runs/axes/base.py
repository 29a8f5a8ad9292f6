"""What an axis of an XY plot is: it reads values, and applies one of them to a setting."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ...errors import ElementalError, HostError, ImageError, RecipeError
from ...images.image_request import ImageRequest
from ...recipe.recipe import MergeRecipe
from ...recipe.rule_targets import Target
from .context import AxisContext
from .value_lists import split_at_commas

SIDES = ("x", "y", "z")
"""The sides that an axis can be on: columns, rows, and grids."""


@dataclass(frozen=True)
class Setting:
    """Everything that decides one image.

    Attributes:
        recipe: The merge.
        request: The image.
        pinned: Elements that take the ratio of the alpha axis, instead of the recipe's alpha; None for no such
            elements.
    """

    recipe: MergeRecipe
    request: ImageRequest
    pinned: Target | None = None


class AxisValue(NamedTuple):
    """One value of an axis.

    Attributes:
        text: Text that reads back as the same value, whatever was random or looked up when it was first read.
        label: The label in a grid.
        meaning: The value that :meth:`Axis.apply` takes.
    """

    text: str
    label: str
    meaning: Any


class Axis(ABC):
    """Something that varies along a side of a plot.

    Attributes:
        name: The name, as on the command line.
        sets: The parts of a setting that the axis sets; see :meth:`sets_of`.
        form: What its values look like, for help.
        example: Values, as a user would write them in a line.
        pins_elements: Whether its values are elements whose ratio is on another axis, which must be alpha.
        applies_first: Whether it is applied before the other axes, whichever side it is on.
    """

    name: str
    sets: frozenset[str]
    form: str
    example: str
    pins_elements: bool = False
    applies_first: bool = False

    def split(self, text: str) -> list[str]:
        """Cut the text of all values into that of each: at commas and line ends, unless the axis does otherwise."""
        return split_at_commas(text)

    @abstractmethod
    def read(self, text: str, context: AxisContext) -> list[AxisValue]:
        """Read one value, or several if one word stands for them.

        Args:
            text: One of the pieces that :meth:`split` gives.
            context: What the value is read against.

        Raises:
            ElementalError: The text is no value of this axis.
        """

    def read_stored(self, text: str, context: AxisContext) -> list[AxisValue]:
        """Read the text of a value from a record, as it was always meant; see :attr:`AxisValue.text`."""
        return self.read(text, context)

    def remark(self, text: str, context: AxisContext) -> str:  # noqa: ARG002
        """Say what :meth:`read` leaves out of a value; empty if nothing."""
        return ""

    def sets_of(self, values: Sequence[AxisValue], recipe: MergeRecipe) -> frozenset[str]:  # noqa: ARG002
        """Name the parts of a setting that some values set; the axes of a plot share none.

        Args:
            values: Of this axis.
            recipe: The recipe that each cell changes.
        """
        return self.sets

    @property
    def baseline(self) -> AxisValue | None:
        """The value that adds nothing, for an image to compare the others with; None if there is no such value."""
        return None

    @abstractmethod
    def apply(self, setting: Setting, meaning: Any) -> Setting:
        """Give a copy of a setting with a value in it.

        Args:
            setting: The setting.
            meaning: The meaning of a value that this axis has read.

        Raises:
            ElementalError: The value does not go with the rest.
        """


def explain(error: ElementalError, *, side: str, axis: Axis, value: str) -> ElementalError:
    """Put the axis and the value that an error is about before its text.

    Args:
        error: The error. The result is of the same class, or a RecipeError if the image or the host refused the value:
            a wrong value is wrong usage on every axis.
        side: One of :data:`SIDES`.
        axis: The axis.
        value: The value, as it was written.
    """
    kind = RecipeError if isinstance(error, (ImageError, HostError)) else type(error)
    return kind(f'{side} axis, {axis.name}, value "{value}": {error}')
