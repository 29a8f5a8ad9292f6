"""Which tensors of model A a LoRA changes, and what of it has no place there; from names and shapes alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..architectures.blocks import Architecture
from ..architectures.keys import shown_key
from ..errors import MergeError
from ..lora.keys import Place, Places, find_places
from ..lora.layers import Change, LoraLayers, guess_architecture
from .files.tensor_info import TensorInfo

_MOST_UNFIT = 0.1
"""Of the layers of a LoRA that belongs to a model, as good as all have a place in it."""
_SHOWN = 3


class PlacedChange(NamedTuple):
    """A change of a layer, and where the layer is in the checkpoint."""

    change: Change
    place: Place


@dataclass(frozen=True)
class LoraFit:
    """A LoRA beside a checkpoint.

    Attributes:
        name: The name of its file.
        changes: What it does to each tensor, by key.
        layers: How many layers the LoRA has.
        alone: The names of those that the checkpoint does not have, and of tensors that are none of a LoRA's.
        misshapen: The names of those that have another shape there.
    """

    name: str
    changes: Mapping[str, tuple[PlacedChange, ...]]
    layers: int
    alone: tuple[str, ...] = ()
    misshapen: tuple[str, ...] = ()

    @property
    def applied(self) -> int:
        """How many layers have their place."""
        return self.layers - len(self.alone) - len(self.misshapen)

    @property
    def summary(self) -> str:
        """Which part of it is used, in one sentence."""
        return f"LoRA {self.name}: {self.applied:,} of {self.layers:,} layers, in {len(self.changes):,} tensors."

    @property
    def warning(self) -> str:
        """What is not used of it, in one sentence; empty if all is."""
        return "" if self.applied == self.layers else f"{self._what_does_not_fit()}; the rest is added."

    def needs_weight(self, key: str) -> bool:
        """Tell whether what it does to a tensor depends on the tensor's numbers, so that it is no sum."""
        return any(placed.change.needs_weight for placed in self.changes[key])

    def _what_does_not_fit(self) -> str:
        reasons = (
            (self.alone, "no place in model A"),
            (self.misshapen, "another shape in model A"),
        )
        parts = [f"{len(names):,} have {why}, such as {shown_key(names[0])}" for names, why in reasons if names]
        return f"Of the {self.layers:,} layers of the LoRA {self.name}, {', and '.join(parts)}"

    def refuse(self, layers: LoraLayers, architecture: Architecture, *, force: bool) -> None:
        """Refuse a LoRA that belongs to another kind of model.

        Args:
            layers: Its layers.
            architecture: The architecture of the models.
            force: Whether what has a place is added all the same.

        Raises:
            MergeError: Nothing of it has a place, or more than a tenth has none and it is not forced.
        """
        unfit = self.layers - self.applied
        if unfit <= self.layers * _MOST_UNFIT or (force and self.applied):
            return
        kind = guess_architecture(layers)
        other = f"It is a LoRA for {kind}, and the models are {architecture.name}.\n"
        way_out = "--force adds the rest all the same."
        raise MergeError(
            f"{self._what_does_not_fit()}.\n{other if kind and kind != architecture.name else ''}"
            f"{way_out if self.applied else 'Choose a LoRA for these models.'}"
        )


def fit_lora(name: str, layers: LoraLayers, infos: Mapping[str, TensorInfo], places: Places | None = None) -> LoraFit:
    """Find the places of a LoRA's layers in a checkpoint.

    Args:
        name: The name of its file.
        layers: Its layers.
        infos: The tensors of model A.
        places: Those of all layers of model A, if they are known already.
    """
    places = find_places(infos) if places is None else places
    placed: dict[str, list[PlacedChange]] = {}
    alone: dict[str, None] = dict.fromkeys(layers.unread)
    misshapen: dict[str, None] = {}
    names = {change.written: None for change in layers.changes}
    for change in layers.changes:
        place = places.get((change.layer, change.kind))
        if place is None or not infos[place.key].is_float:
            alone[change.written] = None
        elif not _fits(change, place, infos[place.key].shape):
            misshapen[change.written] = None
        else:
            placed.setdefault(place.key, []).append(PlacedChange(change, place))
    whole = {key: kept for key, found in placed.items() if (kept := tuple(_of_whole_layers(found, alone, misshapen)))}
    misshapen = {layer: None for layer in misshapen if layer not in alone}
    return LoraFit(name, whole, len(names) + len(layers.unread), tuple(alone), tuple(misshapen))


def _of_whole_layers(found: Sequence[PlacedChange], *left_out: Mapping[str, None]) -> Iterator[PlacedChange]:
    """Leave out what is known to be a part of a layer that does not fit: half a layer is none."""
    return (each for each in found if not any(each.change.written in names for names in left_out))


def _fits(change: Change, place: Place, shape: tuple[int, ...]) -> bool:
    """Tell whether a change can be made at a place in a tensor."""
    if not shape or shape[0] % place.parts:
        return False
    return change.fits(layer_shape(place, shape))


def layer_shape(place: Place, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Give the shape that a layer has, from that of the tensor that it is in."""
    layer = (shape[0] // place.parts, *shape[1:])
    return layer[::-1] if place.transposed else layer
