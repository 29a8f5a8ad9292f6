"""How a worker makes the images and backward passes of an estimate of effects."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ..hosts.base import Host
from ..images.image_request import GeneratedImage
from ..merge.files.model_locator import ModelLocator
from ..merge.progress import Controls, Stopwatch
from ..runs.differentiated_merge import differentiated_merge
from ..runs.effect_estimate import EffectOrder
from ..runs.effect_maker import Drawing, Prepared, Unit

if TYPE_CHECKING:
    from torch import Tensor

    from ..runs.effect_passes import RecipePasses


@dataclass(frozen=True)
class EffectTask:
    """A unit of an estimate, with all that a worker needs to make it, also one that has begun again.

    Attributes:
        order: What is estimated.
        unit: What is to be made.
    """

    order: EffectOrder
    unit: Unit

    @property
    def name(self) -> str:
        """Say what it is, with numbers from 1: "pass 3 of image 2"."""
        image = f"image {self.unit.request + 1}"
        if isinstance(self.unit, Drawing):
            return f"{image}, moved a little" if self.unit.moved else image
        return f"pass {self.unit.number + 1} ({self.unit.source}) of {image}"


class EffectMade(NamedTuple):
    """What became of a task.

    Attributes:
        made: The image, or the sample of a pass.
        prepared: What is known with the image of a request; None with others.
        notes: What a user should know.
    """

    made: GeneratedImage | Tensor
    prepared: Prepared | None
    notes: tuple[str, ...]


class EffectUnits:
    """Makes units; the merge, and the ways to the images that it was asked for, stay for the next.

    Args:
        host: Makes and differentiates the images.
        locator: Finds the models.
    """

    def __init__(self, host: Host, locator: ModelLocator) -> None:
        self._host = host
        self._locator = locator
        self._order: EffectOrder | None = None
        self._passes: RecipePasses | None = None
        self._notes: list[str] = []
        self._stack = ExitStack()

    def make(self, task: EffectTask, watch: Stopwatch) -> EffectMade:
        """Make a unit; after an error, the model is opened anew.

        Args:
            task: The unit.
            watch: Counts the seconds of "loading", with the merge, and "generating".
        """
        try:
            passes = self._passes_for(task.order, watch)
            with watch("generating"):
                made, prepared = _make(passes, task.unit)
        except BaseException:
            self.close()
            raise
        notes = tuple(self._notes)
        self._notes.clear()
        return EffectMade(made, prepared, notes)

    def close(self) -> None:
        """Take the merge out of the live model."""
        self._order = self._passes = None
        self._notes.clear()
        self._stack.close()

    def _passes_for(self, order: EffectOrder, watch: Stopwatch) -> RecipePasses:
        from ..runs.effect_passes import RecipePasses

        if self._passes is None or order != self._order:
            self.close()
            with watch("loading"):
                opened = self._stack.enter_context(
                    differentiated_merge(
                        self._host, order.recipe, purpose="effects are estimated by", locator=self._locator
                    )
                )
                self._passes = RecipePasses(opened, order, note=self._notes.append, controls=Controls())
            self._order = order
        return self._passes


def _make(passes: RecipePasses, unit: Unit) -> tuple[GeneratedImage | Tensor, Prepared | None]:
    if not isinstance(unit, Drawing):
        return passes.sample(unit), None
    image = passes.draw(unit)
    if unit.moved:
        return image, None
    passes.settle()  # what does not fit into memory is said before the first pass
    return image, Prepared(passes.keys, passes.method)
