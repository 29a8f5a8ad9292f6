"""What a live merge keeps of its recipes: which tensors the live model has, what each holds, and which are right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from ..architectures.keys import UNET_PREFIX
from ..architectures.tensor_sets import TensorSet
from ..errors import MergeError
from ..recipe.recipe import MergeRecipe
from .files.checkpoint import Checkpoint
from .plan import MergePlan, Role, TensorPlan
from .planner import Planner, Ratios
from .tensor_views import count_numbers

Models = Mapping[Role, Checkpoint]
"""The opened files of a recipe."""

_SAMPLES = 16
_SAMPLE_SIZE = 1 << 18  # numbers


@dataclass
class LiveContents:
    """What recipes of the same models, mode, VAE and number format share.

    Attributes:
        key: Equal for two recipes only if one contents serves both.
        planner: Plans these recipes.
        models: Their files.
        present: Tensors of the result that the live model has.
        recipe: The last one.
        ratios: Which tensors it gives which alpha and beta.
        up_to_date: Tensors of the live model that are as it wants them.
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
        """Which bit each key has in sets of tensors."""
        return {name.key: index for index, name in enumerate(self.planner.names)}


def present_tensors(planner: Planner, live: Mapping[str, Sequence[Tensor]]) -> TensorSet:
    """Tell which tensors of a result the live model has.

    Raises:
        MergeError: It is not a model of the same kind.
    """
    present = 0
    for index, name in enumerate(planner.names):
        parts = live.get(name.key)
        if parts is None:
            if name.key.startswith(UNET_PREFIX):
                raise MergeError(another_model(f"it has no {name.key}", planner))
            continue
        size = count_numbers(parts)
        if size != planner.infos[name.key].numel:
            raise MergeError(
                another_model(f"{name.key} has {size} numbers, not {planner.infos[name.key].numel}", planner)
            )
        present |= 1 << index
    return present


def another_model(what: str, planner: Planner) -> str:
    """Say that the live model is another than the one to merge."""
    return (
        f"The live model is not of the same kind as the models to merge ({planner.architecture.name}): {what}.\n"
        "Load model A first."
    )


def unchanged(before: Mapping[Ratios, TensorSet], after: Mapping[Ratios, TensorSet]) -> TensorSet:
    """Tell which tensors keep their ratios."""
    same = 0
    for ratio, tensors in after.items():
        same |= before.get(ratio, 0) & tensors
    return same


def fits(tensor: TensorPlan, live: Mapping[str, Sequence[Tensor]]) -> bool:
    """Tell whether a live model has a tensor in the size that a plan has."""
    return count_numbers(live.get(tensor.name.key, ())) == tensor.info.numel


def identities(contents: LiveContents, tensors: TensorSet) -> dict[str, object]:
    """Tell by key what tensors hold: equal for two tensors only if their numbers are the same."""
    found: dict[str, object] = {}
    for tensor in contents.planner.plan_some(contents.recipe, tensors).tensors:
        paths = tuple(str(contents.models[role].path) for role in tensor.inputs)
        if len(paths) == 1:
            found[tensor.name.key] = (paths[0], tensor.info.dtype)
        else:
            found[tensor.name.key] = (paths, tensor.info.dtype, contents.recipe.mode, tensor.alpha, tensor.beta)
    return found


def choose_sample(plan: MergePlan) -> MergePlan:
    """Choose up to 16 tensors, of up to 2**18 numbers if there are any, of those that differ from A if there are."""
    tensors = [tensor for tensor in plan.tensors if tensor.changed] or list(plan.tensors)
    small = [tensor for tensor in tensors if tensor.info.numel <= _SAMPLE_SIZE] or tensors
    step = max(1, len(small) // _SAMPLES)
    return MergePlan(plan.architecture, plan.recipe, tuple(small[::step][:_SAMPLES]))
