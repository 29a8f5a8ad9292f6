"""What is known of a tensor without reading it: number format and shape, as safetensors headers name them."""

from __future__ import annotations

import math
from typing import NamedTuple

BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8,
    "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U8": 8, "BOOL": 8,
}  # fmt: skip
"""Bits a number takes, by the format's name in a safetensors header. Other formats are refused."""


class TensorInfo(NamedTuple):
    """A tensor's number format, as safetensors spells it ("F16"), and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def is_float(self) -> bool:
        """Whether its numbers can be merged."""
        return self.dtype.startswith(("F", "BF"))

    @property
    def numel(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def strides(self) -> tuple[int, ...]:
        """How many numbers lie between neighbours along each dimension, where all lie together in row-major order."""
        return tuple(math.prod(self.shape[place + 1 :]) for place in range(len(self.shape)))

    @property
    def nbytes(self) -> int:
        """How many bytes they take."""
        return self.numel * BITS[self.dtype] // 8
