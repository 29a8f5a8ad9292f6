"""Estimate the effect of every element on images, from a few backward passes; in a file that more can be added to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..architectures.keys import is_vae_key
from ..errors import MergeError, RecipeError, Stopped
from ..hosts.base import Host
from ..images.diff import difference_shape, mean_difference
from ..images.image_request import GeneratedImage, ImageRequest
from ..merge.files.model_file import read_signature
from ..merge.files.model_locator import AS_RECORDED, ModelLocator
from ..merge.progress import Controls
from ..recipe.recipe import MergeRecipe, ModelSource
from .differentiated_merge import differentiated_merge, single_images
from .effect_maker import SMALL_STEP, Drawing, EffectMaker, Unit

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from ..effects.samples import Pass, Samples

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
        found: How many passes were there, beside those that only decode.
    """

    order: EffectOrder
    samples: Samples
    images: tuple[Image.Image, ...]
    file: Path | None
    made: int
    generated: int
    found: int = 0


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


def _place_of(row: Pass, requests: int) -> tuple[int, bool]:
    """Give what the passes of a schedule are sorted by, of any number of them."""
    every = 1 if _is_counted(row) else _VAE_EVERY
    return row.number * every * requests + row.request, not _is_counted(row)


def count_passes(samples: Samples) -> int:
    """Count the passes of U-Net steps or whole images; those that only decode come with them, and cost little."""
    return sum(map(_is_counted, samples.passes))


def _is_counted(row: Pass) -> bool:
    """Tell whether a pass counts: all but those that only decode."""
    from ..effects.samples import DECODING

    return row.source != DECODING


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
    maker: EffectMaker | None = None,
) -> Effects:
    """Estimate the effect of every tensor on the images of a merge.

    Args:
        host: What makes the images, and differentiates them; beside another maker, it only says which samplers it has.
        order: What to estimate.
        folder: Where samples are kept and found again; None to keep none. After an error or Stop, the passes that are
            done are kept, too.
        watcher: Hears of the progress.
        locator: Finds the models.
        maker: What makes images and passes; None for the host.

    Raises:
        CheckpointError: A model is missing, damaged, has changed, or is none that can be merged.
        MergeError: The models do not fit together, or cannot be merged into the live model; or no tensor has an effect.
        RecipeError: Block weights are for another architecture, or the models are one file.
        HostError: The host cannot differentiate its images, or fails.
        ImageError: The samples cannot be written.
        Stopped: The user asked for it.
    """
    from .kept_samples import KeptSamples

    refuse_same_file(order.recipe, locator)
    order = replace(order, requests=single_images(order.requests, host))
    with _opened(maker, host, order.recipe, locator) as maker:
        estimate = _Estimate(maker, order, watcher or EffectWatcher())
        order = estimate.prepare()
        keeper = KeptSamples(folder, order.origin(locator), estimate.keys)
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
        samples, found = estimate.samples, keeper.samples
        made = len(samples.passes) - len(found.passes)
        return Effects(
            order, samples, estimate.images, keeper.file, made, estimate.generated, found=count_passes(found)
        )


@contextmanager
def _opened(maker: EffectMaker | None, host: Host, recipe: MergeRecipe, locator: ModelLocator) -> Iterator[EffectMaker]:
    """Give the maker, or one on the host, whose live model is restored when the ``with`` block ends."""
    if maker is not None:
        yield maker
        return
    from .effect_passes import HostEffects

    with differentiated_merge(host, recipe, purpose="effects are estimated by", locator=locator) as opened:
        yield HostEffects(opened)


def _stopped(samples: Samples, file: Path | None) -> Stopped:
    """Say what is kept after a stop."""
    if file is None or not samples.passes:
        return Stopped()
    return Stopped(f"Stopped; passes that are kept: {count_passes(samples)}. Start again to go on from there.")


