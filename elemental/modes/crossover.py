"""Crossover: the low frequencies of A and the high ones of B, as github.com/ljleb/sd-mecha defines it.

A whole tensor is transformed along all of its axes. Along each, frequencies go from 0 to 1; how high one of the tensor
is, says the root of the mean of their squares. Unlike there, axes of one number do not count, so a 1x1 convolution
merges as the linear layer of the same numbers does, and tensors that are almost equal are no exception. Tilts beyond 1,
which mean the high frequencies of A, are A and B swapped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .base import A, B, Mode, Needs, Number, Operands, Ratios, Whole

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    Numbers = NDArray[np.float64]

_BLOCK = 1 << 20
"""Numbers that are transformed at a time: more would only take more memory."""

_ROUNDING = 1e-9
"""Frequencies so near to a cut are on it, whatever the rounding of their sums is."""


def _compute(tensors: Operands, ratios: Ratios, whole: Whole) -> Tensor:
    sizes = [size for size in whole.shape if size > 1]
    tilt = ratios.numbers["t"]
    change = tensors.b.sub_(tensors.a)
    if 1 in (ratios.alpha, tilt) or not sizes:  # one number has no frequencies
        return change.mul_(ratios.alpha).add_(tensors.a)
    filtered = change.double().cpu()
    numbers = filtered.numpy().reshape(sizes if len(sizes) > 1 else [1, *sizes])
    _filter(numbers, alpha=ratios.alpha, tilt=tilt, axes=len(sizes))
    return tensors.a.add_(filtered.to(change))


def _filter(numbers: Numbers, *, alpha: float, tilt: float, axes: int) -> None:
    """Multiply each frequency by the share of it that is B's.

    Lines are transformed block by block, along the first axis last: whatever the blocks are, each line gives the same.

    Args:
        numbers: The numbers, of two axes or more; they are replaced.
        alpha: The ratio.
        tilt: How softly the share rises.
        axes: How many axes of the tensor have more than one number.
    """
    import numpy as np

    shape, others = numbers.shape, tuple(range(1, numbers.ndim))
    half = (*shape[1:-1], shape[-1] // 2 + 1)
    squares = _squares(shape[1:], half).reshape(-1)
    spectrum = np.empty((shape[0], squares.size), dtype=complex)
    rows = _parts(shape[0], numbers[0].size)
    with np.errstate(all="ignore"):  # what is not finite spreads, and is told of by the merge
        for part in rows:
            spectrum[part] = np.fft.rfftn(numbers[part], axes=others).reshape(-1, squares.size)
        for part in _parts(squares.size, shape[0]):
            height = np.sqrt((_squares(shape[:1], shape[:1])[:, None] + squares[part]) / axes)
            lines = np.fft.fft(spectrum[:, part], axis=0)
            spectrum[:, part] = np.fft.ifft(lines * _share(height, alpha, tilt), axis=0)
        for part in rows:
            lines = spectrum[part].reshape(-1, *half)
            numbers[part] = np.fft.irfftn(lines, s=shape[1:], axes=others)


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


def _parts(count: int, length: int) -> list[slice]:
    step = max(_BLOCK // length, 1)
    return [slice(start, start + step) for start in range(0, count, step)]


def _jumps(numbers: Mapping[str, float]) -> str:
    return "takes whole frequencies unless t is above 0" if numbers["t"] == 0 else ""


CROSSOVER = Mode(
    name="crossover",
    formula="A + F'(s F(B - A)), F the Fourier transform, s 1 for frequencies above 1 - a, else 0; t makes s a slope",
    purpose="coarse structure of A, fine structure of B: the low frequencies of A and the high ones of B",
    compute=_compute,
    coefficients=lambda a, _: {0.0: A, 1.0: B}.get(a),
    limits=(0.0, 1.0),
    needs=Needs.WHOLE,
    numbers=(Number("t", 0, 0, 1, "how soft the cut is: 0 is sharp, more a slope, 1 is weight-sum"),),
    jumps=_jumps,
)
