"""Crossover: the low frequencies of A and the high ones of B, as github.com/ljleb/sd-mecha defines it.

A whole tensor is transformed along all of its axes. Along each, frequencies go from 0 to 1; how high one of the tensor
is, says the root of the mean of their squares. Unlike there, axes of one number do not count, so a 1x1 convolution
merges as the linear layer of the same numbers does, and tensors that are almost equal are no exception. Tilts beyond 1,
which mean the high frequencies of A, are A and B swapped. A number that is not finite takes no part in the transform,
which would spread it over the tensor.

What is held of a tensor is half of its spectrum, as many bytes as its numbers in float64: the difference is transformed
along the axes behind the first when it is read, then along the first, in place, and back when a piece is computed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from .base import A, B, Mode, Needs, Number, Operands, Ratios, Read, Whole

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    Numbers = NDArray[np.float64]
    Spectrum = NDArray[np.complex128]

_BLOCK = 1 << 18
"""Frequencies that are transformed at a time by a thread: more would only take more memory."""

_MAX_THREADS = 8

_ROUNDING = 1e-9
"""Frequencies so near to a cut are on it, whatever the rounding of their sums is."""


def _survey(read: Read, ratios: Ratios, shape: Sequence[int]) -> Spectrum | None:
    """Give what is added to A, transformed along all axes but the first; None if the formula needs no transform."""
    import numpy as np

    sizes = _sizes(shape)
    tilt = ratios.numbers["t"]
    if 1 in (ratios.alpha, tilt) or not sizes:  # one number has no frequencies
        return None
    spectrum = np.empty((sizes[0], math.prod(_half(sizes))), dtype=complex)
    row = 0
    for changes in _rows_of_changes(read, sizes):
        lines = _transform_rows(changes).reshape(len(changes), -1)
        spectrum[row : row + len(lines)] = lines
        row += len(lines)
    _filter(spectrum, sizes, ratios.alpha, tilt)
    return spectrum


def _rows_of_changes(read: Read, sizes: Sequence[int]) -> Iterator[Numbers]:
    """Read B - A, some whole rows at a time, with 0 for what is not finite."""
    import numpy as np

    pieces: Iterator[Numbers] = ((tensors.b - tensors.a).nan_to_num_(0, 0, 0).cpu().numpy() for tensors in read())
    if sizes[0] == 1:
        pieces = iter([np.concatenate(list(pieces))])
    for changes in pieces:
        yield changes.reshape(-1, *sizes[1:])


def _compute(tensors: Operands, ratios: Ratios, whole: Whole) -> Tensor:
    spectrum: Spectrum | None = whole.found
    change = tensors.b.sub_(tensors.a)
    if spectrum is None:
        return change.mul_(ratios.alpha).add_(tensors.a)
    sizes = _sizes(whole.shape)
    length = math.prod(sizes[1:])
    first, last = whole.start // length, -(-(whole.start + len(change)) // length)
    filtered = _transform_back(spectrum[first:last], sizes).reshape(-1)
    start = whole.start - first * length
    own = change.new_tensor(filtered[start : start + len(change)])
    return tensors.a.add_(own.where(change.isfinite(), change))


def _sizes(shape: Sequence[int]) -> list[int]:
    """Give the sizes of the axes that have more than one number, and at least two; nothing if none has."""
    sizes = [size for size in shape if size > 1]
    return [1, *sizes] if len(sizes) == 1 else sizes


def _longest(sizes: Sequence[int]) -> int:
    """Give the axis whose frequencies are halved, as those of real numbers come in pairs: the longest but the first."""
    return max(range(1, len(sizes)), key=sizes.__getitem__)


def _half(sizes: Sequence[int]) -> tuple[int, ...]:
    """Give the shape of a row's spectrum: the short axes, then half of the longest one."""
    longest = _longest(sizes)
    return (*(size for axis, size in enumerate(sizes) if axis not in (0, longest)), sizes[longest] // 2 + 1)


def _transform_rows(changes: Numbers) -> Spectrum:
    """Transform rows along all axes but the first."""
    import numpy as np

    lines: Spectrum = np.fft.rfft(np.moveaxis(changes, _longest(changes.shape), -1))
    for axis in range(1, lines.ndim - 1):
        lines = _along_short_axis(lines, axis, -1)
    return lines


def _transform_back(rows: Spectrum, sizes: Sequence[int]) -> Numbers:
    """Give the numbers of rows, each flattened in the spectrum."""
    import numpy as np

    longest = _longest(sizes)
    lines = rows.reshape(-1, *_half(sizes))
    for axis in range(1, lines.ndim - 1):
        lines = _along_short_axis(lines, axis, 1) / lines.shape[axis]
    numbers: Numbers = np.moveaxis(np.fft.irfft(lines, n=sizes[longest]), -1, longest)
    return numbers


def _along_short_axis(lines: Spectrum, axis: int, sign: int) -> Spectrum:
    """Transform along the axis of a kernel, by the sum that defines it: for three numbers a fast way is slow."""
    import numpy as np

    size = lines.shape[axis]
    turns = np.exp(sign * 2j * np.pi * np.arange(size) / size)
    result = np.empty_like(lines)
    of_lines, of_result = (np.moveaxis(each, axis, 0) for each in (lines, result))
    for frequency in range(size):
        of_result[frequency] = of_lines[0]
        for place in range(1, size):
            of_result[frequency] += turns[frequency * place % size] * of_lines[place]
    return result


def _filter(spectrum: Spectrum, sizes: Sequence[int], alpha: float, tilt: float) -> None:
    """Transform along the first axis, multiply each frequency by the share of it that is B's, and transform back.

    Whatever the blocks and threads are, each line gives the same.

    Args:
        spectrum: Rows that are transformed along the other axes, each flattened; it is replaced.
        sizes: Of the tensor's axes, as :func:`_sizes` gives them.
        alpha: The ratio.
        tilt: How softly the share rises.
    """
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    axes = sum(size > 1 for size in sizes)
    along_first = _squares(sizes[:1], sizes[:1])[:, None]
    half, longest = _half(sizes), _longest(sizes)
    others = [*(size for axis, size in enumerate(sizes) if axis not in (0, longest)), sizes[longest]]
    along_others = _squares(others, half).reshape(-1)

    def filter_part(part: slice) -> None:
        height = np.sqrt((along_first + along_others[part]) / axes)
        lines = np.fft.fft(spectrum[:, part], axis=0)
        spectrum[:, part] = np.fft.ifft(lines * _share(height, alpha, tilt), axis=0)

    step = max(_BLOCK // len(spectrum), 1)
    parts = [slice(start, start + step) for start in range(0, spectrum.shape[1], step)]
    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1, len(parts))) as pool:
        list(pool.map(filter_part, parts))


