"""The exceptions of this package.

::

    ElementalError          every error that a user can cause; the message says what to do
    ├── SpecError           a mistake in a spec, or a rule that its recipe cannot use
    ├── RecipeError         ratios, mode, block weights or models that do not fit together
    ├── CheckpointError     a file that cannot be read as a checkpoint, or is not the one asked for
    ├── MergeError          a merge that cannot be done, or whose result cannot be written
    ├── ImageError          image settings out of range, or a file that cannot be read or written
    ├── HostError           the host of the images cannot do what it is asked to
    └── Stopped             the user asked to stop

Errors of other libraries are translated where they occur, with ``raise ... from exc``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class ElementalError(Exception):
    """The base class of all errors of this package; ``str(error)`` is shown to the user."""


class Span(NamedTuple):
    """A part of a text: ``line`` and ``column`` from 1, ``length`` in characters."""

    line: int
    column: int
    length: int


class SpecProblem(Protocol):
    """A mistake in a spec."""

    @property
    def span(self) -> Span:
        """The place of the mistake."""

    @property
    def message(self) -> str:
        """What is wrong, with the nearest valid spelling."""

    @property
    def allowed(self) -> str:
        """What is allowed instead; can be empty."""


class SpecError(ElementalError):
    """A spec cannot be used; ``problems`` lists the mistakes in the order of the text."""

    def __init__(self, message: str, problems: Sequence[SpecProblem] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class RecipeError(ElementalError):
    """Ratios, mode, block weights or models of a recipe do not fit together."""


class CheckpointError(ElementalError):
    """A file cannot be read as a checkpoint, or is not the checkpoint that was asked for."""


class MergeError(ElementalError):
    """A merge cannot be done, or its result cannot be written."""


class ImageError(ElementalError):
    """Image settings are out of range, or an image file cannot be read or written."""


class HostError(ElementalError):
    """The host cannot do what it is asked to."""


class Stopped(ElementalError):
    """The user asked to stop; the message says what was done until then."""

    def __init__(self, message: str = "Stopped; nothing was changed.") -> None:
        super().__init__(message)
