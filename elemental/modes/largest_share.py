"""How large the numbers of a tensor's largest share are at least, found without holding the tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

_FINE_BITS = 48
"""The bits of a float64 that the first pass does not look at: it sorts by the exponent and the next 4 bits."""

_BINS = 1 << (63 - _FINE_BITS)


def find_least_kept(read: Callable[[], Iterator[Sequence[Tensor]]], *, share: float) -> list[float]:
    """Give the least of the largest numbers of some tensors: the k-th value, exactly.

    Positive floats have the order of their bits. A first pass counts how many numbers have which upper bits, a second
    one sorts those of the bits where the share ends.

    Args:
        read: Reads the tensors from their start, piece by piece, as positive float64 on the CPU.
        share: The share of each that is kept, at least one number.
    """
    import numpy as np

    counts: list[NDArray[np.int64]] = []
    for pieces in read():
        counted = [np.bincount(_bits(piece) >> _FINE_BITS, minlength=_BINS) for piece in pieces]
        counts = [total + more for total, more in zip(counts, counted, strict=True)] if counts else counted
    wanted = [max(1, round(share * int(count.sum()))) for count in counts]
    places = [_find_bin(count, rank) for count, rank in zip(counts, wanted, strict=True)]
    inside: list[list[NDArray[np.int64]]] = [[] for _ in counts]
    for pieces in read() if any(place for place, _ in places) else ():
        for found, piece, (place, _) in zip(inside, pieces, places, strict=True):
            bits = _bits(piece)
            found.append(bits[bits >> _FINE_BITS == place] if place else bits[:0])
    return [_find_value(found, rank) for found, (place, rank) in zip(inside, places, strict=True)]


def _bits(numbers: Tensor) -> NDArray[np.int64]:
    bits: NDArray[np.int64] = numbers.numpy().view("i8")
    return bits


def _find_bin(counts: NDArray[np.int64], rank: int) -> tuple[int, int]:
    """Give the bin of the number of a rank, from the largest on, and its rank there."""
    at_least = counts[::-1].cumsum()
    place = int(at_least.searchsorted(rank))
    before = int(at_least[place - 1]) if place else 0
    return len(counts) - 1 - place, rank - before


def _find_value(found: Sequence[NDArray[np.int64]], rank: int) -> float:
    """Give the number of a rank, from the largest on; 0 for the lowest bin, which holds 0 and what is next to it."""
    import numpy as np

    bits = np.concatenate(found) if found else np.zeros(0, dtype="i8")
    if not len(bits):
        return 0.0
    place = len(bits) - rank
    return float(np.partition(bits, place)[place : place + 1].view("f8")[0])
