"""Pictures in rows and columns, with labels that fit."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from PIL import Image, ImageDraw, ImageFont

_PAPER = (255, 255, 255)
_INK = (24, 24, 28)
_FAINT = (110, 110, 120)
_GAP = 6
_MARGIN = 14
_LABEL_LINES = 4


def draw_grid(
    rows: Sequence[Sequence[Image.Image]],
    *,
    columns: Sequence[str],
    notes: Sequence[str] = (),
    row_labels: Sequence[str] = (),
    title: str = "",
    cell: int | None = None,
) -> Image.Image:
    """Put pictures of one size into a grid.

    Args:
        rows: The pictures, each row as long as the others.
        columns: A label above each column; wrapped, and drawn smaller where it would not fit.
        notes: A remark below each column.
        row_labels: A label above each row.
        title: Above everything; wrapped.
        cell: The width of a picture in the grid; its own by default. Small pictures keep their hard edges.
    """
    width = cell or rows[0][0].width
    height = round(rows[0][0].height * width / rows[0][0].width)
    full = 2 * _MARGIN + len(columns) * (width + _GAP) - _GAP
    size = max(12, min(20, width // 9))
    heads = [_fit(label, width, size) for label in columns]
    remarks = [_fit(note, width, size) for note in notes]
    names = [_fit(label, full - 2 * _MARGIN, size) for label in row_labels]
    heading = _fit(title, full - 2 * _MARGIN, size + 4)
    blocks = [_height(heading), max(map(_height, heads)), *(0 for _ in rows), max(map(_height, remarks), default=0)]
    total = 2 * _MARGIN + sum(blocks) + sum(map(_height, names)) + len(rows) * (height + _GAP) + 2 * _GAP
    sheet = Image.new("RGB", (full, total), _PAPER)
    draw = ImageDraw.Draw(sheet)
    top = _MARGIN
    _write(draw, (_MARGIN, top), heading, _INK)
    top += _height(heading) + _GAP
    for index, head in enumerate(heads):
        left = _MARGIN + index * (width + _GAP)
        _write(draw, (left, top + max(map(_height, heads)) - _height(head)), head, _INK)
    top += max(map(_height, heads))
    for number, row in enumerate(rows):
        if names:
            _write(draw, (_MARGIN, top), names[number], _FAINT)
            top += _height(names[number])
        for index, picture in enumerate(row):
            scaled = picture if picture.width == width else picture.resize((width, height), _filter(picture, width))
            sheet.paste(scaled, (_MARGIN + index * (width + _GAP), top))
        top += height + _GAP
    for index, remark in enumerate(remarks):
        _write(draw, (_MARGIN + index * (width + _GAP), top), remark, _FAINT)
    return sheet


class _Text:
    """Lines of text in one size."""

    def __init__(self, lines: Sequence[str], size: int) -> None:
        self.lines = lines
        self.font = _font(size)
        self.line_height = round(size * 1.3)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _fit(text: str, width: int, size: int) -> _Text:
    """Wrap a text to a width; one of too many lines, or with a word that is too long, is made smaller."""
    if not text:
        return _Text((), size)
    lines = _wrap(text, width, size)
    fits = len(lines) <= _LABEL_LINES and all(_font(size).getlength(line) <= width for line in lines)
    return _Text(lines, size) if fits or size <= 8 else _fit(text, width, size - 1)


def _wrap(text: str, width: int, size: int) -> list[str]:
    lines: list[str] = []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}".strip()
            if line and _font(size).getlength(longer) > width:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    return lines


def _height(text: _Text) -> int:
    return len(text.lines) * text.line_height


def _write(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: _Text, colour: tuple[int, int, int]) -> None:
    for index, line in enumerate(text.lines):
        draw.text((place[0], place[1] + index * text.line_height), line, fill=colour, font=text.font)


def _filter(picture: Image.Image, width: int) -> Image.Resampling:
    return Image.Resampling.NEAREST if width % picture.width == 0 else Image.Resampling.LANCZOS
