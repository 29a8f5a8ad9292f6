"""The exceptions of this package, all of them under one root.

::

    ElementalError          every error that a user can cause; its text says what to do
    ├── SpecError           the text of a spec, or a rule that its recipe cannot use
    ├── RecipeError         a ratio, a mode, block weights or a combination of them
    ├── CheckpointError     a file that cannot be read as a checkpoint, or is not the one asked for
    ├── MergeError          a merge that cannot be done, or whose result cannot be written
    ├── ImageError          an image that cannot be asked for, read or written
    ├── HostError           what makes the images cannot do what it is asked for
    └── Stopped             the user asked to stop

Errors of other libraries are translated where they occur, with ``raise ... from exc``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class ElementalError(Exception):
    """The root of all errors of this package; ``str(error)`` is meant for the user's eyes."""


class Span(NamedTuple):
    """A piece of a text: ``line`` and ``column`` count from 1, ``length`` in characters."""

    line: int
    column: int
    length: int


class SpecProblem(Protocol):
    """One thing wrong with a spec."""

    @property
    def span(self) -> Span:
        """Where it stands."""

    @property
    def message(self) -> str:
        """What is wrong, with the nearest valid spelling."""

    @property
    def allowed(self) -> str:
        """What would be allowed instead; may be empty."""


class SpecError(ElementalError):
    """A spec cannot be used; ``problems`` holds every mistake found, in the order of the text."""

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
    """An image cannot be asked for so, or its file cannot be read or written."""


class HostError(ElementalError):
    """What makes the images cannot do what it is asked for."""


class Stopped(ElementalError):
    """The user asked to stop; the text says what was done by then, if anything was."""

    def __init__(self, message: str = "Stopped; nothing was changed.") -> None:
        super().__init__(message)
