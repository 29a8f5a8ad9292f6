"""Images and backward passes of a merge on one host, with a live model that holds it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

from ..architectures.keys import is_vae_key
from ..effects.derivatives import movement_by_alpha
from ..effects.passes import PassMaker
from ..effects.samples import DECODING, UNET, Pass
from ..errors import HostError
from ..images.image_request import GeneratedImage
from ..merge.files.metadata import LABEL_FIELD, name_recipe
from ..merge.progress import Controls
from ..recipe.ratio_changes import with_more_alpha
from .differentiated_merge import DifferentiatedMerge
from .effect_estimate import EffectOrder, Method
from .effect_maker import SMALL_STEP, Drawing, EffectInbox, EffectMaker, Prepared, Unit

if TYPE_CHECKING:
    from torch import Tensor

    from ..hosts.base import TracedImage


class RecipePasses:
    """Images and backward passes of one recipe; the way to an image is noted when it is first needed.

    Args:
        opened: The live model, in which the recipe is merged now.
        order: The recipe, and the requests of the images.
        note: Called with what a user should know.
        controls: Progress and stop of each merge.

    Attributes:
        keys: The tensors that samples are made of, sorted.
        method: What is differentiated; known after :meth:`settle`.

    Raises:
        ElementalError: The recipe cannot be merged, or not be differentiated.
        Stopped: The user asked for it.
    """

    def __init__(
        self, opened: DifferentiatedMerge, order: EffectOrder, *, note: Callable[[str], None], controls: Controls
    ) -> None:
        recipe, models = order.recipe, opened.models
        with_more_alpha(recipe, SMALL_STEP)  # what a mode does not take is refused before anything is drawn
        recipe = opened.merge.apply(recipe, controls=controls).plan.recipe
        plan = models.planner(recipe).plan(recipe)
        directions = movement_by_alpha(plan, models.open(recipe), models.loras(recipe))
        self._maker = PassMaker(
            opened.differentiator.networks(),
            opened.live.tensors(),
            directions,
            should_stop=controls.should_stop,
        )
        self._differentiator = opened.differentiator
        self._merge = opened.merge
        self._order = order
        self._note = note
        self._controls = controls
        self._traces: dict[int, TracedImage] = {}
        self._settled = 0
        self.keys = self._maker.keys
        self.method = order.method
        self._room = self._find_room()

    def draw(self, drawing: Drawing) -> GeneratedImage:
        """Make an image, or give the one that is there.

        Raises:
            HostError: The image cannot be made.
            Stopped: The user asked for it.
        """
        return self._draw_moved(drawing.request) if drawing.moved else self._trace(drawing.request).image

    def sample(self, row: Pass) -> Tensor:
        """Make a pass: a sample for each key, float32.

        Raises:
            HostError: The pass does not fit into memory, or cannot be made.
            Stopped: The user asked for it.
        """
        self._trace(row.request)
        self.settle()
        return self._maker.sample(self._trace(row.request), row)

    def settle(self) -> None:
        """Say what memory a pass needs, and choose single steps where the host cannot differentiate whole images.

        The largest of the images that were made decides; as long as it stays the largest, nothing is done again.

        Raises:
            HostError: A pass does not fit into memory.
        """
        largest = max(self._traces.values(), key=_size)
        size, keeps = _size(largest), largest.kept_bytes > 0
        if size <= self._settled:
            return
        if self.method is Method.WHOLE and not largest.whole:
            self._note("This host cannot differentiate whole images: single steps are used.")
            self.method = Method.STEPS
        needed, free = self._measure_memory(largest), self._maker.free_memory()
        del largest  # which would hold its graph
        if free is not None and needed > free and keeps:
            self._room = 0
            self._traces = {}
            self._note("Memory is too little to keep what leads to the images: they are made once more.")
            free = self._maker.free_memory()
        if self.method is Method.WHOLE:
            needed += self._maker.hold_gradients(None if free is None else free - needed)
        kept = sum(trace.kept_bytes for trace in self._traces.values())
        self._note(f"A backward pass needs about {_in_mb(needed + kept)} beside the model.")
        if free is not None and needed > free:
            raise HostError(
                f"A backward pass needs about {_in_mb(needed)}, and {_in_mb(free)} are free: use smaller images, or "
                "close other programs."
            )
        self._settled = size

    def _measure_memory(self, image: TracedImage) -> int:
        """Measure what a pass needs; steps, and the decoding, are computed one after the other."""
        decodes = self.method is Method.WHOLE or any(map(is_vae_key, self.keys))
        return max(self._maker.memory(image, source) for source in (UNET, DECODING)[: 1 + decodes])

    def _find_room(self) -> int:
        """Give the bytes that the graphs of an image may need: together a third of what is free."""
        free = self._maker.free_memory() if self.method is Method.WHOLE else None
        return (free or 0) // (3 * len(self._order.requests))

    def _trace(self, index: int) -> TracedImage:
        if index not in self._traces:
            model = {LABEL_FIELD: name_recipe(self._order.recipe)}
            with self._maker.differentiable() if self._room else nullcontext():
                trace = self._differentiator.trace(self._order.requests[index], model=model, room=self._room)
            self._traces[index] = trace
        return self._traces[index]

    def _draw_moved(self, index: int) -> GeneratedImage:
        # graphs that are kept need the numbers that they were made with, and know that these were written to
        self._traces = {request: trace for request, trace in self._traces.items() if not trace.kept_bytes}
        self._merge.apply(with_more_alpha(self._order.recipe, SMALL_STEP), controls=self._controls)
        try:
            return self._differentiator.trace(self._order.requests[index], model={LABEL_FIELD: "a small step"}).image
        finally:
            self._merge.apply(self._order.recipe, controls=self._controls)


class HostEffects(EffectMaker):
    """Makes units one after another on a host.

    Args:
        opened: The live model.
    """

    def __init__(self, opened: DifferentiatedMerge) -> None:
        self._opened = opened

    def prepare(self, order: EffectOrder, inbox: EffectInbox) -> Prepared:
        """Merge the recipe, and make the image of each request.

        Raises:
            ElementalError: As :class:`EffectMaker` says.
            Stopped: The inbox's controls asked for it.
        """
        self._passes = RecipePasses(self._opened, order, note=inbox.note, controls=inbox.controls)
        self.make([Drawing(index) for index in range(len(order.requests))], inbox)
        self._passes.settle()
        return Prepared(self._passes.keys, self._passes.method)

    def make(self, units: Sequence[Unit], inbox: EffectInbox) -> None:
        """Make units in their order.

        Raises:
            ElementalError: One of them cannot be made.
            Stopped: The inbox's controls asked for it.
        """
        for unit in units:
            inbox.begin(unit)
            if isinstance(unit, Drawing):
                inbox.take_image(unit, self._passes.draw(unit))
            else:
                inbox.take_pass(unit, self._passes.sample(unit))


def _size(trace: TracedImage) -> int:
    width, height = trace.image.image.size
    return width * height


def _in_mb(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
