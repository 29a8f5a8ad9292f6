"""Simplify a merge: find the shortest spec whose images are within a tolerance of the merge's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..errors import MergeError, Stopped
from ..hosts.base import Host
from ..images.diff import mean_difference
from ..images.image_request import ImageRequest
from ..merge.files.metadata import LABEL_FIELD
from ..merge.files.model_locator import AS_RECORDED, ModelLocator
from ..merge.plan import MergePlan, TensorPlan
from ..recipe.ratio_changes import on_the_way
from ..recipe.recipe import MergeRecipe
from ..recipe.rule_cover import cover
from ..recipe.rules import Ratios, Rule, RuleSet, rule_of_tensor
from ..workflows import images_of_merge
from .differentiated_merge import differentiated_merge, single_images
from .effect_estimate import EffectWatcher

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from ..effects.passes import PassMaker
    from ..hosts.base import Differentiator, LiveModel
    from ..merge.files.open_models import OpenModels
    from ..merge.live_merge import LiveMerge

_POINTS = (0.0, 0.5, 1.0)
"""Where on the way from A to the merge it is estimated what each element does: what is largest is least linear."""
_CLOSE = 1.1
"""The cut is found when the least number that is enough is at most so many times a number that is not."""


@dataclass(frozen=True)
class SimplifyOrder:
    """What to simplify.

    Attributes:
        recipe: The merge that is liked.
        requests: The images by which it is liked; they count the same.
        tolerance: How far the images may be away, as a share of the distance between A's images and the merge's.
        passes: Backward passes for each request.
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

    Elements are taken in the order of an estimate, and real images tell how many of them are enough.

    Args:
        host: Makes the images, and differentiates them.
        order: What to simplify.
        watcher: Hears of the progress.
        locator: Finds the models.

    Raises:
        CheckpointError: A model is missing, damaged, has changed, or is none that can be merged.
        MergeError: The models do not fit together; or the merge's images are those of A.
        RecipeError: Block weights are for another architecture; or a tensor's name cannot be in a rule.
        HostError: The host cannot differentiate its images, or fails.
        Stopped: The user asked for it.
    """
    order = replace(order, requests=single_images(order.requests, host))
    with differentiated_merge(host, order.recipe, purpose="merges are simplified by", locator=locator) as opened:
        work = _Simplification(host, opened.differentiator, opened.merge, order, watcher or EffectWatcher())
        return work.run(opened.live, opened.models)


@dataclass(frozen=True)
class _Probe:
    """A merge that was tried: its images, and their distance from what they should be."""

    count: int
    images: tuple[Image.Image, ...]
    distance: float


class _Simplification:
    """The work of finding one."""

    def __init__(
        self,
        host: Host,
        differentiator: Differentiator,
        merge: LiveMerge,
        order: SimplifyOrder,
        watcher: EffectWatcher,
    ) -> None:
        self._host = host
        self._differentiator = differentiator
        self._merge = merge
        self._order = order
        self._watcher = watcher
        self._done = self._generated = 0
        self._total = len(order.requests) * (order.passes + len(_POINTS)) + 7 * len(order.requests)

    def run(self, live: LiveModel, models: OpenModels) -> Simplified:
        recipe = self._order.recipe
        plan = models.planner(recipe).plan(recipe)
        images, ranked = self._rank(live, models, plan)
        of_a, of_merge = images[0.0], images[1.0]
        full = _mean_distance(of_a, of_merge)
        if not full:
            raise MergeError("The merge's images are those of model A: there is nothing to simplify.")
        base, target = (recipe, of_a) if self._order.leave_out else (without_ratios(recipe), of_merge)
        probe = self._find_cut(ranked, base, target, full)
        chosen = ranked[: probe.count]
        rules = self._write_rules(plan, chosen)
        result = replace(base, rules=RuleSet((*base.rules.rules, *rules)))
        triples = tuple(zip(of_a, of_merge, probe.images, strict=True))
        return Simplified(result, probe.count, probe.distance, full, self._generated, triples)

    def _rank(
        self, live: LiveModel, models: OpenModels, plan: MergePlan
    ) -> tuple[dict[float, tuple[Image.Image, ...]], list[TensorPlan]]:
        """Rank the merged tensors by what they do on the way from A to the merge, the strongest first."""
        import torch

        from ..effects.directions import Directions, from_model_a
        from ..effects.passes import PassMaker

        directions = Directions(from_model_a(plan), models.open(self._order.recipe))
        images: dict[float, tuple[Image.Image, ...]] = {}
        rows: list[Tensor] = []
        for index, point in enumerate(_POINTS):
            self._merge.apply(on_the_way(self._order.recipe, point), controls=self._watcher.controls)
            maker = PassMaker(
                self._differentiator.networks(),
                live.tensors(),
                directions,
                should_stop=self._watcher.controls.should_stop,
            )
            images[point] = self._sample(maker, rows, first=index, label=f"{point:.0%} of the merge")
        # a row counts by its shares: steps differ in size for reasons that have nothing to do with elements
        numbers = torch.stack(rows)
        effects = (numbers / numbers.norm(dim=1, keepdim=True).clamp(min=1e-30)).square().sum(dim=0).tolist()
        tensors = {tensor.name.key: tensor for tensor in plan.tensors}
        ranked = sorted(zip(maker.keys, effects, strict=True), key=lambda item: -item[1])
        return images, [tensors[key] for key, effect in ranked if effect]

    def _sample(self, maker: PassMaker, rows: list[Tensor], *, first: int, label: str) -> tuple[Image.Image, ...]:
        """Make the images of a point on the way, and its share of the passes."""
        from ..effects.samples import UNET, Pass

        images = []
        for index, request in enumerate(self._order.requests):
            self._progress("generating")
            trace = self._differentiator.trace(request, model={LABEL_FIELD: label})
            self._generated += 1
            self._watcher.on_image(trace.image.image, label)
            images.append(trace.image.image)
            for number in range(first, self._order.passes, len(_POINTS)):
                self._progress("estimating")
                rows.append(maker.sample(trace, Pass(index, number, UNET)))
        return tuple(images)

    def _progress(self, text: str) -> None:
        self._watcher.on_progress(min(self._done, self._total), self._total, text)
        self._done += 1

    def _find_cut(
        self, ranked: Sequence[TensorPlan], base: MergeRecipe, target: Sequence[Image.Image], full: float
    ) -> _Probe:
        """Find the least number of first tensors that is enough, by real images."""
        allowed = self._order.tolerance * full

        def probe(count: int) -> _Probe:
            rules = [self._rule(tensor) for tensor in ranked[:count]]
            images = self._draw(replace(base, rules=RuleSet((*base.rules.rules, *rules))), f"the first {count}")
            return _Probe(count, images, _mean_distance(images, target))

        return least_enough(len(ranked), probe, allowed)

    def _draw(self, recipe: MergeRecipe, label: str) -> tuple[Image.Image, ...]:
        images = []
        for request in self._order.requests:
            self._progress(label)
            if self._watcher.controls.should_stop():
                raise Stopped
            (made,) = images_of_merge(self._host, request, self._merge, recipe, controls=self._watcher.controls)
            images.append(made.image)
            self._generated += 1
            self._watcher.on_image(images[-1], label)
        return tuple(images)

    def _rule(self, tensor: TensorPlan) -> Rule:
        """Give the rule that takes a tensor to where it is to be: as in the merge, or as in A."""
        return rule_of_tensor(tensor.name, *self._wanted(tensor))

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
    """Give the recipe of model A itself: the same models and mode, all ratios 0, and no rules."""
    beta = None if recipe.beta is None else 0.0
    return replace(recipe, alpha=0.0, beta=beta, block_alpha=None, block_beta=None, rules=RuleSet())


def least_enough(most: int, probe: Callable[[int], _Probe], allowed: float) -> _Probe:
    """Find about the least count whose probe is within a distance; all of them are always enough.

    The distance falls with the count, though not at every step: what is found is enough, and a tenth less is not.

    Args:
        most: The largest count.
        probe: Tries a count.
        allowed: The distance.
    """
    low, high, best = 0, most, None
    while best is None or not _is_close(low, high):
        count = high if _is_close(low, high) else min(high - 1, max(low + 1, round(math.sqrt(max(1, low) * high))))
        tried = probe(count)
        if tried.distance <= allowed or count == most:
            high, best = count, tried
        else:
            low = count
    return best


def _is_close(low: int, high: int) -> bool:
    return high <= low + 1 or high / max(1, low) <= _CLOSE


def _mean_distance(ones: Sequence[Image.Image], others: Sequence[Image.Image]) -> float:
    distances = [mean_difference(one, other) for one, other in zip(ones, others, strict=True)]
    return sum(distances) / len(distances)
