"""What LoRAs add to a tensor, computed piece by piece.

A piece is computed from whole rows of the factors, always the same ones and in one thread: sums of products depend on
how they are cut, and a file, a live merge and any number of threads have to give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import MergeError
from ..lora.keys import Place
from ..lora.matrices import Matrix, Transposed
from .files.lora_file import LoraFile, OpenLora
from .lora_fit import PlacedChange
from .once import Once
from .plan import LoraUse, TensorPlan

_BLOCK = 1 << 18
"""Numbers that are computed at a time, whatever the size of the pieces."""


class _Part(NamedTuple):
    """A matrix that is added to a part of a tensor.

    Attributes:
        matrix: The matrix.
        weight: What it is multiplied with.
        start: The index of the part's first number in the flattened tensor.
        stop: The index behind its last one.
        columns: The columns of the matrix.
    """

    matrix: Matrix
    weight: float
    start: int
    stop: int
    columns: int

    def add(self, total: Tensor, start: int) -> None:
        """Add what belongs to a piece of the tensor.

        Args:
            total: The piece, float64.
            start: The index of its first number in the flattened tensor.
        """
        first, last = max(start, self.start) - self.start, min(start + len(total), self.stop) - self.start
        if first >= last:
            return
        first_row, last_row = first // self.columns, -(-last // self.columns)
        found = self.matrix.rows(first_row, last_row).reshape(-1)
        skipped = first_row * self.columns
        at = first + self.start - start
        total[at : at + last - first].add_(found[first - skipped : last - skipped], alpha=self.weight)


class Deltas:
    """What the LoRAs of a merge add to one tensor.

    The factors are read when the first piece is asked for; several threads may ask.

    Args:
        plan: The tensor.
        loras: The LoRAs of the recipe.
    """

    def __init__(self, plan: TensorPlan, loras: Sequence[OpenLora]) -> None:
        self._key = plan.name.key
        self._numel = plan.info.numel
        self._names = ", ".join(loras[use.place].fit.name for use in plan.loras)
        self._parts = Once(partial(_read_parts, plan, loras))

    def piece(self, start: int, stop: int) -> Tensor:
        """Compute what is added to some numbers.

        Args:
            start: The index of the first number in the flattened tensor.
            stop: The index behind the last one.

        Returns:
            The numbers, 1-D, float64, on the CPU.

        Raises:
            CheckpointError: A file cannot be read, or has changed.
            MergeError: A LoRA holds NaN or infinite numbers.
        """
        first = start - start % _BLOCK
        end = min(-(-stop // _BLOCK) * _BLOCK, self._numel)
        blocks = torch.zeros(end - first, dtype=torch.float64)
        for at in range(0, end - first, _BLOCK):
            for part in self._parts():
                part.add(blocks[at : at + _BLOCK], first + at)
        total = blocks[start - first : stop - first]
        if not math.isfinite(total.sum().item()):
            raise MergeError(
                f"What {self._names} adds to {self._key} is not finite: the LoRA holds NaN or infinite numbers, or its "
                "ratio is too large."
            )
        return total


def _read_parts(plan: TensorPlan, loras: Sequence[OpenLora]) -> Sequence[_Part]:
    return [
        _read_part(plan, loras[use.place].file, use, placed)
        for use in plan.loras
        for placed in loras[use.place].fit.changes[plan.name.key]
    ]


def _read_part(plan: TensorPlan, file: LoraFile, use: LoraUse, placed: PlacedChange) -> _Part:
    change, place = placed
    numbers = {role: file.tensor(key) for role, key in change.tensors.items()}
    matrix, columns = change.matrix(numbers), change.size[1]
    if place.transposed:
        matrix, columns = Transposed(matrix, change.size[0]), change.size[0]
    start, stop = _range_of(place, plan.info.numel)
    return _Part(matrix, use.ratio * change.scale(numbers), start, stop, columns)


def _range_of(place: Place, numel: int) -> tuple[int, int]:
    size = numel // place.parts
    return place.part * size, (place.part + 1) * size
