"""What LoRAs do to a tensor: what they add, piece by piece, or the whole tensor where they need it.

A piece is computed from whole rows of the factors, always the same ones and in one thread: sums of products depend on
how they are cut, and a file, a live merge and any number of threads have to give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import CheckpointError, MergeError
from ..lora.keys import Place
from ..lora.layers import Change
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


class _Changed(NamedTuple):
    """A part of a tensor that a LoRA changes by what it is.

    Attributes:
        change: The change.
        numbers: Its tensors by role.
        ratio: How far the part goes to the changed one.
        place: The part.
        shape: The shape of the tensor.
        file: The LoRA's file, for errors.
    """

    change: Change
    numbers: Mapping[str, Tensor]
    ratio: float
    place: Place
    shape: tuple[int, ...]
    file: str

    def apply(self, total: Tensor) -> None:
        """Change the part.

        Args:
            total: The whole tensor, flattened, float64, on the CPU.

        Raises:
            CheckpointError: The LoRA does not fit to the tensor.
            MergeError: It holds numbers that cannot be computed with.
        """
        start, stop = _range_of(self.place, len(total))
        weight = total[start:stop].view(self.shape[0] // self.place.parts, *self.shape[1:])
        if self.place.transposed:
            weight = weight.t()
        try:
            weight.lerp_(self.change.changed(weight, self.numbers), self.ratio)
        except CheckpointError as exc:
            raise CheckpointError(f"{self.file}: of the layer {self.change.written}, {exc}.") from exc
        except torch.linalg.LinAlgError as exc:  # type: ignore[attr-defined]  # of OFT; not of usual numbers
            raise MergeError(
                f"{self.file}: the layer {self.change.written} holds NaN, infinite or far too large numbers."
            ) from exc


class Deltas:
    """What the LoRAs of a merge do to one tensor.

    The factors are read when the first piece is asked for; several threads may ask.

    Args:
        plan: The tensor.
        loras: The LoRAs of the recipe.

    Attributes:
        need_weight: Whether one of them needs the tensor, all of it.
    """

    def __init__(self, plan: TensorPlan, loras: Sequence[OpenLora]) -> None:
        self._key = plan.name.key
        self._numel = plan.info.numel
        self._names = ", ".join(loras[use.place].fit.name for use in plan.loras)
        self.need_weight = any(loras[use.place].fit.needs_weight(self._key) for use in plan.loras)
        self._parts = Once(partial(_read_parts, plan, loras))

    def apply(self, values: Tensor, start: int) -> Tensor:
        """Give some numbers with what LoRAs do to them, all of the tensor where :attr:`need_weight` says so.

        Args:
            values: The numbers, 1-D, in the working dtype, on any device; they may be written to.
            start: The index of the first one in the flattened tensor.

        Raises:
            CheckpointError: A file cannot be read, or has changed.
            MergeError: A LoRA holds NaN or infinite numbers.
        """
        if not self.need_weight:
            values += self.piece(start, start + len(values)).to(values.device, values.dtype)
            return values
        total = values.to("cpu", torch.float64).contiguous()
        was_finite = _is_finite(total)
        for part in self._parts():
            if isinstance(part, _Changed):
                part.apply(total)
            else:
                for at in range(0, len(total), _BLOCK):
                    part.add(total[at : at + _BLOCK], at)
        if was_finite and not _is_finite(total):
            raise self._not_finite("makes of")
        return total.to(values.device, values.dtype)

    def _not_finite(self, does: str) -> MergeError:
        return MergeError(
            f"What {self._names} {does} {self._key} is not finite: the LoRA holds NaN or infinite numbers, or its "
            "ratio is too large."
        )

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
                assert isinstance(part, _Part)
                part.add(blocks[at : at + _BLOCK], first + at)
        total = blocks[start - first : stop - first]
        if not _is_finite(total):
            raise self._not_finite("adds to")
        return total


def _is_finite(numbers: Tensor) -> bool:
    return math.isfinite(numbers.sum().item())


def _read_parts(plan: TensorPlan, loras: Sequence[OpenLora]) -> Sequence[_Part | _Changed]:
    return [
        _read_part(plan, loras[use.place].file, use, placed)
        for use in plan.loras
        for placed in loras[use.place].fit.changes[plan.name.key]
    ]


def _read_part(plan: TensorPlan, file: LoraFile, use: LoraUse, placed: PlacedChange) -> _Part | _Changed:
    change, place = placed
    numbers = {role: file.tensor(key) for role, key in change.tensors.items()}
    if change.needs_weight:
        return _Changed(change, numbers, use.ratio, place, tuple(plan.info.shape), str(file.path))
    matrix, columns = change.matrix(numbers), change.size[1]
    if place.transposed:
        matrix, columns = Transposed(matrix, change.size[0]), change.size[0]
    start, stop = _range_of(place, plan.info.numel)
    return _Part(matrix, use.ratio * change.scale(numbers), start, stop, columns)


def _range_of(place: Place, numel: int) -> tuple[int, int]:
    size = numel // place.parts
    return place.part * size, (place.part + 1) * size