class _Estimate:
    """The work on one estimate: it takes what its maker makes.

    Args:
        maker: Makes images and passes.
        order: What is estimated.
        watcher: Hears of the progress.

    Attributes:
        keys: The tensors that it is about.
        generated: How many images were made.
    """

    def __init__(self, maker: EffectMaker, order: EffectOrder, watcher: EffectWatcher) -> None:
        self._maker = maker
        self._order = order
        self._watcher = watcher
        self._images: dict[int, Image.Image] = {}
        self._begun = self._done = 0
        self._total = count_images(order) + len(schedule(len(order.requests), order.passes, order.method))
        self.generated = 0

    def prepare(self) -> EffectOrder:
        """Make the images, and give the order with the method that is used."""
        from ..effects.samples import no_samples

        self.keys, method = self._maker.prepare(self._order, self)
        self._samples = no_samples(self.keys)
        self._order = replace(self._order, method=method)
        return self._order

    @property
    def images(self) -> tuple[Image.Image, ...]:
        """The image of each request."""
        return tuple(self._images[index] for index in range(len(self._order.requests)))

    @property
    def samples(self) -> Samples:
        """What is done so far, in the order of the schedule, whatever the order in which it came."""
        return self._samples.in_order(lambda row: _place_of(row, len(self._order.requests)))

    def run(self, samples: Samples) -> None:
        """Make the passes that are not there, and what measures their unit.

        Args:
            samples: Those that are there.
        """
        self._samples = samples
        self._begun = count_passes(samples)
        rows = self._missing()
        moved = [Drawing(index, moved=True) for index in self._unmeasured()]
        self._total = self._done + len(rows) + len(moved)
        # for steps, images come first, so that what is kept after a stop has a unit; for whole images last, since
        # graphs that are kept need the numbers that they were made with
        self._maker.make([*moved, *rows] if self._order.method is Method.STEPS else [*rows, *moved], self)
        self._progress("done")

    def _unmeasured(self) -> Sequence[int]:
        """List the requests whose unit is to be measured: for whole images, one is enough."""
        if self._order.method is Method.WHOLE:
            return range(self._samples.shape is None)
        return [index for index in range(len(self._order.requests)) if index not in self._samples.slopes]

    def _missing(self) -> list[Pass]:
        """List the passes that are not there."""
        from ..effects.samples import DECODING

        known = set(self._samples.passes)
        rows = schedule(len(self._order.requests), self._order.passes, self._order.method)
        has_vae = any(map(is_vae_key, self.keys))
        return [row for row in rows if row not in known and (has_vae or row.source != DECODING)]

    @property
    def controls(self) -> Controls:
        """Progress and stop of each merge."""
        return self._watcher.controls

    def note(self, text: str) -> None:
        """Hear what a user should know."""
        self._watcher.on_note(text)

    def begin(self, unit: Unit) -> None:
        """Say what is made next."""
        if isinstance(unit, Drawing):
            self._progress("measuring" if unit.moved else "generating")
            return
        self._progress(f"pass {min(self._begun + 1, self._order.passes)} of {self._order.passes}")
        self._begun += _is_counted(unit)

    def take_image(self, drawing: Drawing, made: GeneratedImage) -> None:
        """Keep the image of a request; measure how it changes when everything moves a little."""
        self.generated += 1
        self._done += 1
        if drawing.moved:
            self._measure(drawing.request, made.image)
        else:
            self._images[drawing.request] = made.image
            self._watcher.on_image(made, self._order.requests[drawing.request].prompt)

    def take_pass(self, row: Pass, sample: Tensor) -> None:
        """Add a pass."""
        self._samples = self._samples.with_pass(row, sample)
        self._done += 1

    def _progress(self, text: str) -> None:
        self._watcher.on_progress(self._done, self._total, text)

    def _measure(self, index: int, moved: Image.Image) -> None:
        image = self._images[index]
        if self._order.method is Method.WHOLE:
            self._samples = self._samples.with_shape(difference_shape(image, moved))
        else:
            self._samples = self._samples.with_slope(index, mean_difference(image, moved) / SMALL_STEP)
