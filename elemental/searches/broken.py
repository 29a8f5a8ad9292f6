"""Tells images that a broken model has made from images of something."""

from __future__ import annotations

import numpy as np
from PIL import Image

_LEAST_ALIKE = 0.3
"""Neighbours are correlated by less than this in noise: white noise has 0.00, whatever its size. Images of the demo's
models have 0.70 to 0.99, the least where they are flat, since a decoder makes no single pixels."""
_LEAST_SPREAD = 10.0
"""Of 255; flat images consist of roundings and grain, whose neighbours need not be alike. White noise has 74."""


def describe_broken(image: Image.Image) -> str:
    """Say what is wrong with an image that shows nothing.

    Noise is found by its pixels: the correlation of neighbours, 1 - E[(p - q)^2] / 2 Var[p] over all pairs, is low in
    both directions. Blotches of many pixels are not taken for noise: real images can look like that.

    Returns:
        "one colour only", which is what a model that computes NaN gives; "noise"; or "" for an image of something.
    """
    pixels = np.asarray(image.convert("RGB"), dtype=np.float64)
    if (pixels == pixels[0, 0]).all():
        return "one colour only"
    variance = float(pixels.var(axis=(0, 1)).mean())
    if variance < _LEAST_SPREAD**2 or min(image.size) < 2:
        return ""
    steps = (np.diff(pixels, axis=axis) for axis in (0, 1))
    alike = max(1 - float(np.square(step).mean()) / (2 * variance) for step in steps)
    return "noise" if alike < _LEAST_ALIKE else ""
