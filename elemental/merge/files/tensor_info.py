"""Dtype and shape of a tensor, as safetensors headers name them, and where it lies in a file."""

from __future__ import annotations

import math
from typing import NamedTuple

BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8,
    "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U8": 8, "BOOL": 8,
}  # fmt: skip
"""Bits per number, by the name of the dtype in a safetensors header; other dtypes are refused."""

LARGEST = 2**63 - 1
"""The largest offset, size or stride."""
MOST_DIMENSIONS = 64
LONGEST_KEY = 1000
"""In characters; names of tensors have some 100, and what compares them piece by piece takes long for long ones."""


class TensorInfo(NamedTuple):
    """A tensor's dtype, as safetensors spells it ("F16"), and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def is_float(self) -> bool:
        """Whether the numbers are floats, which can be merged."""
        return self.dtype.startswith(("F", "BF"))

    @property
    def numel(self) -> int:
        """The number of numbers."""
        return math.prod(self.shape)

    @property
    def strides(self) -> tuple[int, ...]:
        """The strides of a contiguous tensor in row-major order, in numbers."""
        return tuple(math.prod(self.shape[place + 1 :]) for place in range(len(self.shape)))

    @property
    def nbytes(self) -> int:
        """The size in bytes."""
        return self.numel * BITS[self.dtype] // 8


class StoredTensor(NamedTuple):
    """Where a tensor lies in a file.

    Attributes:
        info: Its number format and shape.
        stride: How many numbers lie between neighbours along each of its dimensions.
        start: Its first byte, counted from the start of the file.
        extent: How many bytes lie from its first number to its last.
    """

    info: TensorInfo
    stride: tuple[int, ...]
    start: int
    extent: int
