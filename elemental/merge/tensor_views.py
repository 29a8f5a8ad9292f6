"""Read and write live tensors: a checkpoint's tensor is one or several views of memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

Parts = tuple[Tensor, ...]
"""The live tensors that together hold one tensor of a checkpoint: one part after the other, each in row-major order."""

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def count_numbers(parts: Sequence[Tensor]) -> int:
    """Count the numbers in all parts of a tensor."""
    return sum(part.numel() for part in parts)


def pieces_of(parts: Sequence[Tensor], start: int, values: Tensor) -> Iterator[tuple[Tensor, int, Tensor]]:
    """Split a piece of a tensor among its parts.

    Args:
        parts: The parts of the tensor.
        start: The index of the piece's first number in the flattened tensor.
        values: The piece, 1-D.

    Yields:
        A part, the index of its first number in the flattened part, and the numbers for it.
    """
    stop, first = start + len(values), 0
    for part in parts:
        low, high = max(start, first), min(stop, first + part.numel())
        if low < high:
            yield part, low - first, values[low - start : high - start]
        first += part.numel()


def copy_piece(part: Tensor, start: int, values: Tensor) -> None:
    """Write numbers into a part, rounded to its dtype.

    Args:
        part: A tensor of any dtype on any device, contiguous or not.
        start: The index of the first number in the flattened part.
        values: The numbers, 1-D, of any dtype on any device.
    """
    with torch.inference_mode():  # tensors made in this mode, as in some hosts, can only be written in it
        if part.is_contiguous():
            part.view(-1)[start : start + len(values)].copy_(values)
        else:
            places = torch.arange(start, start + len(values), device=part.device)
            _bits(part).put_(places, _bits(values.to(device=part.device, dtype=part.dtype)))


def room_in(parts: Sequence[Tensor], start: int, count: int) -> Tensor | None:
    """Give the memory of some numbers of a tensor, 1-D; None if they are in several parts, or not side by side.

    Args:
        parts: The parts of the tensor.
        start: The index of the first number in the flattened tensor.
        count: How many there are.
    """
    if len(parts) != 1 or not parts[0].is_contiguous():
        return None
    with torch.inference_mode():  # as above
        return parts[0].view(-1)[start : start + count]


def equals(part: Tensor, start: int, values: Tensor) -> bool:
    """Tell whether a part holds the bits that :func:`copy_piece` would write.

    Args:
        part: A tensor of any dtype on any device, contiguous or not.
        start: The index of the first number in the flattened part.
        values: The numbers, 1-D, of any dtype on any device.
    """
    if part.is_contiguous():
        held = _bits(part.view(-1)[start : start + len(values)])
    else:
        held = _bits(part).take(torch.arange(start, start + len(values), device=part.device))
    return torch.equal(held, _bits(values.to(device=part.device, dtype=part.dtype)))


def first_numbers(part: Tensor, count: int) -> Tensor:
    """Copy up to so many of a part's first numbers to the CPU, 1-D."""
    return part.flatten()[:count].to("cpu", copy=True)


def _bits(values: Tensor) -> Tensor:
    """View numbers as integers: then NaN equals itself, and fp8 can be indexed."""
    return values.view(_INTEGERS[values.element_size()])
