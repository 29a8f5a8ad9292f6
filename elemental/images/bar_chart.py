"""Draw a ranking as bars, the first on top."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw

from .grid_drawing import FAINT, INK, PAPER
from .text_drawing import FittedText, fit_text

_BAR = (74, 116, 196)
_MARK = (196, 52, 28)
_TRACK = (238, 238, 242)
_WIDTH = 1000
_MARGIN = 16
_LETTERS = 15
_ROW = 24
_FIGURE = 90
_MOST_BARS = 200


class Bar(NamedTuple):
    """A bar of a chart.

    Attributes:
        name: The text before it.
        value: Its length; 0 or more.
        figure: The text behind it.
        mark: A second value, drawn as a line across the bar; None for none.
    """

    name: str
    value: float
    figure: str
    mark: float | None = None


def draw_bars(bars: Sequence[Bar], *, title: str, meaning: tuple[str, str] = ("", "")) -> Image.Image:
    """Draw the first 200 bars below each other; the longest takes the whole width.

    Args:
        bars: In their order, the largest first.
        title: Text above the bars; long lines are wrapped.
        meaning: What bars and marks are, for a key below the title; it is left out if no bar has a mark.

    Returns:
        An RGB image, 1000 pixels wide.
    """
    listed = bars[:_MOST_BARS]
    names = [fit_text(bar.name, width=_WIDTH // 2, size=_LETTERS, most_lines=1) for bar in listed]
    heights = [max(_ROW, name.height + 6) for name in names]
    heading = fit_text(title, width=_WIDTH - 2 * _MARGIN, size=_LETTERS)
    marked = any(bar.mark is not None for bar in listed)
    rest = f"and {len(bars) - len(listed)} more with less effect" if len(bars) > len(listed) else ""
    bottom = fit_text(rest, width=_WIDTH - 2 * _MARGIN, size=_LETTERS)
    top = 2 * _MARGIN + heading.height + _ROW * marked
    image = Image.new("RGB", (_WIDTH, top + _MARGIN + sum(heights) + bottom.height), PAPER)
    draw = ImageDraw.Draw(image)
    heading.draw(draw, _MARGIN, _MARGIN, colour=FAINT)
    if marked:
        _draw_key(draw, top - _ROW - 4, meaning)
    bottom.draw(draw, _MARGIN, _draw_rows(draw, listed, names, heights, top=top) + 4, colour=FAINT)
    return image


def _draw_key(draw: ImageDraw.ImageDraw, top: int, meaning: tuple[str, str]) -> None:
    left = _MARGIN
    for text, colour, width in zip(meaning, (_BAR, _MARK), (24, 3), strict=True):
        draw.rectangle((left, top + 3, left + width, top + 17), fill=colour)
        fitted = fit_text(text, width=_WIDTH // 2, size=_LETTERS)
        fitted.draw(draw, left + width + 8, top, colour=INK)
        left += width + fitted.width + 32


def _draw_rows(
    draw: ImageDraw.ImageDraw, bars: Sequence[Bar], names: Sequence[FittedText], heights: Sequence[int], *, top: int
) -> int:
    """Draw names, bars and figures, and give the end of the last row."""
    left = _MARGIN + max((name.width for name in names), default=0) + 12
    figures = [fit_text(bar.figure, width=2 * _FIGURE, size=_LETTERS) for bar in bars]
    longest = _WIDTH - left - max([_FIGURE, *(figure.width for figure in figures)]) - 10
    full = max((max(bar.value, bar.mark or 0) for bar in bars), default=0) or 1.0
    for bar, name, figure, height in zip(bars, names, figures, heights, strict=True):
        name.draw(draw, _MARGIN, top + (height - name.height) // 2, colour=INK)
        _draw_bar(draw, bar, (left, top + 4, left + longest, top + height - 5), full=full)
        figure.draw(draw, left + longest + 8, top + (height - figure.height) // 2, colour=INK)
        top += height
    return top


def _draw_bar(draw: ImageDraw.ImageDraw, bar: Bar, box: tuple[int, int, int, int], *, full: float) -> None:
    left, top, right, bottom = box
    draw.rectangle(box, fill=_TRACK)
    length = round((right - left) * bar.value / full)
    if length:
        draw.rectangle((left, top, left + length, bottom), fill=_BAR)
    if bar.mark is not None:
        at = left + round((right - left) * bar.mark / full)
        draw.rectangle((at - 1, top - 2, at + 2, bottom + 2), fill=_MARK)
