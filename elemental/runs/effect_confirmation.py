"""Confirm estimated effects by real images, one tensor at a time; figures are kept, and a stopped one goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Stopped
from ..hosts.base import CheckpointRef, Host
from ..images.diff import mean_difference
from ..images.files import write_whole
from ..merge.files.model_locator import AS_RECORDED, ModelLocator
from ..merge.plan import TensorPlan
from ..recipe.chains import base_file
from ..recipe.recipe import MergeRecipe
from ..recipe.rules import RuleSet, rule_of_tensor
from ..recipe.text_files import read_text
from ..workflows import images_of_merge, live_merge
from .effect_estimate import Effects, EffectWatcher

if TYPE_CHECKING:
    from ..merge.live_merge import LiveMerge

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
    host: Host,
    effects: Effects,
    tensors: Sequence[TensorPlan],
    *,
    folder: Path | None = None,
    watcher: EffectWatcher | None = None,
    locator: ModelLocator = AS_RECORDED,
) -> Confirmation:
    """Make real images of tensors, each with an alpha that is larger by 1, on top of the recipe.

    Args:
        host: Makes the images.
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
    try:
        generated = _make_missing(host, effects, tensors, keeper, watcher=watcher or EffectWatcher(), locator=locator)
    except (Stopped, KeyboardInterrupt) as exc:
        done = sum(not keeper.missing(tensor, len(effects.images)) for tensor in tensors)
        raise Stopped(f"Stopped; {done} of {len(tensors)} tensors are confirmed: start again to go on.") from exc
    figures = {tensor.name.key: keeper.figures[tensor.name.key] for tensor in tensors}
    return Confirmation({key: sum(known) / len(known) for key, known in figures.items()}, generated)


def _origin(effects: Effects, locator: ModelLocator) -> dict[str, Any]:
    """Say what true figures depend on: not on how effects were estimated."""
    return {name: value for name, value in effects.order.origin(locator).items() if name != "method"}


def _make_missing(
    host: Host,
    effects: Effects,
    tensors: Sequence[TensorPlan],
    keeper: _Keeper,
    *,
    watcher: EffectWatcher,
    locator: ModelLocator,
) -> int:
    """Make the images whose figures are not known, and give how many they are."""
    work = [(tensor, index) for tensor in tensors for index in keeper.missing(tensor, len(effects.images))]
    if not work:
        return 0
    path = locator.locate(base_file(effects.order.recipe.model_a))
    with live_merge(host.open_model(CheckpointRef(path.stem, path)), locator) as merge:
        for done, (tensor, index) in enumerate(work):
            watcher.on_progress(done, len(work), f"confirming {tensor.name.block}")
            keeper.add(tensor.name.key, _difference(host, merge, effects, tensor, index, watcher))
    watcher.on_progress(len(work), len(work), "done")
    return len(work)


def _difference(
    host: Host, merge: LiveMerge, effects: Effects, tensor: TensorPlan, index: int, watcher: EffectWatcher
) -> float:
    """Make the image of a tensor and a request, and give its difference from the recipe's."""
    if watcher.controls.should_stop():
        raise Stopped
    recipe, request = with_more_of(effects.order.recipe, tensor), effects.order.requests[index]
    (made,) = images_of_merge(host, request, merge, recipe, controls=watcher.controls)
    watcher.on_image(made, tensor.name.key)
    return mean_difference(effects.images[index], made.image)


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
        if folder is not None:
            samples = file_of(folder, origin)
            self._file = samples.with_name(samples.stem.replace("effects", "confirmed") + ".json")
            with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):  # a damaged file is made anew
                self.figures = _parse(json.loads(read_text(self._file)))

    def missing(self, tensor: TensorPlan, count: int) -> range:
        """List the requests whose figure of a tensor is not known."""
        return range(len(self.figures.get(tensor.name.key, ())), count)

    def add(self, key: str, difference: float) -> None:
        """Add the figure of a tensor's next request, and write the file.

        Raises:
            ImageError: It cannot be written.
        """
        self.figures.setdefault(key, []).append(difference)
        if self._file is not None:
            told = {"version": _VERSION, "origin": self._origin, "differences": self.figures}
            write_whole(self._file, json.dumps(told, indent=1).encode(), replace=True)


def _parse(data: Mapping[str, Any]) -> _Figures:
    if data["version"] != _VERSION:
        raise ValueError("another version")
    return {str(key): [float(figure) for figure in figures] for key, figures in data["differences"].items()}
