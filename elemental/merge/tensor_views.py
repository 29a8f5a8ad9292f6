"""Live tensors: a checkpoint's tensor as one or several views of memory, read and written piece by piece."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

Parts = tuple[Tensor, ...]
"""The numbers of one tensor: those of each part in row-major order, one part after the other."""

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def count_numbers(parts: Sequence[Tensor]) -> int:
    """Count the numbers that the parts of a tensor hold together."""
    return sum(part.numel() for part in parts)


def pieces_of(parts: Sequence[Tensor], start: int, values: Tensor) -> Iterator[tuple[Tensor, int, Tensor]]:
    """Cut a piece of a tensor to its parts.

    Args:
        parts: Of the tensor.
        start: Where in the flattened tensor the piece begins, in numbers.
        values: The piece, 1-D.

    Yields:
        A part, where in the flattened part a piece begins, and that piece.
    """
    stop, first = start + len(values), 0
    for part in parts:
        low, high = max(start, first), min(stop, first + part.numel())
        if low < high:
            yield part, low - first, values[low - start : high - start]
        first += part.numel()


def copy_piece(part: Tensor, start: int, values: Tensor) -> None:
    """Write numbers into a flattened part, rounded to its format.

    Args:
        part: Of any format, on any device, contiguous or not.
        start: Where in the flattened part they go, in numbers.
        values: 1-D, of any format, on any device.
    """
    with torch.inference_mode():  # some hosts load their models in this mode, and write only so
        if part.is_contiguous():
            part.view(-1)[start : start + len(values)].copy_(values)
        else:
            places = torch.arange(start, start + len(values), device=part.device)
            _bits(part).put_(places, _bits(values.to(device=part.device, dtype=part.dtype)))


def equals(part: Tensor, start: int, values: Tensor) -> bool:
    """Tell whether a flattened part holds the bits that writing these numbers would give.

    Args:
        part: As for :func:`copy_piece`, as are
        start: and
        values: the numbers.
    """
    if part.is_contiguous():
        own = _bits(part.view(-1)[start : start + len(values)])
    else:
        own = _bits(part).take(torch.arange(start, start + len(values), device=part.device))
    return torch.equal(own, _bits(values.to(device=part.device, dtype=part.dtype)))


def _bits(values: Tensor) -> Tensor:
    """See numbers as integers: NaN equals itself then, and fp8 can be picked from."""
    return values.view(_INTEGERS[values.element_size()])
