"""Tensors of files that are read again and again, kept in memory: cells of a sweep need the same ones."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import CheckpointError
from .computation import StoredData, TensorReader
from .files.tensor_data import Buffer
from .half_precision import largest
from .models import Model
from .out_of_memory import is_out_of_memory
from .plan import MergePlan, Role

MOST_BYTES = 1 << 27
"""The memory for them; a cell of a sweep reads a few MB, and reading them again would take as long as computing."""

_ALIGNMENT = 64
"""Bytes; each tensor starts at a multiple of it, so that it can be read as numbers of any dtype."""
_Name = tuple[Model, str]


class _KeptPiece(NamedTuple):
    values: Tensor
    largest: float | None
    """The largest absolute value of fp16 numbers."""


class KeptData:
    """A tensor of a file, as :class:`.execute.StoredData`; its pieces are kept when they are read.

    Args:
        data: The tensor.
        memory: Bytes for its numbers.

    Attributes:
        shape: Its shape.
        dtype: Its dtype.
        nbytes: Its size in bytes.
        in_memory: True: what was read stays.
    """

    in_memory = True

    def __init__(self, data: StoredData, memory: Tensor) -> None:
        self.shape = data.shape
        self.dtype = data.dtype
        self.nbytes = len(memory)
        self._data = data
        self._memory = memory
        self._pieces: dict[tuple[int, int], _KeptPiece] = {}

    def read(self, start: int, stop: int, buffer: Buffer) -> Tensor:  # noqa: ARG002
        """Read some numbers as :meth:`TensorData.read` does, or give those that were read before."""
        piece = self._pieces.get((start, stop))
        if piece is None:
            piece = self._pieces[start, stop] = self._read(start, stop)
        return piece.values

    def largest(self, start: int, stop: int) -> float | None:
        """Give the largest absolute value of fp16 numbers that were read."""
        return self._pieces[start, stop].largest

    def tensor(self) -> Tensor:
        """Read the whole tensor into memory of its own."""
        return self._data.tensor()

    def _read(self, start: int, stop: int) -> _KeptPiece:
        size = self.dtype.itemsize
        values = self._data.read(start, stop, Buffer(self._memory[start * size : stop * size]))
        return _KeptPiece(values, largest(values) if values.dtype is torch.float16 else None)


class _Held(NamedTuple):
    position: int
    data: KeptData


class RecentTensors:
    """Reads tensors of models, and keeps those that were read last.

    Memory that the process has not used yet costs more time than reading into it. So one piece of memory, which is made
    ready while a whole model is merged, is given to tensors one after the other, and then from its start again. A
    position counts the bytes that were ever given, so that the memory at a position is used again once that count is
    ``capacity`` further.

    Args:
        capacity: The bytes of the memory, a multiple of 64.
    """

    def __init__(self, capacity: int = MOST_BYTES) -> None:
        self._capacity = capacity
        self._memory: Tensor | None = None
        self._preparing: threading.Thread | None = None
        self._held: dict[_Name, _Held] = {}
        self._positions: dict[_Name, int] = {}  # where tensors that the plan needs will be
        self._end = 0

    def readers(self, models: Mapping[Role, Model], plan: MergePlan) -> Mapping[Role, TensorReader]:
        """Give what reads the models for a plan; a plan of more than half of the memory reads the files alone.

        Tensors that were given for the plan before must not be in use any more.
        """
        names = [(models[role], tensor.name.key) for tensor in plan.tensors for role in tensor.inputs]
        sizes = {(model, key): _aligned(model.read_nbytes(key)) for model, key in names}
        fits = sum(sizes.values()) <= self._capacity // 2
        if not self._reserve() or not fits:
            self._prepare()
            return models
        self.wait()
        self._make_room(sizes)
        return {role: _Reader(self, model) for role, model in models.items()}

    def wait(self) -> None:
        """Wait until nothing is done in the background any more."""
        if self._preparing is not None:
            self._preparing.join()

    def data(self, model: Model, key: str) -> KeptData:
        """Give a tensor of a model, of the plan that :meth:`readers` was called for last; valid for this plan.

        Raises:
            CheckpointError: The file cannot be read, has changed since it was opened, or is closed.
            KeyError: It has no such tensor.
        """
        held = self._held.get((model, key))
        if held is not None:
            changed = next((file for file in model.files if file.has_changed()), None)
            if changed is not None:
                raise CheckpointError(f"{changed.path} changed while it was read.")
            return held.data
        assert self._memory is not None
        position = self._positions[model, key]
        place = position % self._capacity
        memory = self._memory[place : place + model.read_nbytes(key)]
        held = self._held[model, key] = _Held(position, KeptData(model.data(key), memory))
        return held.data

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

    def _reserve(self) -> bool:
        """Tell whether there is memory; the first call asks the system for it."""
        if self._memory is None:
            try:
                self._memory = torch.empty(self._capacity, dtype=torch.uint8)
            except (MemoryError, RuntimeError) as exc:
                if not is_out_of_memory(exc):
                    raise
                return False
        return True

    def _prepare(self) -> None:
        """Write to the memory while the files of a large model are merged: only then the system gives it."""
        if self._memory is not None and self._preparing is None and not self._held:
            self._preparing = threading.Thread(target=self._memory.zero_, name="memory")
            self._preparing.start()


class _Reader(NamedTuple):
    """Reads the tensors of one model."""

    recent: RecentTensors
    model: Model

    def data(self, key: str) -> KeptData:
        """Give a tensor."""
        return self.recent.data(self.model, key)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
