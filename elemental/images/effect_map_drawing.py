"""Draw the effect map: the elements by blocks, painted by what each does to the image."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import NamedTuple

from PIL import Image, ImageDraw

from ..architectures.blocks import BASE, TEXT_ENCODER, VAE
from .effect_scale import UNIT, EffectScale, format_effect, scale_for
from .grid_drawing import FAINT, INK, PAPER
from .text_drawing import FittedText, fit_text

_CELL = (46, 28)
_GAP, _SECTION_GAP = 2, 8
_MARGIN = 28
_LETTERS, _SMALL, _LARGE = 20, 16, 32
_MOST_LABEL = 360
_BAR = 96
"""The longest bar of a total."""
_LEGEND = (460, 22)
_NO_CHANGE = (255, 255, 255)
_OUTLINE = (208, 206, 198)
_LINE = (150, 150, 158)


class EffectRow(NamedTuple):
    """A row of the map: alike elements.

    Attributes:
        label: What they are called.
        effects: Their effect in each block that has such elements, by the name of the block; 0 or more.
        total: Their effect in all blocks together; None if it is not known.
    """

    label: str
    effects: Mapping[str, float]
    total: float | None = None


@dataclass(frozen=True)
class EffectMap:
    """What is drawn; effects are mean absolute differences of channel values, of 255.

    Attributes:
        blocks: The columns, in order, such as "BASE", "IN00", "M00".
        rows: The rows, the text encoder and the VAE among them, as cells of BASE.
        block_totals: The effect of all of a block, by the name of the block; those not known are left out.
        title: A few words at the top.
        made_from: A line below: models, prompts, method, passes.
    """

    blocks: Sequence[str]
    rows: Sequence[EffectRow]
    block_totals: Mapping[str, float]
    title: str
    made_from: str = ""

    @cached_property
    def scale(self) -> EffectScale:
        """The scale of the cells' colours; what is larger, as some totals are, has the last colour."""
        return scale_for(effect for row in self.rows for effect in row.effects.values())


class _Place(NamedTuple):
    """What the page is divided into, in pixels."""

    columns: Mapping[str, int]
    rows: tuple[int, ...]
    label_right: int
    cells_top: int
    heads_top: int
    bars_left: int
    size: tuple[int, int]


