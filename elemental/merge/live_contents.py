"""The contents of a live model during merges: its tensors, what each holds, and which are up to date."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from ..architectures.keys import UNET_PREFIX
from ..architectures.tensor_sets import TensorSet
from ..errors import MergeError
from ..recipe.recipe import MergeRecipe
from ..recipe.rules import Ratios
from .files.checkpoint import Checkpoint
from .plan import MergePlan, Role, TensorPlan
from .planner import Planner
from .tensor_views import count_numbers, equals, first_numbers

Models = Mapping[Role, Checkpoint]
"""The opened files of a recipe."""

_SAMPLES = 16
_SAMPLE_SIZE = 1 << 18  # numbers
_WITNESSED = 1 << 14  # numbers of each part


@dataclass
class LiveContents:
    """The contents of a live model, for recipes of the same models, mode, VAE and number format.

    Attributes:
        key: Identifies these recipes.
        planner: Plans these recipes.
        models: Their files.
        present: The tensors of the result that the live model has.
        recipe: The last recipe.
        ratios: The tensors of each alpha and beta in the last recipe.
        up_to_date: The tensors that hold the results of the last recipe.
    """

    key: object
    planner: Planner
    models: Models
    present: TensorSet
    recipe: MergeRecipe
    ratios: Mapping[Ratios, TensorSet] = field(default_factory=dict)
    up_to_date: TensorSet = 0

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


def unchanged(before: Mapping[Ratios, TensorSet], after: Mapping[Ratios, TensorSet]) -> TensorSet:
    """Find the tensors that keep their ratios."""
    same = 0
    for ratio, tensors in after.items():
        same |= before.get(ratio, 0) & tensors
    return same


def fits(tensor: TensorPlan, live: Mapping[str, Sequence[Tensor]]) -> bool:
    """Tell whether a live model has a tensor of the planned size."""
    return count_numbers(live.get(tensor.name.key, ())) == tensor.info.numel


def identities(contents: LiveContents, tensors: TensorSet) -> dict[str, object]:
    """Identify what tensors hold, by key: identities are equal only if the numbers are."""
    by_key: dict[str, object] = {}
    for tensor in contents.planner.plan_some(contents.recipe, tensors).tensors:
        files = tuple(identity_of(contents.models[role]) for role in tensor.inputs)
        if len(files) == 1:
            by_key[tensor.name.key] = (files[0], tensor.info.dtype)
        else:
            by_key[tensor.name.key] = (files, tensor.info.dtype, contents.recipe.mode, tensor.alpha, tensor.beta)
    return by_key


def identity_of(model: Checkpoint) -> object:
    """Identify what a file holds: identities are equal only if it is the same file, unchanged."""
    return str(model.path), model.identity


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
