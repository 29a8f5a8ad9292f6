"""The contents of a live model during merges: its tensors, what each holds, and which are up to date."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

from torch import Tensor

from ..architectures.keys import UNET_PREFIX
from ..architectures.tensor_sets import TensorSet
from ..errors import MergeError
from ..recipe.recipe import MergeRecipe
from ..recipe.rules import Ratios
from .files.checkpoint import Checkpoint
from .files.lora_file import OpenLora
from .models import Model, all_models, files_in
from .plan import FileRole, LoraUse, MergePlan, Role, TensorPlan
from .planner import Planner
from .tensor_identity import identify_result
from .tensor_views import count_numbers, equals, first_numbers

Models = Mapping[Role, Model]
"""The opened models of a recipe."""

_Setting = TypeVar("_Setting")
_SAMPLES = 16
_SAMPLE_SIZE = 1 << 18  # numbers
_WITNESSED = 1 << 14  # numbers of each part


@dataclass
class LiveContents:
    """The contents of a live model, for recipes of the same models, mode, its numbers, VAE and number format.

    Attributes:
        key: Identifies these recipes.
        planner: Plans these recipes.
        models: Their models.
        present: The tensors of the result that the live model has.
        recipe: The last recipe.
        loras: Their LoRAs.
        ratios: The tensors of each alpha and beta in the last recipe.
        lora_uses: The tensors of each choice of LoRAs and their ratios in it.
        more_ratios: The tensors of each choice of ratios of further models in it.
        up_to_date: The tensors that hold the results of the last recipe.
    """

    key: object
    planner: Planner
    models: Models
    present: TensorSet
    recipe: MergeRecipe
    loras: tuple[OpenLora, ...] = ()
    ratios: Mapping[Ratios, TensorSet] = field(default_factory=dict)
    lora_uses: Mapping[tuple[LoraUse, ...], TensorSet] = field(default_factory=dict)
    more_ratios: Mapping[tuple[float, ...], TensorSet] = field(default_factory=dict)
    up_to_date: TensorSet = 0

    @property
    def all_models(self) -> Mapping[FileRole, Model]:
        """The models and LoRAs."""
        return all_models(self.models, self.loras)

    @property
    def files(self) -> Sequence[Checkpoint]:
        """All files that the recipes are made from."""
        return files_in(self.all_models)

    @cached_property
    def places(self) -> Mapping[str, int]:
        """The bit of each key in sets of tensors."""
        return {name.key: index for index, name in enumerate(self.planner.names)}


def present_tensors(planner: Planner, live: Mapping[str, Sequence[Tensor]]) -> TensorSet:
    """Find the tensors of a result that the live model has.

    Raises:
        MergeError: The live model has other shapes, or lacks a tensor of the U-Net.
    """
    present = 0
    for index, name in enumerate(planner.names):
        parts = live.get(name.key)
        if parts is None:
            if name.key.startswith(UNET_PREFIX):
                raise MergeError(wrong_live_model(f"it has no {name.key}", planner))
            continue
        size = count_numbers(parts)
        if size != planner.infos[name.key].numel:
            raise MergeError(
                wrong_live_model(f"{name.key} has {size} numbers, not {planner.infos[name.key].numel}", planner)
            )
        present |= 1 << index
    return present


def wrong_live_model(difference: str, planner: Planner) -> str:
    """Say how the live model differs from the models to merge, and what to do."""
    return (
        f"The live model is not of the same kind as the models to merge ({planner.architecture.name}): {difference}.\n"
        "Load model A first."
    )


def unchanged(before: Mapping[_Setting, TensorSet], after: Mapping[_Setting, TensorSet]) -> TensorSet:
    """Find the tensors that keep their ratios, or their LoRAs, or the ratios of further models."""
    same = 0
    for ratio, tensors in after.items():
        same |= before.get(ratio, 0) & tensors
    return same


def fits(tensor: TensorPlan, live: Mapping[str, Sequence[Tensor]]) -> bool:
    """Tell whether a live model has a tensor of the planned size."""
    return count_numbers(live.get(tensor.name.key, ())) == tensor.info.numel


def identities(contents: LiveContents, tensors: TensorSet) -> dict[str, object]:
    """Identify what tensors hold, by key: identities are equal only if the numbers are."""
    plan = contents.planner.plan_some(contents.recipe, tensors)
    return {
        tensor.name.key: (identify_result(tensor, plan, contents.models, contents.loras), tensor.info.dtype)
        for tensor in plan.tensors
    }


class Witness:
    """What some live tensors held, to see later whether they still do.

    Args:
        keys: The tensors.
        live: All tensors of the live model.
    """

    def __init__(self, keys: Sequence[str], live: Mapping[str, Sequence[Tensor]]) -> None:
        self._held = {key: [first_numbers(part, _WITNESSED) for part in live[key]] for key in keys}

    def agrees(self, live: Mapping[str, Sequence[Tensor]]) -> bool:
        """Tell whether the tensors hold the same numbers."""
        return all(
            len(live.get(key, ())) == len(held)
            and all(equals(part, 0, numbers) for part, numbers in zip(live[key], held, strict=True))
            for key, held in self._held.items()
        )


def choose_sample(plan: MergePlan) -> MergePlan:
    """Choose up to 16 tensors, if possible of those that differ from A and have up to 2**18 numbers."""
    tensors = [tensor for tensor in plan.tensors if tensor.changed] or list(plan.tensors)
    small = [tensor for tensor in tensors if tensor.info.numel <= _SAMPLE_SIZE] or tensors
    step = max(1, len(small) // _SAMPLES)
    return MergePlan(plan.architecture, plan.recipe, tuple(small[::step][:_SAMPLES]))
