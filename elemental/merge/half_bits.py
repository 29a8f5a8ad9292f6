"""What is known of fp16 numbers by their bits, and how exact a weight sum of them is; with numpy alone.

Positive fp16 numbers have the same order as their bits read as signed integers, negative ones as unsigned integers:
numpy finds the largest integer twice as fast as torch finds the largest float.
"""

from __future__ import annotations

import math
import struct
import sys
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

LARGEST = 65504.0
"""The largest fp16 number."""

_INFINITE = 0x7C00
"""The bits of fp16 infinity."""

HALF_STEP = 2**-25 * 0.99
HALF_UNIT = 2**-12 * 0.99
"""Half of the smallest step of fp16, and the smallest half unit in the last place relative to its number; a hundredth
is kept in reserve for errors that :class:`Factor` does not count."""


class Factor(NamedTuple):
    """The ratio of a weight sum as it is computed in float32.

    A + alpha (B - A), and from |alpha| 0.5 on B - (1 - alpha) (B - A), lose alpha's rounding to float32, and at most
    2**-24 of the product in each of three roundings: of the factor, of the difference and of the product.

    Attributes:
        alpha: The ratio, rounded to float32.
        error: What a result loses before its last rounding, as a part of |B - A|.
    """

    alpha: float
    error: float


def factor_of(alpha: float) -> Factor:
    """Give the factor of a ratio."""
    rounded = float(np.float32(alpha))
    product = abs(rounded) if abs(rounded) < 0.5 else abs(1 - rounded)
    return Factor(rounded, abs(alpha - rounded) + 3 * 2**-24 * product)


def largest(values: NDArray[Any]) -> float:
    """Give the largest absolute value of non-empty fp16 numbers; it is not finite if any value is not."""
    bits = values.view("i2")
    highest, lowest = int(np.maximum.reduce(bits)), int(np.maximum.reduce(bits.view("u2")))
    number: float = struct.unpack("e", max(highest, lowest - 0x8000, 0).to_bytes(2, sys.byteorder))[0]
    return number


def near_zero(values: NDArray[Any], bound: float) -> NDArray[Any]:
    """Give the indices of the fp16 numbers up to about a bound; of all finite ones if fp16 cannot hold it."""
    most = int(np.array(bound, dtype="f2").view("u2")) if math.isfinite(bound) and bound < LARGEST else _INFINITE
    return np.flatnonzero((values.view("i2") & 0x7FFF) <= most)


def surely_finite(alpha: float, most_a: float, most_b: float) -> bool:
    """Tell from the largest numbers of A and B whether no result is too large for fp16, and none is NaN."""
    return abs(1 - alpha) * most_a + abs(alpha) * most_b < LARGEST


def may_cancel(error: float, most_a: float, most_b: float) -> bool:
    """Tell whether results may be less exact than one unit where large terms cancel.

    This bound costs less than the largest difference; 1.01 is for the difference's rounding to fp16.
    """
    return not error * (most_a + most_b) * 1.01 <= HALF_STEP
