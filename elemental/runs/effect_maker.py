"""What makes the images and backward passes of an estimate: one host, or another maker that knows more devices."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from ..images.image_request import GeneratedImage
from ..merge.progress import Controls

if TYPE_CHECKING:
    from torch import Tensor

    from ..effects.samples import Pass
    from .effect_estimate import EffectOrder, Method

SMALL_STEP = 0.1
"""How much further everything is moved to measure the unit: little enough for a change in proportion."""


class Drawing(NamedTuple):
    """An image that an estimate needs.

    Attributes:
        request: The index of its request.
        moved: Whether everything is moved a little in it, which measures the unit; otherwise it shows the recipe.
    """

    request: int
    moved: bool = False


Unit: TypeAlias = "Drawing | Pass"
"""What is made at a time."""


class Prepared(NamedTuple):
    """What is known once the images are made.

    Attributes:
        keys: The tensors that samples are made of, sorted.
        method: What is differentiated: single steps where the host cannot differentiate whole images.
    """

    keys: tuple[str, ...]
    method: Method


class EffectInbox(Protocol):
    """Takes what becomes of the units of an estimate, and knows whether the user asked to stop."""

    @property
    def controls(self) -> Controls:
        """Progress and stop."""

    def note(self, text: str) -> None:
        """Hear what a user should know, such as the memory that is needed."""

    def begin(self, unit: Unit) -> None:
        """Hear that a unit is made now."""

    def take_image(self, drawing: Drawing, made: GeneratedImage) -> None:
        """Take an image."""

    def take_pass(self, row: Pass, sample: Tensor) -> None:
        """Take the sample of a pass: float32, for each key."""


class EffectMaker(ABC):
    """Makes the images and the backward passes of one estimate."""

    @abstractmethod
    def prepare(self, order: EffectOrder, inbox: EffectInbox) -> Prepared:
        """Merge the recipe, and make the image of each request.

        Args:
            order: What is estimated; its requests are for one image each, with samplers that the host has.
            inbox: Takes the images.

        Raises:
            ElementalError: The recipe cannot be merged or differentiated, the images cannot be made, or a pass does not
                fit into memory.
            Stopped: The inbox's controls asked for it.
        """

    @abstractmethod
    def make(self, units: Sequence[Unit], inbox: EffectInbox) -> None:
        """Make units of what was prepared; each goes to the inbox as soon as it is made.

        Args:
            units: What to make, in the order of one host; others may come in any order.
            inbox: Takes images and samples.

        Raises:
            ElementalError: Some units could not be made.
            Stopped: The inbox's controls asked for it.
        """
