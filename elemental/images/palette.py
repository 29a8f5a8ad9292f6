"""Chooses the colours of an image that can have only 256, such as a GIF."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_COLOURS = 256
_ROUNDS = 2


def choose_palette(image: Image.Image) -> Image.Image:
    """Choose up to 256 colours for an RGB image: its own, if it has no more.

    An octree finds colours that are near those of each pixel, in a fraction of the time of Pillow's median cut, which
    gives large plain areas most of them, and edges wrong ones. Two rounds of k-means (Lloyd 1982, "Least squares
    quantization in PCM") then move each to the mean of the pixels that it is nearest to.

    Returns:
        An image with this palette, for :meth:`PIL.Image.Image.quantize`; its pixels mean nothing.
    """
    own = image.getcolors(_COLOURS)
    if own is not None:
        return _with_palette(np.array([colour for _, colour in own], dtype=np.uint8))
    pixels: NDArray[np.uint8] = np.asarray(image).reshape(-1, 3)
    palette = image.quantize(_COLOURS, Image.Quantize.FASTOCTREE)
    for _ in range(_ROUNDS):
        palette = _move(palette, image.quantize(palette=palette, dither=Image.Dither.NONE), pixels)
    return palette


def _move(palette: Image.Image, nearest: Image.Image, pixels: NDArray[np.uint8]) -> Image.Image:
    """Move each colour to the mean of its pixels; one that has none stays."""
    places = np.asarray(nearest).reshape(-1)
    counts = np.bincount(places, minlength=_COLOURS)
    sums = np.stack([np.bincount(places, channel, _COLOURS) for channel in pixels.T], axis=1)
    before: NDArray[np.int64] = np.array(palette.getpalette()).reshape(-1, 3)
    colours = np.zeros((_COLOURS, 3), dtype=np.uint8)
    colours[: len(before)] = before
    used = counts > 0
    colours[used] = np.rint(sums[used] / counts[used, None])
    return _with_palette(colours)


def _with_palette(colours: NDArray[np.uint8]) -> Image.Image:
    image = Image.new("P", (1, 1))
    image.putpalette(colours.tobytes())
    return image
