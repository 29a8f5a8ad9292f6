"""Compare two images: in numbers, and as an image of their difference."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import ImageError

THRESHOLD = 20
"""Differences of a channel value up to this, of 255, do not count as changed.

Source of this and of the share: ``effectivechecker`` in scripts/mergers/xyplot.py of
github.com/hako-mikan/sd-webui-supermerger.
"""

_GAIN = 3
_SSIM_WINDOW = 7  # pixels; what scikit-image takes by default


class Difference(NamedTuple):
    """The difference between two images in numbers.

    Attributes:
        share: The share of channel values that differ by more than 20 of 255, in percent.
        mean: Mean absolute difference, from 0 to 255.
        largest: Largest absolute difference, from 0 to 255.
        similarity: Structural similarity, from -1 to 1: 1 for equal images, near 0 for different ones. None if
            scikit-image is not installed, or the images are smaller than its window of 7 pixels.
    """

    share: float
    mean: float
    largest: int
    similarity: float | None


def compare_images(first: Image.Image, second: Image.Image) -> Difference:
    """Compare two RGB images of the same size.

    The similarity is SSIM over the three channels (Wang et al. 2004, "Image Quality Assessment: From Error Visibility
    to Structural Similarity", equation 13), in scikit-image's version with a uniform window of 7 pixels.

    Raises:
        ImageError: Their sizes differ.
    """
    distances = _distances(first, second)
    return Difference(
        100.0 * float((distances > THRESHOLD).mean()),
        float(distances.mean()),
        int(distances.max(initial=0)),
        _similarity(first, second),
    )


def difference_shape(first: Image.Image, second: Image.Image) -> float | None:
    """Give the mean absolute difference of two RGB images as a part of the root mean square of their differences.

    It is 1 if all channel values differ alike, and small if a few differ much.

    Returns:
        None for equal images.

    Raises:
        ImageError: Their sizes differ.
    """
    distances = _distances(first, second).astype(np.float64)
    return float(distances.mean() / np.sqrt(np.square(distances).mean())) if distances.any() else None


def mean_difference(first: Image.Image, second: Image.Image) -> float:
    """Give the mean absolute difference of two RGB images of the same size, from 0 to 255.

    Raises:
        ImageError: Their sizes differ.
    """
    return float(_distances(first, second).mean())


def draw_difference(first: Image.Image, second: Image.Image) -> Image.Image:
    """Draw the absolute difference of each channel value, three times as bright, on black, as an RGB image.

    Raises:
        ImageError: Their sizes differ.
    """
    return Image.fromarray((_distances(first, second) * _GAIN).clip(0, 255).astype(np.uint8))


def _distances(first: Image.Image, second: Image.Image) -> NDArray[np.int16]:
    """Give the absolute differences: (height, width, 3), from 0 to 255."""
    if first.size != second.size:
        raise ImageError(f"Images of different sizes cannot be compared: {first.size} and {second.size}.")
    one, other = (np.asarray(image.convert("RGB"), dtype=np.int16) for image in (first, second))
    distances: NDArray[np.int16] = np.abs(one - other)
    return distances


def _similarity(first: Image.Image, second: Image.Image) -> float | None:
    try:
        from skimage.metrics import structural_similarity
    except ImportError:
        return None
    if min(first.size) < _SSIM_WINDOW:
        return None
    one, other = (np.asarray(image.convert("RGB")) for image in (first, second))
    return float(structural_similarity(one, other, channel_axis=2, win_size=_SSIM_WINDOW))
