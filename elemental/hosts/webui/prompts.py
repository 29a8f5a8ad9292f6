"""The host's caches of encoded prompts."""

from __future__ import annotations

from modules import processing


def forget_prompts() -> None:
    """Empty the caches, in place: images in progress use the same lists.

    They are looked up each time, since hosts put other lists in their place, and have two or three places.
    """
    first, second = processing.StableDiffusionProcessing, processing.StableDiffusionProcessingTxt2Img
    for cache in (first.cached_c, first.cached_uc, second.cached_hr_c, second.cached_hr_uc):
        cache[:] = [None] * len(cache)