def draw_effect_map(effects: EffectMap) -> Image.Image:
    """Draw the map: a cell for each element of each block, coloured by its effect on a logarithmic scale.

    Bars above the columns and beside the rows are the totals, in proportion. What has no such element is blank; what
    has no effect is white.

    Returns:
        An RGB image, about 1600 pixels wide for SD 1.x.
    """
    labels = [fit_text(row.label, width=_MOST_LABEL, size=_LETTERS, most_lines=1) for row in effects.rows]
    heading, place = _lay_out(effects, labels)
    image = Image.new("RGB", place.size, PAPER)
    draw = ImageDraw.Draw(image)
    _draw_heading(draw, heading)
    _draw_legend(draw, effects.scale, left=place.size[0] - _MARGIN - _LEGEND[0])
    _draw_sides(draw, effects.blocks, place)
    _draw_block_totals(draw, effects, place)
    for row, label, top in zip(effects.rows, labels, place.rows, strict=True):
        label.draw(draw, place.label_right - label.width, top + (_CELL[1] - label.height) // 2, colour=INK)
        for block, effect in row.effects.items():
            _draw_cell(draw, (place.columns[block], top), effect, effects.scale)
    _draw_row_totals(draw, effects, place)
    return image


def _lay_out(effects: EffectMap, labels: Sequence[FittedText]) -> tuple[list[FittedText], _Place]:
    label_right = _MARGIN + max((label.width for label in labels), default=0)
    columns, right = _spread(effects.blocks, label_right + 10, _CELL[0], _side)
    bars_left = right + 14
    width = max(bars_left + _BAR + 64, 2 * _LEGEND[0] + 3 * _MARGIN)
    heading = [
        fit_text(text, width=width - 3 * _MARGIN - _LEGEND[0], size=size)
        for text, size in ((effects.title, _LARGE), (effects.made_from, _LETTERS))
    ]
    top = _MARGIN + max(sum(text.height for text in heading) + 8, 90) + 16
    heads_top = top + (_BAR + 30 if effects.block_totals else 0)
    cells_top = heads_top + 58
    rows, bottom = _spread([row.label for row in effects.rows], cells_top, _CELL[1], _family)
    places = dict(zip(effects.blocks, columns, strict=True))
    return heading, _Place(places, tuple(rows), label_right, cells_top, heads_top, bars_left, (width, bottom + _MARGIN))


def _spread(names: Sequence[str], start: int, size: int, kind: Callable[[str], str]) -> tuple[list[int], int]:
    """Give the start of each name's row or column, with wider gaps between kinds, and the end of the last."""
    starts, end = [], start
    for _, alike in groupby(names, key=kind):
        for _ in alike:
            starts.append(end)
            end += size + _GAP
        end += _SECTION_GAP
    return starts, end - _GAP - _SECTION_GAP


def _side(block: str) -> str:
    return re.sub(r"\d+", "", block)


def _family(label: str) -> str:
    """Give what rows that stand together have in common: the layer in front, such as attn1 or norm."""
    first = label.partition(".")[0]
    if label in (TEXT_ENCODER, VAE):
        return BASE
    return first if first.isdecimal() or first.startswith("attn") else first.rstrip("0123456789")


def _draw_heading(draw: ImageDraw.ImageDraw, heading: Sequence[FittedText]) -> None:
    top = _MARGIN
    for text, colour in zip(heading, (INK, FAINT), strict=True):
        text.draw(draw, _MARGIN, top, colour=colour)
        top += text.height + 8


def _draw_legend(draw: ImageDraw.ImageDraw, scale: EffectScale, *, left: int) -> None:
    top = _MARGIN + 6
    _line(UNIT, _SMALL).draw(draw, left, top, colour=INK)
    top += 26
    for x in range(_LEGEND[0]):
        effect = scale.low * (scale.high / scale.low) ** (x / (_LEGEND[0] - 1))
        draw.line((left + x, top, left + x, top + _LEGEND[1]), fill=scale.colour(effect))
    bottom = top + _LEGEND[1]
    for tick in scale.ticks():
        x = left + round(scale.position(tick) * (_LEGEND[0] - 1))
        draw.line((x, bottom + 1, x, bottom + 6), fill=INK)
        number = _line(f"\u2264 {tick:g}" if scale.clipped and tick == scale.low else f"{tick:g}", _SMALL)
        number.draw(draw, min(x - number.width // 2, left + _LEGEND[0] - number.width), bottom + 8, colour=INK)


def _draw_sides(draw: ImageDraw.ImageDraw, blocks: Sequence[str], place: _Place) -> None:
    """Name the sides of the U-Net, and below them the numbers of the blocks."""
    for side, group in groupby(blocks, key=_side):
        names = list(group)
        left, right = place.columns[names[0]], place.columns[names[-1]] + _CELL[0]
        _line(side, _SMALL if right - left <= _CELL[0] else _LETTERS).draw(
            draw, left, place.heads_top, colour=INK, centred_in=right - left
        )
        draw.line((left, place.heads_top + 27, right - 1, place.heads_top + 27), fill=_LINE)
        for name in names:
            number = _line(name.removeprefix(side), _SMALL)
            number.draw(draw, place.columns[name], place.heads_top + 33, colour=FAINT, centred_in=_CELL[0])


def _draw_cell(draw: ImageDraw.ImageDraw, at: tuple[int, int], effect: float, scale: EffectScale) -> None:
    box = (*at, at[0] + _CELL[0] - 1, at[1] + _CELL[1] - 1)
    draw.rectangle(box, fill=scale.colour(effect) if effect else _NO_CHANGE, outline=None if effect else _OUTLINE)


def _draw_block_totals(draw: ImageDraw.ImageDraw, effects: EffectMap, place: _Place) -> None:
    """Draw a bar above each column."""
    if not effects.block_totals:
        return
    full, bottom = max(effects.block_totals.values()) or 1.0, place.heads_top - 10
    note = fit_text("whole block", width=max(60, place.label_right - _MARGIN), size=_SMALL)
    note.draw(draw, place.label_right - note.width, bottom - note.height, colour=FAINT)
    for block, effect in effects.block_totals.items():
        left, height = place.columns[block], _length(effect, full)
        draw.rectangle((left, bottom - height, left + _CELL[0] - 1, bottom), fill=effects.scale.colour(effect))
        number = fit_text(format_effect(effect), width=_CELL[0] - 6, size=_SMALL, most_lines=1)
        number.draw(draw, left, bottom - height - number.height, colour=INK, centred_in=_CELL[0])


def _draw_row_totals(draw: ImageDraw.ImageDraw, effects: EffectMap, place: _Place) -> None:
    """Draw a bar beside each row."""
    totals = [row.total for row in effects.rows]
    full = max((total for total in totals if total is not None), default=0.0) or 1.0
    if not all(total is None for total in totals):
        _line("whole row", _SMALL).draw(draw, place.bars_left, place.heads_top + 33, colour=FAINT)
    for total, top in zip(totals, place.rows, strict=True):
        if total is None:
            continue
        right = place.bars_left + _length(total, full)
        draw.rectangle((place.bars_left, top, right, top + _CELL[1] - 1), fill=effects.scale.colour(total))
        number = _line(format_effect(total), _SMALL)
        number.draw(draw, right + 6, top + (_CELL[1] - number.height) // 2, colour=INK)


def _length(effect: float, full: float) -> int:
    return round((_BAR - 1) * effect / full)


def _line(text: str, size: int) -> FittedText:
    return fit_text(text, width=10_000, size=size)