def _share(height: Numbers, alpha: float, tilt: float) -> Numbers:
    """Give the share of B of frequencies from 0 to 1; that at 1 - alpha is alpha, unless the cut is sharp."""
    above = height - (1 - alpha)
    if tilt == 0:
        sharp: Numbers = (above > _ROUNDING).astype("f8")
        return sharp
    soft: Numbers = (above / math.tan(math.pi * tilt / 2) + alpha).clip(0, 1)
    return soft


def _squares(sizes: Sequence[int], counts: Sequence[int]) -> Numbers:
    """Give the sum of the squares of the frequencies along some axes, each from 0 to 1.

    Args:
        sizes: How many numbers the axes have.
        counts: How many frequencies of each are wanted: all of them, or the half that is not negative.
    """
    import numpy as np

    total = np.zeros(counts)
    for axis, (size, count) in enumerate(zip(sizes, counts, strict=True)):
        places = np.arange(count)
        along = np.minimum(places, size - places) / max(size // 2, 1)
        total += (along**2).reshape([-1 if each == axis else 1 for each in range(len(sizes))])
    return total


def _jumps(numbers: Mapping[str, float]) -> str:
    return "takes whole frequencies unless t is above 0" if numbers["t"] == 0 else ""


CROSSOVER = Mode(
    name="crossover",
    formula="A + F'(s F(B - A)), F the Fourier transform, s 1 for frequencies above 1 - a, else 0; t makes s a slope",
    purpose="coarse structure of A, fine structure of B: the low frequencies of A and the high ones of B",
    compute=_compute,
    coefficients=lambda a, _: {0.0: A, 1.0: B}.get(a),
    limits=(0.0, 1.0),
    needs=Needs.ROW,
    survey=_survey,
    numbers=(Number("t", 0, 0, 1, "how soft the cut is: 0 is sharp, more a slope, 1 is weight-sum"),),
    jumps=_jumps,
)
