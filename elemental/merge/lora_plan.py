"""How much of each LoRA a recipe adds to each tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ..architectures.blocks import Architecture
from ..architectures.keys import Component, KeyName
from ..architectures.tensor_sets import TensorSet
from ..lora.keys import find_places
from ..lora.layers import LoraLayers
from ..recipe.recipe import MergeRecipe
from ..recipe.rules import format_ratio
from ..recipe.spec_warnings import USUAL, SpecWarning
from .files.tensor_info import TensorInfo
from .lora_fit import fit_lora
from .plan import LoraUse, TensorPlan

Uses = tuple[LoraUse, ...]


class LoraPlanner:
    """Plans the LoRAs of recipes that differ in ratios alone.

    Args:
        recipe: Any of these recipes.
        loras: The name of each LoRA's file, and its layers.
        names: The tensors of the result.
        infos: Their number formats and shapes, by key.
        architecture: The architecture of the models.

    Attributes:
        fits: The LoRAs beside the result.

    Raises:
        MergeError: A LoRA belongs to another kind of model.
    """

    def __init__(
        self,
        recipe: MergeRecipe,
        loras: Sequence[tuple[str, LoraLayers]],
        names: Sequence[KeyName],
        *,
        infos: Mapping[str, TensorInfo],
        architecture: Architecture,
    ) -> None:
        places = find_places(infos) if loras else {}
        self.fits = tuple(fit_lora(name, layers, infos, places) for name, layers in loras)
        for fit, (_, layers) in zip(self.fits, loras, strict=True):
            fit.refuse(layers, architecture, force=recipe.force)
        self._loras_of = {
            index: changing
            for index, name in enumerate(names)
            if (changing := tuple(place for place, fit in enumerate(self.fits) if name.key in fit.changes))
        }
        self._in_text_encoders = {index for index in self._loras_of if names[index].component is Component.TEXT_ENCODER}

    def uses(self, recipe: MergeRecipe, index: int) -> Uses:
        """Give the LoRAs that are added to a tensor.

        Args:
            recipe: The recipe.
            index: The tensor's place in the result.
        """
        found = []
        for place in self._loras_of.get(index, ()):
            lora = recipe.loras[place]
            ratio = lora.in_text_encoders if index in self._in_text_encoders else lora.ratio
            if ratio:
                found.append(LoraUse(place, ratio))
        return tuple(found)

    def sets(self, recipe: MergeRecipe, everything: TensorSet) -> dict[Uses, TensorSet]:
        """Give the tensors of each choice of LoRAs and ratios, also those that have none."""
        sets: dict[Uses, TensorSet] = {}
        rest = everything
        for index in self._loras_of:
            uses = self.uses(recipe, index)
            sets[uses] = sets.get(uses, 0) | 1 << index
            rest &= ~(1 << index)
        sets[()] = sets.get((), 0) | rest
        return sets

    def warnings(self, recipe: MergeRecipe) -> Iterator[SpecWarning]:
        """Warn of what has no place, and of ratios that were probably not meant."""
        yield from (SpecWarning(fit.warning) for fit in self.fits if fit.warning)
        for lora in recipe.loras:
            for ratio in dict.fromkeys((lora.ratio, lora.in_text_encoders)):
                if not USUAL[0] <= ratio <= USUAL[1]:
                    usual = f"{USUAL[0]:g} to {USUAL[1]:g}"
                    yield SpecWarning(f"LoRA {lora.file.name}: {format_ratio(ratio)} is outside {usual}.")
            if not lora.ratio and not lora.in_text_encoders:
                yield SpecWarning(f"LoRA {lora.file.name}: nothing of it is added, since its ratio is 0.")


def is_baked(recipe: MergeRecipe, tensors: Sequence[TensorPlan]) -> bool:
    """Tell whether LoRAs are added to model A, and nothing else is merged."""
    return bool(recipe.loras) and all(len(tensor.inputs) == 1 for tensor in tensors)
