"""Estimate the effect of every element on images, from a few backward passes; in a file that more can be added to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..architectures.keys import is_vae_key
from ..errors import CheckpointError, HostError, MergeError, RecipeError, Stopped
from ..hosts.base import Host
from ..images.diff import difference_shape, mean_difference
from ..images.files import make_folder, write_whole
from ..images.image_request import GeneratedImage, ImageRequest
from ..merge.files.metadata import LABEL_FIELD, name_recipe
from ..merge.files.model_file import read_signature
from ..merge.files.model_locator import AS_RECORDED, ModelLocator
from ..merge.progress import Controls
from ..recipe.ratio_changes import with_more_alpha
from ..recipe.recipe import MergeRecipe, ModelSource
from .differentiated_merge import differentiated_merge, single_images

if TYPE_CHECKING:
    from PIL import Image

    from ..effects.samples import Pass, Samples
    from ..hosts.base import Differentiator, LiveModel, TracedImage
    from ..merge.files.open_models import OpenModels
    from ..merge.live_merge import LiveMerge

_SMALL_STEP = 0.1
"""How much further everything is moved to measure the unit: little enough for a change in proportion."""
_VAE_EVERY = 4
"""A decoding costs little, and one VAE differs little from another: one for so many passes of the U-Net."""


class Method(Enum):
    """What is differentiated.

    One U-Net step takes a quarter of the time of an image; the whole image, from its noise to its pixels, about three
    times that of an image, with the memory of one step, and fewer passes tell more.
    """

    STEPS = "steps"
    WHOLE = "whole"


@dataclass(frozen=True)
class EffectOrder:
    """What to estimate.

    Attributes:
        recipe: The merge on top of which the effects are estimated: what more of alpha would do here.
        requests: The images; they count the same.
        passes: Backward passes in all, beside those of the VAE.
        method: What is differentiated.
    """

    recipe: MergeRecipe
    requests: tuple[ImageRequest, ...]
    passes: int = 16
    method: Method = Method.STEPS

    def origin(self, locator: ModelLocator) -> dict[str, Any]:
        """Say in plain data what samples depend on; more passes of the same are added to the same samples.

        Raises:
            CheckpointError: A model is missing.
        """
        requests = [request.to_dict() for request in self.requests]
        return {**_origin_of(self.recipe, locator), "requests": requests, "method": self.method.value}


@dataclass(frozen=True)
class EffectWatcher:
    """What a caller does while effects are estimated.

    Attributes:
        on_progress: Called with finished parts of the work, all parts, and what is done next, in words.
        on_image: Called with each image that is made, and what it shows.
        on_note: Called with what a user should know, such as the memory that is needed.
        controls: Progress and stop of each merge.
    """

    on_progress: Callable[[int, int, str], None] = lambda _done, _total, _text: None
    on_image: Callable[[GeneratedImage, str], None] = lambda _image, _text: None
    on_note: Callable[[str], None] = lambda _text: None
    controls: Controls = field(default_factory=Controls)


@dataclass(frozen=True)
class Effects:
    """An estimate.

    Attributes:
        order: What was asked for.
        samples: The samples that it consists of.
        images: The image of each request, as the recipe makes it.
        file: Where the samples are kept; None if nowhere.
        made: How many passes were made now; the others were there.
        generated: How many images were made.
    """

    order: EffectOrder
    samples: Samples
    images: tuple[Image.Image, ...]
    file: Path | None
    made: int
    generated: int


def _origin_of(recipe: MergeRecipe, locator: ModelLocator) -> dict[str, Any]:
    """Say in plain data what a merge depends on: the files of its models, or the recipes in their place."""

    def of(source: ModelSource) -> object:
        if source.recipe is not None:
            return _origin_of(source.recipe, locator)
        path = locator.locate(source)
        return [str(path), *read_signature(path)]

    ratios = {name: value for name, value in recipe.to_dict().items() if name not in ("models", "loras", "more")}
    if recipe.more:
        ratios["more"] = list(recipe.more_ratios)
    origin = {"models": {role: of(source) for role, source in recipe.sources.items()}, "recipe": ratios}
    loras = [[of(lora.file), lora.ratio, lora.in_text_encoders] for lora in recipe.loras]
    return {**origin, "loras": loras} if loras else origin


def refuse_same_file(recipe: MergeRecipe, locator: ModelLocator = AS_RECORDED) -> None:
    """Refuse a recipe in which more of alpha changes nothing, since both models that it moves between are one file.

    Raises:
        CheckpointError: A model is missing.
        RecipeError: They are one.
    """
    name, other = ("C", recipe.model_c) if recipe.mode.record.adds_difference else ("A", recipe.model_a)
    if other is not None and _is_same_model(other, recipe.model_b, locator):
        raise RecipeError(f"Model B is the same file as model {name}: more of it changes nothing.")


def _is_same_model(one: ModelSource, other: ModelSource, locator: ModelLocator) -> bool:
    if one.recipe is not None or other.recipe is not None:
        return one.recipe == other.recipe
    return locator.locate(one).samefile(locator.locate(other))


def schedule(requests: int, passes: int, method: Method) -> list[Pass]:
    """List the passes of an estimate; the first ones are the same whatever comes after.

    Args:
        requests: How many images count together; they take turns.
        passes: Passes of U-Net steps or whole images, in all.
        method: What is differentiated.
    """
    from ..effects.samples import DECODING, IMAGE, UNET, Pass

    rows = []
    for index in range(passes):
        number, request = divmod(index, requests)
        rows.append(Pass(request, number, IMAGE if method is Method.WHOLE else UNET))
        if method is Method.STEPS and number % _VAE_EVERY == 0:
            rows.append(Pass(request, number // _VAE_EVERY, DECODING))
    return rows


def count_passes(samples: Samples, *, skipped: int = 0) -> int:
    """Count the passes of U-Net steps or whole images; those that only decode come with them, and cost little.

    Args:
        samples: The estimate.
        skipped: How many of the first rows do not count.
    """
    from ..effects.samples import DECODING

    return sum(row.source != DECODING for row in samples.passes[skipped:])


def count_images(order: EffectOrder) -> int:
    """Count the images of an estimate at most: one of each request, and those that the unit is measured by."""
    return len(order.requests) + (1 if order.method is Method.WHOLE else len(order.requests))


def estimate_effects(
    host: Host,
    order: EffectOrder,
    *,
    folder: Path | None = None,
    watcher: EffectWatcher | None = None,
    locator: ModelLocator = AS_RECORDED,
) -> Effects:
    """Estimate the effect of every tensor on the images of a merge.

    Args:
        host: What makes the images, and differentiates them.
        order: What to estimate.
        folder: Where samples are kept and found again; None to keep none. After an error or Stop, the passes that are
            done are kept, too.
        watcher: Hears of the progress.
        locator: Finds the models.

    Raises:
        CheckpointError: A model is missing, damaged, has changed, or is none that can be merged.
        MergeError: The models do not fit together, or cannot be merged into the live model; or no tensor has an effect.
        RecipeError: Block weights are for another architecture, or the models are one file.
        HostError: The host cannot differentiate its images, or fails.
        ImageError: The samples cannot be written.
        Stopped: The user asked for it.
    """
    refuse_same_file(order.recipe, locator)
    order = replace(order, requests=single_images(order.requests, host))
    with differentiated_merge(host, order.recipe, purpose="effects are estimated by", locator=locator) as opened:
        estimate = _Estimate(opened.differentiator, opened.merge, order, watcher or EffectWatcher())
        estimate.prepare(opened.live, opened.models)
        order = estimate.choose_method()
        keeper = _Keeper(folder, order.origin(locator), estimate.keys)
        try:
            estimate.run(keeper.samples)
        except (Stopped, KeyboardInterrupt) as exc:
            keeper.keep(estimate.samples)
            raise _stopped(estimate.samples, keeper.file) from exc
        except Exception:  # torch, hit by an interrupt, raises errors of other types
            keeper.keep(estimate.samples)
            raise
        keeper.keep(estimate.samples)
        if not estimate.samples.numbers.any():
            raise MergeError("No tensor has an effect on these images: where it counts, the models are equal.")
        made = len(estimate.samples.passes) - len(keeper.samples.passes)
        return Effects(order, estimate.samples, estimate.images, keeper.file, made, estimate.generated)


class _Keeper:
    """Keeps samples in a file, and finds those that are there.

    Args:
        folder: Its folder; None to keep none.
        origin: What the samples are made from.
        keys: The tensors that they are of.

    Attributes:
        file: The file; None if there is none.
        samples: Those that were found.
    """

    def __init__(self, folder: Path | None, origin: Mapping[str, Any], keys: Sequence[str]) -> None:
        from ..effects.samples import no_samples
        from ..effects.samples_file import file_of, read_samples

        self._origin = origin
        self.samples = no_samples(keys)
        self.file = None if folder is None else file_of(folder, origin)
        if self.file is not None and self.file.is_file():
            with suppress(CheckpointError):  # a damaged file is made anew
                found, _ = read_samples(self.file)
                self.samples = found if found.keys == self.samples.keys else self.samples

    def keep(self, samples: Samples) -> None:
        """Write samples.

        Raises:
            ImageError: They cannot be written.
        """
        from ..effects.samples_file import encode_samples

        if self.file is None or not samples.passes:
            return
        make_folder(self.file.parent)
        write_whole(self.file, encode_samples(samples, self._origin), replace=True)


def _stopped(samples: Samples, file: Path | None) -> Stopped:
    """Say what is kept after a stop."""
    if file is None or not samples.passes:
        return Stopped()
    return Stopped(f"Stopped; passes that are kept: {count_passes(samples)}. Start again to go on from there.")


class _Estimate:
    """The work on one estimate.

    Attributes:
        samples: What is done so far.
        keys: The tensors that it is about.
        generated: How many images were made.
    """

    def __init__(
        self, differentiator: Differentiator, merge: LiveMerge, order: EffectOrder, watcher: EffectWatcher
    ) -> None:
        self._differentiator = differentiator
        self._merge = merge
        self._order = order
        self._watcher = watcher
        self._traces: list[TracedImage] = []
        self._done = 0
        self._total = count_images(order) + len(schedule(len(order.requests), order.passes, order.method))
        self.generated = 0

    def prepare(self, live: LiveModel, models: OpenModels) -> None:
        """Merge the recipe, and find out what can be differentiated by."""
        from ..effects.derivatives import movement_by_alpha
        from ..effects.passes import PassMaker
        from ..effects.samples import no_samples

        recipe = self._order.recipe
        with_more_alpha(recipe, _SMALL_STEP)  # what a mode does not take is refused before anything is drawn
        recipe = self._merge.apply(recipe, controls=self._watcher.controls).plan.recipe
        plan = models.planner(recipe).plan(recipe)
        directions = movement_by_alpha(plan, models.open(recipe), models.loras(recipe))
        self._maker = PassMaker(
            self._differentiator.networks(),
            live.tensors(),
            directions,
            should_stop=self._watcher.controls.should_stop,
        )
        self.keys = self._maker.keys
        self.samples = no_samples(self.keys)
        self._trace_all(self._room())

    @property
    def images(self) -> tuple[Image.Image, ...]:
        """The image of each request."""
        return tuple(trace.image.image for trace in self._traces)

    def choose_method(self) -> EffectOrder:
        """Say what memory a pass needs, and choose single steps where the host cannot differentiate whole images.

        Raises:
            HostError: A pass does not fit into memory.
        """
        largest = max(self._traces, key=lambda trace: trace.image.image.width * trace.image.image.height)
        if self._order.method is Method.WHOLE and not largest.whole:
            self._watcher.on_note("This host cannot differentiate whole images: single steps are used.")
            self._order = replace(self._order, method=Method.STEPS)
        needed, free = self._measure_memory(largest), self._maker.free_memory()
        if free is not None and needed > free and largest.kept_bytes:
            self._trace_all(0)
            free = self._maker.free_memory()
        if self._order.method is Method.WHOLE:
            needed += self._maker.hold_gradients(None if free is None else free - needed)
        kept = sum(trace.kept_bytes for trace in self._traces)
        self._watcher.on_note(f"A backward pass needs about {_in_mb(needed + kept)} beside the model.")
        if free is not None and needed > free:
            raise HostError(
                f"A backward pass needs about {_in_mb(needed)}, and {_in_mb(free)} are free: use smaller images, or "
                "close other programs."
            )
        return self._order

    def _measure_memory(self, image: TracedImage) -> int:
        """Measure what a pass needs; steps, and the decoding, are computed one after the other."""
        from ..effects.samples import DECODING, UNET

        decodes = self._order.method is Method.WHOLE or any(map(is_vae_key, self.keys))
        return max(self._maker.memory(image, source) for source in (UNET, DECODING)[: 1 + decodes])

    def run(self, samples: Samples) -> None:
        """Make the passes that are not there, and what measures their unit.

        Args:
            samples: Those that are there.
        """
        self.samples = samples
        rows = self._missing()
        unmeasured = self._unmeasured()
        self._total = self._done + len(rows) + len(unmeasured)
        if self._order.method is Method.STEPS:  # first, so that what is kept after a stop has a unit
            self._measure_each(unmeasured)
        for row in rows:
            known = count_passes(self.samples)
            self._progress(f"pass {min(known + 1, self._order.passes)} of {self._order.passes}")
            self._add(row)
        if self._order.method is Method.WHOLE:  # last, since graphs that are kept need the numbers they were made with
            self._measure_each(unmeasured)
        self._progress("done")

    def _measure_each(self, requests: Sequence[int]) -> None:
        for index in requests:
            self._progress("measuring")
            self._measure(index)

    def _unmeasured(self) -> Sequence[int]:
        """List the requests whose unit is to be measured: for whole images, one is enough."""
        if self._order.method is Method.WHOLE:
            return range(self.samples.shape is None)
        return [index for index in range(len(self._order.requests)) if index not in self.samples.slopes]

    def _missing(self) -> list[Pass]:
        """List the passes that are not there."""
        from ..effects.samples import DECODING

        known = set(self.samples.passes)
        rows = schedule(len(self._order.requests), self._order.passes, self._order.method)
        has_vae = any(map(is_vae_key, self.keys))
        return [row for row in rows if row not in known and (has_vae or row.source != DECODING)]

    def _room(self) -> int:
        """Give the bytes that the graphs of an image may need: together a third of what is free."""
        free = self._maker.free_memory() if self._order.method is Method.WHOLE else None
        return (free or 0) // (3 * len(self._order.requests))

    def _trace_all(self, room: int) -> None:
        self._traces = []
        for request in self._order.requests:
            self._trace(request, room)

    def _progress(self, text: str) -> None:
        self._watcher.on_progress(self._done, self._total, text)
        self._done += 1

    def _trace(self, request: ImageRequest, room: int) -> None:
        self._progress("generating")
        model = {LABEL_FIELD: name_recipe(self._order.recipe)}
        with self._maker.differentiable() if room else nullcontext():
            self._traces.append(self._differentiator.trace(request, model=model, room=room))
        self.generated += 1
        self._watcher.on_image(self._traces[-1].image, request.prompt)

    def _add(self, row: Pass) -> None:
        self.samples = self.samples.with_pass(row, self._maker.sample(self._traces[row.request], row))

    def _measure(self, index: int) -> None:
        """Measure how an image changes when everything moves a little."""
        moved, image = self._draw_moved(index), self._traces[index].image.image
        if self._order.method is Method.WHOLE:
            self.samples = self.samples.with_shape(difference_shape(image, moved))
        else:
            self.samples = self.samples.with_slope(index, mean_difference(image, moved) / _SMALL_STEP)

    def _draw_moved(self, index: int) -> Image.Image:
        self._merge.apply(with_more_alpha(self._order.recipe, _SMALL_STEP), controls=self._watcher.controls)
        try:
            moved = self._differentiator.trace(self._order.requests[index], model={LABEL_FIELD: "a small step"})
        finally:
            self._merge.apply(self._order.recipe, controls=self._watcher.controls)
        self.generated += 1
        return moved.image.image


def _in_mb(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
