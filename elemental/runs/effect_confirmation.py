"""Confirm estimated effects by real images, one tensor at a time; figures are kept, and a stopped one goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ElementalError, Stopped
from ..hosts.base import Host
from ..images.diff import mean_difference
from ..images.files import write_whole
from ..images.image_request import GeneratedImage
from ..merge.files.checkpoint import Signature
from ..merge.files.model_locator import AS_RECORDED, ModelLocator
from ..merge.plan import TensorPlan
from ..merge.progress import Stopwatch
from ..recipe.recipe import MergeRecipe
from ..recipe.rules import RuleSet, rule_of_tensor
from ..recipe.text_files import read_text
from .cells import Cell
from .effect_estimate import Effects, EffectWatcher
from .image_maker import ImageMaker, OneHost

_VERSION = 1

_Figures = dict[str, list[float]]
"""The mean absolute difference in the image of each request, by key; of the first requests only, after a stop."""


@dataclass(frozen=True)
class Confirmation:
    """What real images say of tensors.

    Attributes:
        figures: The mean absolute difference of channel values, of 255, from the recipe's image, at a ratio that is
            larger by 1: the mean of all requests, by key.
        generated: How many images were made now; the others were there.
    """

    figures: Mapping[str, float]
    generated: int


def confirm_effects(
    host: Host | ImageMaker,
    effects: Effects,
    tensors: Sequence[TensorPlan],
    *,
    folder: Path | None = None,
    watcher: EffectWatcher | None = None,
    locator: ModelLocator = AS_RECORDED,
) -> Confirmation:
    """Make real images of tensors, each with an alpha that is larger by 1, on top of the recipe.

    Args:
        host: Makes the images: a host, or another maker that knows more devices.
        effects: The estimate, with the recipe's images.
        tensors: Which to confirm, in this order; as the recipe's plan has them.
        folder: Where the figures are kept and found again; None to keep none. What is done is kept after an error or
            Stop, too.
        watcher: Hears of the progress.
        locator: Finds the models.

    Raises:
        CheckpointError: A model is missing, damaged or has changed.
        MergeError: The models cannot be merged into the live model.
        HostError: The host fails.
        ImageError: The figures cannot be written.
        Stopped: The user asked for it.
    """
    keeper = _Keeper(folder, _origin(effects, locator))
    inbox = _Inbox(effects, tensors, keeper, watcher or EffectWatcher())
    maker = host if isinstance(host, ImageMaker) else OneHost(host, locator)
    try:
        inbox.make_missing(maker)
    except (Stopped, KeyboardInterrupt) as exc:
        done = sum(not keeper.missing(tensor, len(effects.images)) for tensor in tensors)
        raise Stopped(f"Stopped; {done} of {len(tensors)} tensors are confirmed: start again to go on.") from exc
    figures = {tensor.name.key: keeper.figures[tensor.name.key] for tensor in tensors}
    return Confirmation({key: sum(known) / len(known) for key, known in figures.items()}, inbox.made)


def _origin(effects: Effects, locator: ModelLocator) -> dict[str, Any]:
    """Say what true figures depend on: not on how effects were estimated."""
    return {name: value for name, value in effects.order.origin(locator).items() if name != "method"}


class _Inbox:
    """Takes the images of tensors as a run takes those of its cells: x is the request, y the tensor.

    Args:
        effects: The estimate.
        tensors: Those that are confirmed.
        keeper: Keeps the figures.
        watcher: Hears of the progress.

    Attributes:
        models: Which files a run began with; the merges look at them.
        controls: Progress and stop.
        watch: Counts the seconds of what belongs to no cell.
        made: How many images were made.
    """

    def __init__(
        self, effects: Effects, tensors: Sequence[TensorPlan], keeper: _Keeper, watcher: EffectWatcher
    ) -> None:
        self.models: Mapping[str, Signature] = {}
        self.controls = watcher.controls
        self.watch = Stopwatch()
        self.made = 0
        self._effects = effects
        self._tensors = tensors
        self._keeper = keeper
        self._watcher = watcher
        self._total = 0
        self._error: Exception | None = None

    def make_missing(self, maker: ImageMaker) -> None:
        """Make the images whose figures are not known.

        Raises:
            ElementalError: Some of them cannot be made; those that can are.
            Stopped: The user asked for it.
        """
        order = self._effects.order
        cells = [
            Cell(index, number, with_more_of(order.recipe, tensor), order.requests[index])
            for number, tensor in enumerate(self._tensors)
            for index in self._keeper.missing(tensor, len(self._effects.images))
        ]
        self._total = len(cells)
        if cells:
            maker.make(cells, self)
        if self._error is not None:
            raise self._error
        if cells:
            self._watcher.on_progress(self._total, self._total, "done")

    def begin(self, cell: Cell) -> None:
        """Say what is confirmed next.

        Raises:
            Stopped: The user asked for it.
        """
        if self.controls.should_stop():
            raise Stopped
        self._watcher.on_progress(self.made, self._total, f"confirming {self._tensors[cell.y].name.block}")

    def take(
        self,
        cell: Cell,
        generated: GeneratedImage,
        seconds: Mapping[str, float],  # noqa: ARG002
        device: str | None = None,  # noqa: ARG002
    ) -> None:
        """Keep the difference of an image from the recipe's.

        Raises:
            ImageError: It cannot be written.
        """
        key = self._tensors[cell.y].name.key
        self.made += 1
        self._watcher.on_image(generated, key)
        self._keeper.add(key, cell.x, mean_difference(self._effects.images[cell.x], generated.image))

    def fail(self, cell: Cell, error: Exception, seconds: Mapping[str, float] | None = None) -> None:  # noqa: ARG002
        """Note the first error; one of a model ends it, since all others would meet it.

        Raises:
            Stopped: The user asked for it, which may be the reason.
            CheckpointError: A model cannot be read.
        """
        if self.controls.should_stop():
            raise Stopped from error
        if isinstance(error, CheckpointError):
            raise error
        if isinstance(error, ElementalError):
            named = type(error)(f"{self._tensors[cell.y].name.key}: {error}")
            named.__cause__ = error
            error = named
        self._error = self._error or error


def with_more_of(recipe: MergeRecipe, tensor: TensorPlan) -> MergeRecipe:
    """Give a recipe in which alpha is larger by 1 for one tensor, by a rule after all others.

    Args:
        recipe: The recipe.
        tensor: As its plan has it.
    """
    rule = rule_of_tensor(tensor.name, tensor.alpha + 1)
    return replace(recipe, rules=RuleSet((*recipe.rules.rules, rule)))


class _Keeper:
    """Keeps figures in a file, beside the samples of the estimate.

    Args:
        folder: Its folder; None to keep none.
        origin: What the figures depend on.

    Attributes:
        figures: Those that are known.
    """

    def __init__(self, folder: Path | None, origin: Mapping[str, Any]) -> None:
        from ..effects.samples_file import file_of

        self._origin = origin
        self._file: Path | None = None
        self.figures: _Figures = {}
        self._early: dict[str, dict[int, float]] = {}
        if folder is not None:
            samples = file_of(folder, origin)
            self._file = samples.with_name(samples.stem.replace("effects", "confirmed") + ".json")
            with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):  # a damaged file is made anew
                self.figures = _parse(json.loads(read_text(self._file)))

    def missing(self, tensor: TensorPlan, count: int) -> range:
        """List the requests whose figure of a tensor is not known."""
        return range(len(self.figures.get(tensor.name.key, ())), count)

    def add(self, key: str, request: int, difference: float) -> None:
        """Add the figure of a tensor and a request, and write the file; one that came too early waits for the others.

        Raises:
            ImageError: It cannot be written.
        """
        self._early.setdefault(key, {})[request] = difference
        known = self.figures.setdefault(key, [])
        while len(known) in self._early[key]:
            known.append(self._early[key].pop(len(known)))
        if self._file is not None:
            figures = {key: known for key, known in sorted(self.figures.items()) if known}
            told = {"version": _VERSION, "origin": self._origin, "differences": figures}
            write_whole(self._file, json.dumps(told, indent=1).encode(), replace=True)


def _parse(data: Mapping[str, Any]) -> _Figures:
    if data["version"] != _VERSION:
        raise ValueError("another version")
    return {str(key): [float(figure) for figure in figures] for key, figures in data["differences"].items()}
