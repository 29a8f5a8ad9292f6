"""Smooth add: add a difference that was smoothed, as defined by github.com/hako-mikan/sd-webui-supermerger.

The filters are those of scipy.ndimage, ``median_filter(x, size=3)`` and ``gaussian_filter(x, sigma=1)``, with the same
steps in the same order, so that the numbers are the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import A, Mode, Needs, Operands, Ratios, Whole

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    Numbers = NDArray[np.float64]

_GAUSSIAN = (
    0.39894346935609776, 0.24197144565660073, 0.05399112742070441, 0.0044318616200312655, 0.00013383062461474175,
)  # fmt: skip
"""exp(-x**2 / 2) for x from 0 to 4, divided by their sum from -4 to 4: as far as scipy goes by default."""

_RADIUS = len(_GAUSSIAN) - 1
_WINDOW_NUMBERS = 1 << 22
"""Numbers of windows that are sorted at a time."""


def _compute(tensors: Operands, ratios: Ratios, whole: Whole) -> Tensor:
    change = tensors.b.sub_(tensors.c).double().cpu().numpy().reshape((-1, *whole.shape[1:]))
    smooth = tensors.a.new_tensor(_blur(_median(change))).view(-1)
    return smooth.mul_(ratios.alpha).add_(tensors.a)


def _median(numbers: Numbers) -> Numbers:
    """Give the median of each number and its neighbours along all axes, with edges reflected."""
    # where an axis has one number, it stands three times in each window, and the middle one is the same without
    squeezed = numbers.reshape([size for size in numbers.shape if size > 1] or [1])
    return (_median_of_planes if squeezed.ndim < 3 else _median_of_windows)(squeezed).reshape(numbers.shape)


def _median_of_planes(numbers: Numbers) -> Numbers:
    """Give the median along one axis or two: nine numbers in three sorted columns have theirs between a few of them."""
    low, middle, high = _sorted(*_neighbours(numbers, 0))
    if numbers.ndim == 1:
        return middle
    largest_low = _sorted(*_neighbours(low, 1))[2]
    middle = _sorted(*_neighbours(middle, 1))[1]
    least_high = _sorted(*_neighbours(high, 1))[0]
    return _sorted(largest_low, middle, least_high)[1]


def _median_of_windows(numbers: Numbers) -> Numbers:
    import numpy as np

    count = 3**numbers.ndim
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(numbers, 1, mode="symmetric"), (3,) * numbers.ndim)
    result, step = np.empty_like(numbers), max(1, _WINDOW_NUMBERS // (count * numbers[0].size))
    for start in range(0, len(numbers), step):
        part = windows[start : start + step].reshape(-1, count)
        middle = np.partition(part, count // 2, axis=1)[:, count // 2]
        middle[np.isnan(part).any(axis=1)] = np.nan
        result[start : start + step] = middle.reshape(-1, *numbers.shape[1:])
    return result


def _blur(numbers: Numbers) -> Numbers:
    """Give the mean of each number and its neighbours along all axes, weighted by a Gaussian, with edges reflected."""
    for axis in range(numbers.ndim):
        length = numbers.shape[axis]
        padded, total = _padded(numbers, axis, _RADIUS), numbers * _GAUSSIAN[0]
        for distance in range(_RADIUS, 0, -1):
            before = _part(padded, axis, _RADIUS - distance, length)
            total += (before + _part(padded, axis, _RADIUS + distance, length)) * _GAUSSIAN[distance]
        numbers = total
    return numbers


def _neighbours(numbers: Numbers, axis: int) -> tuple[Numbers, Numbers, Numbers]:
    padded, length = _padded(numbers, axis, 1), numbers.shape[axis]
    return _part(padded, axis, 0, length), numbers, _part(padded, axis, 2, length)


def _padded(numbers: Numbers, axis: int, width: int) -> Numbers:
    import numpy as np

    return np.pad(numbers, [(width, width) if each == axis else (0, 0) for each in range(numbers.ndim)], "symmetric")


def _part(numbers: Numbers, axis: int, start: int, length: int) -> Numbers:
    return numbers[(slice(None),) * axis + (slice(start, start + length),)]


def _sorted(one: Numbers, two: Numbers, three: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    import numpy as np

    one, two = np.minimum(one, two), np.maximum(one, two)
    two, three = np.minimum(two, three), np.maximum(two, three)
    return np.minimum(one, two), np.maximum(one, two), three


SMOOTH_ADD = Mode(
    name="smooth-add",
    formula="A + a G(M(B - C)), M the median of 3 along each axis at once, G a Gaussian of sigma 1, edges reflected",
    purpose="add-difference with the difference smoothed, which drops outliers",
    compute=_compute,
    coefficients=lambda a, _: A if a == 0 else None,
    uses_c=True,
    adds_difference=True,
    needs=Needs.SLICES,
    margin=1 + _RADIUS,
)
