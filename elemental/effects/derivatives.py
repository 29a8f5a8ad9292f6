"""Derivatives of tensors by their alpha, where the result is no weighted sum of the models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from ..errors import RecipeError
from ..merge.computation import StoredData, TensorReader
from ..merge.files.lora_file import OpenLora
from ..merge.files.tensor_data import Buffer
from ..merge.inner_merge import InnerMerge
from ..merge.plan import MergePlan, Role, TensorPlan, formula_roles
from ..merge.shape_fit import can_merge_shapes
from ..modes.catalogue import MergeMode
from ..recipe.numbers import complete_numbers
from .directions import Directions, Movement, is_merged, more_alpha

_STEP = 2.0**-12
"""Of alpha, to both sides. The error of the quotient falls with its square; float64 leaves it 12 digits."""


def movement_by_alpha(plan: MergePlan, models: Mapping[Role, TensorReader], loras: Sequence[OpenLora] = ()) -> Movement:
    """Give the derivative of each merged tensor by its alpha.

    Args:
        plan: A plan of all tensors; those that are not merged do not move.
        models: The models of the plan.
        loras: Its LoRAs.

    Raises:
        RecipeError: The mode has no derivative: a little more of alpha moves many numbers at once, such as whole rows.
    """
    mode = plan.mode.record
    if mode.weighted_sum and not any(map(plan.needs_weight, plan.tensors)):
        return Directions(more_alpha(plan), models)
    if jumps := mode.jumps(plan.recipe.numbers):
        others = ", ".join(mode.value for mode in MergeMode if not mode.record.jumps(complete_numbers(mode, {})))
        raise RecipeError(
            f"Effects are estimated for modes in which a little more of alpha moves each number a little ({others}); "
            f"{plan.mode.value} {jumps}."
        )
    return Derivatives(plan, models, loras)


class Derivatives(Movement):
    """Computes central difference quotients in float64, when they are read.

    Random numbers of a mode stay what they are. What LoRAs add does not depend on alpha; where one needs the weight, as
    a DoRA does, all that LoRAs do to the tensor is computed. At the ends of a mode's ratios they are computed a little
    within them: a power of alpha has no derivative at 0. Where the derivative jumps, they are computed a little above.

    Args:
        plan: The plan.
        models: Its models.
        loras: Its LoRAs.
    """

    def __init__(self, plan: MergePlan, models: Mapping[Role, TensorReader], loras: Sequence[OpenLora] = ()) -> None:
        self._merge = InnerMerge(plan, models, loras)
        self._models = models
        self._limits = plan.mode.record.limits or (-math.inf, math.inf)
        self._kinks = plan.mode.record.kinks
        self._buffers = Buffer(), Buffer()
        self._opened: tuple[str, tuple[StoredData, ...]] = "", ()
        self._planned = {
            tensor.name.key: tensor._replace(inputs=roles, loras=tensor.loras if plan.needs_weight(tensor) else ())
            for tensor in plan.tensors
            for roles in (formula_roles(plan.mode, tensor.more),)
            if is_merged(tensor) and self._fit(tensor.name.key, roles)
        }
        super().__init__({key: tensor.info.numel for key, tensor in self._planned.items()})

    def _fit(self, key: str, roles: Sequence[Role]) -> bool:
        own = self._models[Role.A].data(key).shape
        return all(can_merge_shapes(key, own, self._models[role].data(key).shape) for role in roles)

    def _read(self, key: str, start: int, stop: int) -> Tensor:
        if self._opened[0] != key:  # what is known of a whole tensor is found once for all of its pieces
            self._opened = key, self._open(self._planned[key])
        below, above = self._opened[1]
        more = above.read(start, stop, self._buffers[0])
        return more.sub_(below.read(start, stop, self._buffers[1])).div_(2 * _STEP).float()

    def _open(self, tensor: TensorPlan) -> tuple[StoredData, ...]:
        least, most = self._limits
        alpha = min(max(tensor.alpha, least + 2 * _STEP), most - 2 * _STEP)
        alpha += 2 * _STEP * (alpha in self._kinks)
        return tuple(self._merge.data(tensor._replace(alpha=ratio)) for ratio in (alpha - _STEP, alpha + _STEP))
