"""How much two pictures differ."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

from ..errors import ImageError

THRESHOLD = 20
"""Differences of a channel value up to this, of 255, are not counted; the field's custom."""


class Difference(NamedTuple):
    """Figures of the difference between two pictures.

    Attributes:
        share: Of the channel values, how many differ by more than 20 of 255; in percent.
        mean: Mean absolute difference, of 255.
        largest: Largest absolute difference, of 255.
    """

    share: float
    mean: float
    largest: int


def compare_pictures(first: Image.Image, second: Image.Image) -> Difference:
    """Compare two RGB pictures of the same size.

    Raises:
        ImageError: Their sizes differ.
    """
    if first.size != second.size:
        raise ImageError(f"Pictures of different sizes cannot be compared: {first.size} and {second.size}.")
    pixels = [np.asarray(image.convert("RGB"), dtype=np.int16) for image in (first, second)]
    distances = np.abs(pixels[0] - pixels[1])
    return Difference(
        100.0 * float((distances > THRESHOLD).mean()), float(distances.mean()), int(distances.max(initial=0))
    )
