"""The order in which a simplified merge takes elements: by what they do, and by what is missing without them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..architectures.keys import is_vae_key
from ..images.image_request import ImageRequest
from ..merge.files.metadata import LABEL_FIELD, RECIPE_FIELD, recipe_as_json
from ..recipe.recipe import MergeRecipe
from .differentiated_merge import DifferentiatedMerge
from .effect_estimate import EffectWatcher

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from ..effects.directions import Directions
    from ..effects.passes import PassMaker
    from ..effects.samples import Pass, Samples
    from ..hosts.base import TracedImage

    _Goal = tuple[TracedImage, dict[Pass, Tensor]]

MISSING_STEPS = 8
"""At how many steps of an image it is measured what is missing, at most: 8 passes cost about as much as two images."""


class ElementOrder:
    """Measures tensors by backward passes through U-Net steps and, where VAEs differ, through the decoding.

    Args:
        opened: The model.
        directions: Where the merge moves each tensor.
        requests: The images; they count the same.
        watcher: Hears of images, and may stop.
        on_step: Called before each image and pass, with what is done.
    """

    def __init__(
        self,
        opened: DifferentiatedMerge,
        directions: Directions,
        requests: Sequence[ImageRequest],
        *,
        watcher: EffectWatcher,
        on_step: Callable[[str], None],
    ) -> None:
        from ..effects.samples import no_samples

        self._opened = opened
        self._directions = directions
        self._requests = requests
        self._watcher = watcher
        self._on_step = on_step
        self._goals: list[_Goal] = []  # images, and what is computed at some of their steps
        self._samples: Samples = no_samples(())

    def visit(
        self, recipe: MergeRecipe, label: str, numbers: Sequence[int], *, is_goal: bool
    ) -> tuple[Image.Image, ...]:
        """Make the images of a recipe, and some passes through each.

        Args:
            recipe: A recipe on the way from A to the merge.
            label: What it is, in words.
            numbers: The numbers of the passes.
            is_goal: Whether the simplified merge is to be like it.

        Returns:
            The image of each request.
        """
        from ..effects.samples import no_samples

        maker, recipe = self._merge(recipe)
        self._samples = self._samples if self._samples.passes else no_samples(maker.keys)
        text = recipe_as_json(recipe, self._opened.merge.models)
        images = []
        for index, request in enumerate(self._requests):
            self._on_step("generating")
            trace = self._opened.differentiator.trace(request, model={LABEL_FIELD: label})
            self._watcher.on_image(replace(trace.image, fields={**trace.image.fields, RECIPE_FIELD: text}), label)
            images.append(trace.image.image)
            for row in self._passes(index, numbers):
                self._on_step("estimating")
                self._samples = self._samples.with_pass(row, maker.sample(trace, row))
            if is_goal:
                rows = self._passes(index, _at_other_steps(trace.steps))
                self._goals.append((trace, {row: maker.values(trace, row) for row in rows}))
        return tuple(images)

    def effects(self, distances: Sequence[float]) -> Mapping[str, float]:
        """Tell what each tensor does on the way, where it was visited.

        Args:
            distances: How far the merge's image of each request is from A's, of 255.
        """
        for index, distance in enumerate(distances):
            self._samples = self._samples.with_slope(index, distance)
        return dict(zip(self._samples.keys, self._samples.effects(), strict=True))

    def missing(self, recipe: MergeRecipe, *, reverse: bool) -> Mapping[str, float]:
        """Tell how much of what is missing of the goal each tensor would add, to first order.

        What is missing is measured at the steps of the goal's images: there, no step suffers from those before it.

        Args:
            recipe: The recipe that something is missing of.
            reverse: Whether tensors move towards A, not towards the merge.
        """
        maker, _ = self._merge(recipe)
        total = dict.fromkeys(maker.keys, 0.0)
        for trace, values in self._goals:
            for row, value in values.items():
                self._on_step("measuring what is missing")
                missing = _Missing(value)
                numbers = maker.sample(trace, row, missing).tolist()
                for key, number in zip(maker.keys, numbers, strict=True):
                    total[key] += (number if reverse else -number) / missing.size if missing.size else 0.0
        return total

    def _merge(self, recipe: MergeRecipe) -> tuple[PassMaker, MergeRecipe]:
        from ..effects.passes import PassMaker

        controls = self._watcher.controls
        merged = self._opened.merge.apply(recipe, controls=controls).plan.recipe
        networks, tensors = self._opened.differentiator.networks(), self._opened.live.tensors()
        return PassMaker(networks, tensors, self._directions, should_stop=controls.should_stop), merged

    def _passes(self, request: int, numbers: Sequence[int]) -> list[Pass]:
        """List passes through steps, and one through the decoding unless the VAE does nothing."""
        from ..effects.samples import DECODING, UNET, Pass

        steps = [Pass(request, number, UNET) for number in numbers]
        return [*steps, Pass(request, numbers[0], DECODING)] if self._has_vae() else steps

    def _has_vae(self) -> bool:
        """Tell whether the merge changes the VAE, as far as is known."""
        from ..effects.samples import DECODING

        decoded = [place for place, row in enumerate(self._samples.passes) if row.source == DECODING]
        if decoded:
            return bool(self._samples.numbers[decoded].any())
        return any(map(is_vae_key, self._samples.keys))


def _at_other_steps(steps: int) -> list[int]:
    """Give numbers of passes, no two of which are of one step: without random signs, they would tell the same."""
    from ..effects.passes import step_of_pass

    numbers: dict[int, int] = {}
    for number in range(MISSING_STEPS):
        numbers.setdefault(step_of_pass(number, steps), number)
    return list(numbers.values())


class _Missing:
    """Weighs what is computed at a step by its difference from what is to be computed there.

    Attributes:
        size: The length of the difference.
    """

    def __init__(self, wanted: Tensor) -> None:
        self._wanted = wanted
        self.size = 0.0

    def __call__(self, values: Tensor) -> Tensor:
        missing = values.float() - self._wanted
        self.size = float(missing.norm())
        return missing * (missing.numel() ** 0.5 / self.size) if self.size else missing
