"""The numbers of a tensor in a file, read piece by piece into memory that is used again."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .dtypes import TORCH_DTYPES
from .model_file import ModelFile
from .tensor_info import StoredTensor

_PIECE = 1 << 18
"""Numbers that are read at a time, few enough to stay in the CPU's caches."""


class Buffer:
    """Memory that is used again: new memory from the system costs more time than reading into it.

    Args:
        memory: Bytes to begin with; more is taken from the system when it is needed.
    """

    def __init__(self, memory: Tensor | None = None) -> None:
        self._bytes = torch.empty(0, dtype=torch.uint8) if memory is None else memory
        self._last: tuple[int, torch.dtype] | None = None
        self._room: tuple[Tensor, memoryview]

    def room(self, count: int, dtype: torch.dtype) -> tuple[Tensor, memoryview]:
        """Give memory for numbers, in place of what was given before: as a tensor, and as bytes."""
        if self._last != (count, dtype):  # most pieces are as long as the one before
            self._last, self._room = (count, dtype), self._make_room(count, dtype)
        return self._room

    def _make_room(self, count: int, dtype: torch.dtype) -> tuple[Tensor, memoryview]:
        size = count * dtype.itemsize
        if len(self._bytes) < size:
            self._bytes = torch.empty(size, dtype=torch.uint8)
        room = self._bytes[:size]
        return room.view(dtype), room.numpy().data


class TensorData:
    """A tensor in a file.

    Args:
        file: The open file.
        stored: Where the tensor lies in it.

    Attributes:
        shape: Its shape.
        dtype: Its dtype.
        in_memory: False: it is read anew each time.
    """

    in_memory = False

    def __init__(self, file: ModelFile, stored: StoredTensor) -> None:
        self.shape: tuple[int, ...] = stored.info.shape
        self.dtype: torch.dtype = TORCH_DTYPES[stored.info.dtype]
        self._file = file
        self._stored = stored
        self._in_sequence = stored.stride == stored.info.strides
        self._whole: Tensor | None = None

    def read(self, start: int, stop: int, buffer: Buffer) -> Tensor:
        """Read some numbers.

        Args:
            start: The index of the first number in the flattened tensor.
            stop: The index behind the last one.
            buffer: Memory for them.

        Returns:
            The numbers, 1-D, on the CPU; valid until the buffer is used again, and not to be written to.

        Raises:
            CheckpointError: The file cannot be read, has changed since it was opened, or is closed.
        """
        if not self._in_sequence:  # of a pickle, and then not larger than a layer
            if self._whole is None:
                self._whole = self.tensor().reshape(-1)
            return self._whole[start:stop]
        values, memory = buffer.room(stop - start, self.dtype)
        self._file.read(self._stored.start + start * self.dtype.itemsize, memory)
        return values

    def largest(self, start: int, stop: int) -> None:
        """Give None: what the largest absolute value is was not looked at."""

    def tensor(self) -> Tensor:
        """Read the whole tensor into memory of its own.

        Raises:
            CheckpointError: The file cannot be read, has changed since it was opened, or is closed.
        """
        values = torch.empty(self._stored.extent, dtype=torch.uint8)
        self._file.read(self._stored.start, values.numpy().data)
        return values.view(self.dtype).as_strided(self.shape, self._stored.stride)

    def pieces(self, buffer: Buffer) -> Iterator[tuple[int, Tensor]]:
        """Read all numbers, some at a time.

        Args:
            buffer: Memory for them.

        Yields:
            The index of the first number, and the numbers, as :meth:`read` gives them.

        Raises:
            CheckpointError: The file cannot be read, has changed since it was opened, or is closed.
        """
        count = self._stored.info.numel
        for start in range(0, count, _PIECE):
            yield start, self.read(start, min(start + _PIECE, count), buffer)


class HeldData:
    """A tensor in memory, with the methods of :class:`TensorData` that a merge needs.

    Args:
        tensor: The tensor, on the CPU.

    Attributes:
        shape: Its shape.
        dtype: Its dtype.
        in_memory: True.
    """

    in_memory = True

    def __init__(self, tensor: Tensor) -> None:
        self.shape: tuple[int, ...] = tuple(tensor.shape)
        self.dtype: torch.dtype = tensor.dtype
        self._numbers = tensor.reshape(-1)

    def read(self, start: int, stop: int, buffer: Buffer) -> Tensor:  # noqa: ARG002
        """Give some numbers as :meth:`TensorData.read` does."""
        return self._numbers[start:stop]

    def largest(self, start: int, stop: int) -> None:
        """Give None: what the largest absolute value is was not looked at."""

    def tensor(self) -> Tensor:
        """Give the whole tensor."""
        return self._numbers.view(self.shape)
