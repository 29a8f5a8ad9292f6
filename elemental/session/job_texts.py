"""Numbers in the texts of jobs."""

from __future__ import annotations


def format_duration(seconds: float) -> str:
    """Write a duration: "80 ms", "2.4 s", "28 s"."""
    if seconds < 0.1:
        return f"{1000 * seconds:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"


def count_images(count: int) -> str:
    """Write a number of images: "1 image", "1,200 images"."""
    return f"{count:,} image{'s' * (count != 1)}"
