"""Draw images in rows and columns, with labels and a legend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from PIL import Image, ImageDraw

from .text_drawing import FittedText, fit_text, line_height, text_box

PAPER = (255, 255, 255)
INK = (24, 24, 28)
FAINT = (104, 104, 114)
BLANK = (232, 232, 236)
"""Colours of grids and charts: red, green, blue, from 0 to 255."""

_LEAST_CELL = 192
_LARGEST_SIDE = 16000
_LARGEST_AREA = 60_000_000
"""The most pixels of all cells together; Pillow warns from 89 million on, and some programs open no such images."""

_LABEL_LINES = 5


@dataclass(frozen=True)
class GridCell:
    """One cell of a grid.

    Attributes:
        image: The image; None if there is none.
        note: Text below the image, or in place of it.
    """

    image: Image.Image | None
    note: str = ""


@dataclass(frozen=True)
class GridSheet:
    """The contents of a grid.

    Attributes:
        rows: The cells; all rows have the same length, and all images the same size.
        columns: A label above each column.
        row_labels: A label left of each row; empty if the single row needs none.
        legend: Text at the top, for what all images have in common.
        size: Width and height of the images in pixels, also if there are no images.
        heading: A line below the legend for what distinguishes this grid from others; empty for none.
        room_for: The headings of all grids that belong together: their cells are at the same places.
    """

    rows: Sequence[Sequence[GridCell]]
    columns: Sequence[str]
    row_labels: Sequence[str] = ()
    legend: str = ""
    size: tuple[int, int] = (512, 512)
    heading: str = ""
    room_for: Sequence[str] = ()


@dataclass(frozen=True)
class _Layout:
    """Sizes of a sheet, in pixels."""

    cell: tuple[int, int]
    gap: int
    letters: int
    label_width: int

    def left(self, column: int) -> int:
        return 2 * self.gap + self.label_width + column * (self.cell[0] + self.gap)


class GridPlaces(NamedTuple):
    """Where the cells of a grid are on its image.

    Attributes:
        columns: The left and right edge of each column, in pixels.
        rows: The upper and lower edge of each row's images, in pixels.
    """

    columns: tuple[tuple[int, int], ...]
    rows: tuple[tuple[int, int], ...]


def draw_grid(sheet: GridSheet) -> tuple[Image.Image, GridPlaces]:
    """Draw a grid; small images are enlarged so that labels fit, and letters grow with the size of the grid.

    Returns:
        An RGB image, and where its cells are.
    """
    layout = _lay_out(sheet)
    cell_width = layout.cell[0]
    width = layout.left(len(sheet.columns)) + layout.gap
    legend = fit_text(sheet.legend, width=width - 4 * layout.gap, size=layout.letters)
    heads = [fit_text(label, width=cell_width, size=layout.letters, most_lines=_LABEL_LINES) for label in sheet.columns]
    sides = _fit_row_labels(sheet.row_labels, len(sheet.rows), width=layout.label_width - layout.gap, layout=layout)
    notes = [
        [fit_text(cell.note if cell.image else "", width=cell_width, size=layout.letters) for cell in row]
        for row in sheet.rows
    ]
    head_height = max((head.height for head in heads), default=0)
    row_heights = [
        max(layout.cell[1] + max((note.height for note in row), default=0), side.height if side else 0)
        for row, side in zip(notes, sides, strict=True)
    ]
    headings = [_fit_heading(text, width, layout) for text in (sheet.heading, *sheet.room_for)]
    heading_height = max(heading.height for heading in headings) + layout.gap if sheet.heading else 0
    height = (
        5 * layout.gap + legend.height + heading_height + head_height + sum(row_heights) + layout.gap * len(row_heights)
    )
    image = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(image)
    legend.draw(draw, 2 * layout.gap, 2 * layout.gap, colour=FAINT)
    top = 3 * layout.gap + legend.height
    headings[0].draw(draw, 2 * layout.gap, top, colour=INK)
    top += heading_height
    for column, head in enumerate(heads):
        head.draw(draw, layout.left(column), top + head_height - head.height, colour=INK, centred_in=cell_width)
    top += head_height + layout.gap
    rows: list[tuple[int, int]] = []
    for row, side, remarks, row_height in zip(sheet.rows, sides, notes, row_heights, strict=True):
        if side:
            side.draw(draw, 2 * layout.gap, top + max(0, (layout.cell[1] - side.height) // 2), colour=INK)
        for column, (cell, note) in enumerate(zip(row, remarks, strict=True)):
            image.paste(_scaled(cell, layout.cell), (layout.left(column), top))
            note.draw(draw, layout.left(column), top + layout.cell[1], colour=FAINT, centred_in=cell_width)
        rows.append((top, top + layout.cell[1]))
        top += row_height + layout.gap
    lefts = map(layout.left, range(len(sheet.columns)))
    return image, GridPlaces(tuple((left, left + cell_width) for left in lefts), tuple(rows))


def _lay_out(sheet: GridSheet) -> _Layout:
    width, height = sheet.size
    columns, rows = len(sheet.columns), max(1, len(sheet.rows))
    scale = max(1.0, _LEAST_CELL / width)
    scale = min(scale, (_LARGEST_AREA / (columns * width * rows * height)) ** 0.5)
    scale = min(scale, _LARGEST_SIDE / (columns * width), _LARGEST_SIDE / (rows * height))
    cell = max(16, round(width * scale)), max(16, round(height * scale))
    gap = max(4, cell[0] // 48)
    letters = max(13, cell[0] // 15, columns * cell[0] // 130)
    return _Layout(cell, gap, letters, _label_width(sheet.row_labels, cell[0], letters))


def _fit_heading(text: str, width: int, layout: _Layout) -> FittedText:
    return fit_text(text, width=width - 4 * layout.gap, size=layout.letters * 3 // 2, most_lines=_LABEL_LINES)


def _label_width(labels: Sequence[str], cell: int, letters: int) -> int:
    """Compute the width of row labels: what they need, up to one and a half images."""
    if not any(labels):
        return 0
    most = max(cell * 3 // 2, 10 * letters)
    return max(fit_text(label, width=most, size=letters).width for label in labels) + letters


def _fit_row_labels(labels: Sequence[str], rows: int, *, width: int, layout: _Layout) -> list[FittedText | None]:
    fitted: list[FittedText | None] = []
    for label in labels or [""] * rows:
        most = max(1, layout.cell[1] // line_height(layout.letters))
        fitted.append(fit_text(label, width=width, size=layout.letters, most_lines=most) if label else None)
    return fitted


def _scaled(cell: GridCell, size: tuple[int, int]) -> Image.Image:
    if cell.image is None:
        return text_box(cell.note, size, paper=BLANK, ink=FAINT)
    if cell.image.size == size:
        return cell.image
    return cell.image.resize(size, Image.Resampling.LANCZOS)
