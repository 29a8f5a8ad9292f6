"""The results of an element check: a CSV table, and a bar chart of the elements by effect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image

from ..recipe.rules import format_ratio
from .bar_chart import Bar, draw_bars
from .csv_table import format_table
from .diff import Difference

CSV_COLUMNS = (
    "rank",
    "elements",
    "ratio",
    "changed_percent",
    "mean_difference",
    "largest_difference",
    "structural_similarity",
    "image",
)
"""The columns of :func:`format_csv`; numbers have the units of :class:`.diff.Difference`."""


class ElementEffect(NamedTuple):
    """The effect of a ratio for some elements on an image.

    Attributes:
        elements: The elements, as ``blocks:elements``.
        ratio: Their ratio.
        difference: The difference from the image without this ratio.
        image: The name of the image's file.
    """

    elements: str
    ratio: float
    difference: Difference
    image: str


def rank_effects(effects: Sequence[ElementEffect]) -> list[ElementEffect]:
    """Sort effects, largest first, by the share of changed values and then by the mean difference."""
    return sorted(effects, key=lambda effect: (-effect.difference.share, -effect.difference.mean))


def format_csv(effects: Sequence[ElementEffect]) -> bytes:
    """Write effects as CSV with a header row, largest first; UTF-8 with a byte order mark, for Excel."""
    rows = [(rank, *_figures(effect)) for rank, effect in enumerate(rank_effects(effects), 1)]
    return format_table(CSV_COLUMNS, rows)


def _figures(effect: ElementEffect) -> tuple[object, ...]:
    difference = effect.difference
    similarity = "" if difference.similarity is None else f"{difference.similarity:.5f}"
    numbers = (f"{difference.share:.3f}", f"{difference.mean:.3f}", difference.largest, similarity)
    return effect.elements, format_ratio(effect.ratio), *numbers, effect.image


def describe_share(difference: Difference) -> str:
    """Format the share of an image that changed: "12.3 %"."""
    share = difference.share
    return f"{share:.1f} %" if share >= 0.05 or not difference.largest else "< 0.1 %"


def draw_ranking(effects: Sequence[ElementEffect], *, title: str) -> Image.Image:
    """Draw the 200 largest effects as bars, the largest on top.

    Args:
        effects: In any order.
        title: Text above the bars; long lines are wrapped.

    Returns:
        An RGB image, 1000 pixels wide.
    """
    ranked = rank_effects(effects)
    bars = [Bar(effect.elements, effect.difference.share, describe_share(effect.difference)) for effect in ranked]
    return draw_bars(bars, title=title)
