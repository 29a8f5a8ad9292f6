"""Tensors of files that are read again and again, kept in memory: cells of a sweep need the same ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..errors import CheckpointError
from .execute import TensorReader
from .files.checkpoint import Checkpoint
from .files.tensor_data import Buffer, HeldData, TensorData
from .out_of_memory import is_out_of_memory
from .plan import MergePlan, Role

MOST_BYTES = 1 << 27
"""The memory for them; a cell of a sweep reads a few MB, and reading them again would take as long as computing."""

_ALIGNMENT = 64
"""Bytes; each tensor starts at a multiple of it, so that it can be read as numbers of any dtype."""
_Name = tuple[Checkpoint, str]


class _Held(NamedTuple):
    position: int
    data: HeldData


class RecentTensors:
    """Reads tensors of models, and keeps those that were read last.

    A tensor is kept when it is read for the second time: the first time, reading it piece by piece takes less time than
    reading it into memory that the process has not used yet. For the same reason, one piece of memory is given to
    tensors one after the other, and then from its start again. A position counts the bytes that were ever given, so
    that the memory at a position is used again once that count is ``capacity`` further.

    Args:
        capacity: The bytes of the memory, a multiple of 64.
    """

    def __init__(self, capacity: int = MOST_BYTES) -> None:
        self._capacity = capacity
        self._memory: Tensor | None = None
        self._held: dict[_Name, _Held] = {}
        self._positions: dict[_Name, int] = {}  # where tensors that the plan needs will be
        self._read_before: WeakKeyDictionary[Checkpoint, set[str]] = WeakKeyDictionary()
        self._end = 0

    def readers(self, models: Mapping[Role, Checkpoint], plan: MergePlan) -> Mapping[Role, TensorReader]:
        """Give what reads the models for a plan; a plan of more than half of the memory reads the files alone.

        Tensors that were given for the plan before must not be in use any more.
        """
        names = [(models[role], tensor.name.key) for tensor in plan.tensors for role in tensor.inputs]
        sizes = {(model, key): _aligned(model.tensors[key].nbytes) for model, key in names}
        if sum(sizes.values()) > self._capacity // 2 or not self._has_memory():
            return models
        self._make_room({(model, key): sizes[model, key] for model, key in names if self._was_read(model, key)})
        return {role: _Reader(self, model) for role, model in models.items()}

    def data(self, model: Checkpoint, key: str) -> TensorData | HeldData:
        """Give a tensor of a model, of the plan that :meth:`readers` was called for last; valid for this plan.

        Raises:
            CheckpointError: The file cannot be read, has changed since it was opened, or is closed.
            KeyError: It has no such tensor.
        """
        held = self._held.get((model, key))
        if held is not None:
            if model.has_changed():
                raise CheckpointError(f"{model.path} changed while it was read.")
            return held.data
        position = self._positions.get((model, key))
        if position is None:
            self._read_before.setdefault(model, set()).add(key)
            return model.data(key)
        held = self._held[model, key] = _Held(position, self._read(model, key, position))
        return held.data

    def _was_read(self, model: Checkpoint, key: str) -> bool:
        return key in self._read_before.get(model, ())

    def _read(self, model: Checkpoint, key: str, position: int) -> HeldData:
        assert self._memory is not None
        data, numel = model.data(key), model.tensors[key].numel
        memory = Buffer(self._memory[position % self._capacity :])
        return HeldData(data.read(0, numel, memory).view(data.shape))

    def _make_room(self, sizes: Mapping[_Name, int]) -> None:
        """Find positions for the tensors that are not held, and forget those that were in that memory."""
        while True:
            missing = [name for name in sizes if name not in self._held]
            self._positions, end = self._place(missing, sizes)
            overwritten = [name for name, held in self._held.items() if held.position < end - self._capacity]
            for name in overwritten:
                del self._held[name]
            if sizes.keys().isdisjoint(overwritten):
                self._end = end
                return

    def _place(self, names: Iterable[_Name], sizes: Mapping[_Name, int]) -> tuple[dict[_Name, int], int]:
        """Give positions for tensors, none of which crosses the memory's end, and the position behind the last one.

        Tensors of half of the memory leave at most the other half unused, and so never overwrite each other.
        """
        positions, end = {}, self._end
        for name in names:
            before_end = -end % self._capacity or self._capacity
            positions[name] = end if sizes[name] <= before_end else end + before_end
            end = positions[name] + sizes[name]
        return positions, end

    def _has_memory(self) -> bool:
        """Tell whether there is memory for tensors; the first call asks the system for it."""
        if self._memory is None:
            try:
                self._memory = torch.empty(self._capacity, dtype=torch.uint8)
            except (MemoryError, RuntimeError) as exc:
                if not is_out_of_memory(exc):
                    raise
                return False
        return True


class _Reader(NamedTuple):
    """Reads the tensors of one model."""

    recent: RecentTensors
    model: Checkpoint

    def data(self, key: str) -> TensorData | HeldData:
        """Give a tensor."""
        return self.recent.data(self.model, key)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
