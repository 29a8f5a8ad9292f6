"""The results of an element check: a CSV table, and a bar chart of the elements by effect."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw

from ..recipe.rules import format_ratio
from .diff import Difference
from .grid_drawing import FAINT, INK, PAPER
from .text_drawing import fit_text

_BAR = (74, 116, 196)
_TRACK = (238, 238, 242)
_WIDTH = 1000
_LETTERS = 15
_ROW = 24
_MOST_BARS = 200

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
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(CSV_COLUMNS)
    for rank, effect in enumerate(rank_effects(effects), 1):
        difference = effect.difference
        similarity = "" if difference.similarity is None else f"{difference.similarity:.5f}"
        numbers = (f"{difference.share:.3f}", f"{difference.mean:.3f}", difference.largest, similarity)
        writer.writerow((rank, effect.elements, format_ratio(effect.ratio), *numbers, effect.image))
    return table.getvalue().encode("utf-8-sig")


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
    listed = ranked[:_MOST_BARS]
    left = out = 16
    names = [fit_text(effect.elements, width=_WIDTH // 2, size=_LETTERS, most_lines=1) for effect in listed]
    heading = fit_text(title, width=_WIDTH - 2 * out, size=_LETTERS)
    heights = [max(_ROW, name.height + 6) for name in names]
    rest = f"and {len(ranked) - len(listed)} more with less effect" if len(ranked) > len(listed) else ""
    bottom = fit_text(rest, width=_WIDTH - 2 * out, size=_LETTERS)
    image = Image.new("RGB", (_WIDTH, 3 * out + heading.height + sum(heights) + bottom.height), PAPER)
    draw = ImageDraw.Draw(image)
    heading.draw(draw, left, out, colour=FAINT)
    bar_left = left + max((name.width for name in names), default=0) + 12
    longest = _WIDTH - bar_left - 100
    full = max((effect.difference.share for effect in listed), default=0) or 1.0
    top = 2 * out + heading.height
    for effect, name, height in zip(listed, names, heights, strict=True):
        name.draw(draw, left, top + (height - name.height) // 2, colour=INK)
        box = (bar_left, top + 4, bar_left + longest, top + height - 5)
        draw.rectangle(box, fill=_TRACK)
        length = round(longest * effect.difference.share / full)
        if length:
            draw.rectangle((*box[:2], bar_left + length, box[3]), fill=_BAR)
        figure = fit_text(describe_share(effect.difference), width=90, size=_LETTERS)
        figure.draw(draw, bar_left + longest + 8, top + (height - figure.height) // 2, colour=INK)
        top += height
    bottom.draw(draw, left, top + 4, colour=FAINT)
    return image
