"""Simplify a merge: find the shortest spec whose images are within a tolerance of the merge's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING

from ..errors import MergeError, RecipeError, Stopped
from ..hosts.base import Host
from ..images.diff import mean_difference
from ..images.image_request import ImageRequest
from ..merge.files.model_locator import AS_RECORDED, ModelLocator
from ..merge.measuring import with_measured_numbers
from ..merge.plan import MergePlan, TensorPlan
from ..recipe.ratio_changes import on_the_way
from ..recipe.recipe import MergeRecipe
from ..recipe.rule_cover import cover
from ..recipe.rules import Ratios, Rule, RuleSet, rule_of_tensor
from ..workflows import images_of_merge
from .differentiated_merge import DifferentiatedMerge, differentiated_merge, single_images
from .effect_estimate import EffectWatcher
from .simplify_cut import Probe, Tensors, find_cut
from .simplify_order import MISSING_STEPS, ElementOrder

if TYPE_CHECKING:
    from PIL import Image

_POINTS = {0.0: "A", 0.5: "half of the way", 1.0: "the merge"}
"""Where on the way from A to the merge it is estimated what each element does: what is largest is least linear."""
_USUAL_PROBES = 9
"""So many merges are usually tried."""

_Images = tuple["Image.Image", ...]


@dataclass(frozen=True)
class SimplifyOrder:
    """What to simplify.

    Attributes:
        recipe: The merge that is liked.
        requests: The images by which it is liked; they count the same.
        tolerance: How far the images may be away, as a share of the distance between A's images and the merge's.
        passes: Backward passes for each request by which all elements are ranked first.
        leave_out: Whether to find the opposite: the merge without what makes the difference to A.
    """

    recipe: MergeRecipe
    requests: tuple[ImageRequest, ...]
    tolerance: float = 0.1
    passes: int = 24
    leave_out: bool = False


@dataclass(frozen=True)
class Simplified:
    """A simplified merge.

    Attributes:
        recipe: The merge: alpha 0 and a few rules; or the merge that was liked and rules that leave something out.
        elements: How many tensors the rules move; or leave out.
        distance: How far its images are from the merge's, as a mean absolute difference of channel values, of 255; of
            one that leaves out, from A's.
        full_distance: The same for A's images and the merge's.
        generated: How many images were made.
        images: For each request the images of A, of the merge and of the simplified merge.
    """

    recipe: MergeRecipe
    elements: int
    distance: float
    full_distance: float
    generated: int
    images: tuple[tuple[Image.Image, Image.Image, Image.Image], ...]


def simplify(
    host: Host, order: SimplifyOrder, *, watcher: EffectWatcher | None = None, locator: ModelLocator = AS_RECORDED
) -> Simplified:
    """Find the shortest spec whose images are within a tolerance of a merge's.

    Elements are taken in the order of what they do, then of what is still missing, as backward passes tell; and real
    images tell how many of them are enough.

    Args:
        host: Makes the images, and differentiates them.
        order: What to simplify.
        watcher: Hears of the progress.
        locator: Finds the models.

    Raises:
        CheckpointError: A model is missing, damaged, has changed, or is none that can be merged.
        MergeError: The models do not fit together; or the merge's images are those of A.
        RecipeError: Block weights are for another architecture; a tensor's name cannot be in a rule; or there are
            further models, whose ratios rules for alpha do not set.
        HostError: The host cannot differentiate its images, or fails.
        Stopped: The user asked for it.
    """
    refuse_further(order.recipe)
    order = replace(order, requests=single_images(order.requests, host))
    with differentiated_merge(host, order.recipe, purpose="merges are simplified by", locator=locator) as opened:
        return _Simplification(host, opened, order, watcher or EffectWatcher()).run()


def refuse_further(recipe: MergeRecipe) -> None:
    """Refuse a recipe with further models.

    Raises:
        RecipeError: It has some.
    """
    if recipe.more:
        raise RecipeError("Merges are simplified by rules for alpha, so one with further models (B2, ...) cannot be.")


class _Simplification:
    """The work of finding one.

    Args:
        host: Makes the images.
        opened: The model.
        order: What to simplify.
        watcher: Hears of the progress.
    """

    def __init__(self, host: Host, opened: DifferentiatedMerge, order: SimplifyOrder, watcher: EffectWatcher) -> None:
        from ..effects.directions import Directions, from_model_a

        recipe = with_measured_numbers(order.recipe, opened.models, controls=watcher.controls)
        order = replace(order, recipe=recipe)
        self._host = host
        self._merge = opened.merge
        self._order = order
        self._watcher = watcher
        self._plan = opened.models.planner(recipe).plan(recipe)
        directions = Directions(from_model_a(self._plan), opened.models.open(recipe))
        self._elements = ElementOrder(opened, directions, order.requests, watcher=watcher, on_step=self._progress)
        self._done = self._generated = 0
        self._total = len(order.requests) * (order.passes + len(_POINTS) + 3 * MISSING_STEPS + _USUAL_PROBES)

    def run(self) -> Simplified:
        """Find it."""
        of_a, of_merge = self._visit_points()
        distances = _distances(of_a, of_merge)
        full = fmean(distances)
        if not full:
            raise MergeError("The merge's images are those of model A: there is nothing to simplify.")
        recipe = self._order.recipe
        self._base, self._goal = (recipe, of_a) if self._order.leave_out else (without_ratios(recipe), of_merge)
        ranked = self._rank(distances)
        probe = find_cut(ranked, self._attempt, self._reorder, self._order.tolerance * full)
        result = self._with(self._write_rules(self._plan, probe.tensors))
        triples = tuple(zip(of_a, of_merge, probe.images, strict=True))
        return Simplified(result, len(probe.tensors), probe.distance, full, self._generated, triples)

    def _visit_points(self) -> tuple[_Images, _Images]:
        """Make the images of A and of the merge, and measure on the way what each tensor does."""
        goal = 0.0 if self._order.leave_out else 1.0
        images = {}
        for first, (point, label) in enumerate(_POINTS.items()):
            recipe, numbers = on_the_way(self._order.recipe, point), range(first, self._order.passes, len(_POINTS))
            images[point] = self._elements.visit(recipe, label, numbers, is_goal=point == goal)
            self._generated += len(images[point])
        return images[0.0], images[1.0]

    def _rank(self, distances: Sequence[float]) -> list[TensorPlan]:
        """List the merged tensors by what they do, the strongest first."""
        effects = self._elements.effects(distances)
        moved = [tensor for tensor in self._plan.tensors if tensor.name.key in effects]
        return sorted(moved, key=lambda tensor: -effects[tensor.name.key])

    def _reorder(self, chosen: Tensors, others: Tensors) -> list[TensorPlan]:
        """List tensors by what they add to chosen ones, the most first."""
        missing = self._elements.missing(self._with_tensors(chosen), reverse=self._order.leave_out)
        return sorted(others, key=lambda tensor: -missing[tensor.name.key])

    def _attempt(self, chosen: Tensors) -> Probe:
        images = self._draw(self._with_tensors(chosen), f"{len(chosen)} elements")
        return Probe(chosen, images, fmean(_distances(images, self._goal)))

    def _with_tensors(self, chosen: Tensors) -> MergeRecipe:
        return self._with([rule_of_tensor(tensor.name, *self._wanted(tensor)) for tensor in chosen])

    def _with(self, rules: Sequence[Rule]) -> MergeRecipe:
        return replace(self._base, rules=RuleSet((*self._base.rules.rules, *rules)))

    def _progress(self, text: str) -> None:
        self._watcher.on_progress(min(self._done, self._total), self._total, text)
        self._done += 1

    def _draw(self, recipe: MergeRecipe, label: str) -> tuple[Image.Image, ...]:
        images = []
        for request in self._order.requests:
            self._progress(label)
            if self._watcher.controls.should_stop():
                raise Stopped
            (made,) = images_of_merge(self._host, request, self._merge, recipe, controls=self._watcher.controls)
            images.append(made.image)
            self._generated += 1
            self._watcher.on_image(made, label)
        return tuple(images)

    def _wanted(self, tensor: TensorPlan) -> Ratios:
        if self._order.leave_out:
            return 0.0, None if tensor.beta is None else 0.0
        return tensor.alpha, tensor.beta

    def _write_rules(self, plan: MergePlan, chosen: Sequence[TensorPlan]) -> tuple[Rule, ...]:
        """Write rules for exactly the chosen tensors; what is not merged may be in them or not."""
        keys = {tensor.name.key for tensor in chosen}
        wanted: dict[Ratios, int] = {}
        before: dict[Ratios, int] = {}
        for index, tensor in enumerate(plan.tensors):
            nothing: Ratios = 0.0, None if tensor.beta is None else 0.0
            own: Ratios = (tensor.alpha, tensor.beta) if self._order.leave_out else nothing
            before[own] = before.get(own, 0) | 1 << index
            if not tensor.note:
                to = self._wanted(tensor) if tensor.name.key in keys else own
                wanted[to] = wanted.get(to, 0) | 1 << index
        return cover([tensor.name for tensor in plan.tensors], wanted, before)


def without_ratios(recipe: MergeRecipe) -> MergeRecipe:
    """Give the recipe of model A itself: the same models and mode, all of the mode's ratios 0, and no rules for them.

    LoRAs, and the rules for their ratios, are those of the recipe: they are added to A, too.
    """
    beta, rules = None if recipe.beta is None else 0.0, RuleSet(recipe.rules.of_targets)
    return replace(recipe, alpha=0.0, beta=beta, block_alpha=None, block_beta=None, rules=rules)


def _distances(ones: Sequence[Image.Image], others: Sequence[Image.Image]) -> list[float]:
    return [mean_difference(one, other) for one, other in zip(ones, others, strict=True)]
