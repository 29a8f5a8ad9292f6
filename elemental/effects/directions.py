"""Directions: where a merge moves each tensor, as a combination of its models that is read from their files.

``derivatives.py`` has those of modes whose result is no such combination.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from ..architectures.keys import FIRST_CONV
from ..errors import RecipeError
from ..merge.computation import StoredData, TensorReader, extend_channels
from ..merge.files.tensor_data import Buffer, HeldData
from ..merge.plan import MODEL_ROLES, MergePlan, Role, TensorPlan
from ..merge.shape_fit import can_merge_shapes
from ..modes.base import A, Coefficients
from ..modes.catalogue import MergeMode

_MOST_KEPT = 1 << 26
"""Numbers of directions that stay in memory, 256 MB: all of a small model, and the first ones of a large one."""


def more_alpha(plan: MergePlan) -> dict[str, Coefficients]:
    """Give the derivative of each merged tensor by its alpha, as coefficients of A, B, C and further models, by key.

    It is B - A in a weight sum and B - C in add difference, whatever the ratio. These modes are linear in alpha, so
    that the difference quotient is the derivative.

    Args:
        plan: A plan of all tensors; those that are not merged have no direction.

    Raises:
        RecipeError: The mode's result is no weighted sum of the models.
    """
    return {
        tensor.name.key: _adjusted(
            tensor, _difference(_coefficients(plan, tensor, 1.0), _coefficients(plan, tensor, 0.0))
        )
        for tensor in plan.tensors
        if is_merged(tensor)
    }


def from_model_a(plan: MergePlan) -> dict[str, Coefficients]:
    """Give the way of each merged tensor from A to its result, as coefficients of A, B, C and further models, by key.

    LoRAs are left out, as if A had none of them too. For those that need the weight, it is the way of what they change.

    Args:
        plan: A plan of all tensors; those that stay as in A have no direction.

    Raises:
        RecipeError: The mode's result is no weighted sum of the models.
    """
    ways = {
        tensor.name.key: _adjusted(
            tensor, _difference(_coefficients(plan, tensor, 0.0), (*A, *(0.0 for _ in tensor.more)))
        )
        for tensor in plan.tensors
        if is_merged(tensor)
    }
    return {key: way for key, way in ways.items() if any(way)}


def is_merged(tensor: TensorPlan) -> bool:
    """Tell whether a tensor can be merged, whatever its ratios."""
    return not tensor.note and tensor.info.is_float


def _coefficients(plan: MergePlan, tensor: TensorPlan, more: float) -> Coefficients:
    if not plan.mode.record.weighted_sum:
        known = ", ".join(mode.value for mode in MergeMode if mode.record.weighted_sum)
        raise RecipeError(
            f"Merges are simplified whose result is a weighted sum of the models ({known}); {plan.mode.value} is none."
        )
    coefficients = plan.mode.coefficients(tensor.alpha + more, tensor.beta or 0.0, tensor.more)
    assert coefficients
    return coefficients


def _difference(one: Coefficients, other: Coefficients) -> Coefficients:
    return tuple(left - right for left, right in zip(one, other, strict=True))


def _adjusted(tensor: TensorPlan, way: Coefficients) -> Coefficients:
    """Give a way as it is after the adjustment of a result, which multiplies it."""
    factor = tensor.adjusted.factor if tensor.adjusted else 1.0
    return tuple(factor * coefficient for coefficient in way)


class Movement(ABC):
    """Gives where each tensor moves, piece by piece; what is small enough to be read again from memory is kept.

    Args:
        sizes: How many numbers each tensor has, by key.

    Attributes:
        keys: The tensors that move.
    """

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.keys = frozenset(sizes)
        self._sizes = sizes
        self._kept: dict[str, Tensor] = {}
        self._room = _MOST_KEPT

    def read(self, key: str, start: int, stop: int) -> Tensor:
        """Give some numbers of a tensor's direction.

        Args:
            key: The tensor, one of :attr:`keys`.
            start: The index of the first number in the flattened tensor.
            stop: The index behind the last one.

        Returns:
            The numbers, 1-D, float32, on the CPU.

        Raises:
            CheckpointError: A file cannot be read, or has changed.
        """
        if key not in self._kept and stop - start == self._sizes[key] <= self._room:
            self._kept[key] = self._read(key, start, stop)
            self._room -= stop - start
        return self._kept[key][start:stop] if key in self._kept else self._read(key, start, stop)

    @abstractmethod
    def _read(self, key: str, start: int, stop: int) -> Tensor:
        """Give these numbers, in memory of their own."""


class Directions(Movement):
    """Reads directions that are sums of the models.

    Args:
        coefficients: Of A, B, C and further models, by key; keys whose shapes differ between the models are left out.
        models: The files.
    """

    def __init__(self, coefficients: Mapping[str, Coefficients], models: Mapping[Role, TensorReader]) -> None:
        self._coefficients = coefficients
        self._models = models
        self._buffers: dict[Role, Buffer] = {role: Buffer() for role in MODEL_ROLES}
        self._opened: tuple[str, Mapping[Role, StoredData]] = "", {}
        shapes = {key: self._models[Role.A].data(key).shape for key in coefficients if self._fits(key)}
        super().__init__({key: math.prod(shape) for key, shape in shapes.items()})

    def _read(self, key: str, start: int, stop: int) -> Tensor:
        if self._opened[0] != key:
            self._opened = key, self._open(key)
        total = torch.zeros(stop - start)
        for role, data in self._opened[1].items():
            coefficient = self._coefficients[key][MODEL_ROLES.index(role)]
            total.add_(data.read(start, stop, self._buffers[role]).float(), alpha=coefficient)
        return total

    def _used(self, key: str) -> list[Role]:
        return [role for role, coefficient in zip(MODEL_ROLES, self._coefficients[key], strict=False) if coefficient]

    def _fits(self, key: str) -> bool:
        result = self._models[Role.A].data(key).shape
        return all(can_merge_shapes(key, result, self._models[role].data(key).shape) for role in self._used(key))

    def _open(self, key: str) -> Mapping[Role, StoredData]:
        inputs: dict[Role, StoredData] = {role: self._models[role].data(key) for role in self._used(key)}
        if key != FIRST_CONV:
            return inputs
        a = self._models[Role.A].data(key).tensor()
        extended = extend_channels([a, *(data.tensor() for data in inputs.values())])[1:]
        return {role: HeldData(tensor) for role, tensor in zip(inputs, extended, strict=True)}
