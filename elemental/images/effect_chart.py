"""The effects of elements as a CSV table and as a bar chart, with the true figures of those that images confirmed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image

from .bar_chart import Bar, draw_bars
from .csv_table import format_table
from .effect_scale import UNIT, format_effect, format_share

CSV_COLUMNS = ("rank", "block", "element", "effect", "share_percent", "true_effect")
"""The columns of :func:`format_effects`; effects are mean absolute differences of channel values, of 255."""


class RankedEffect(NamedTuple):
    """The effect of an element, or of a group of them in a block.

    Attributes:
        block: The block.
        element: The element or group; empty for the whole block.
        effect: The estimate: mean absolute difference of channel values, of 255, at ratio 1.
        share: Its share of the whole change, from 0 to 1.
        confirmed: The same of a real image; None if none was made.
    """

    block: str
    element: str
    effect: float
    share: float
    confirmed: float | None = None

    @property
    def name(self) -> str:
        """Block and element as a rule names them: "OUT05:attn2.to_k", "OUT05"."""
        return f"{self.block}:{self.element}" if self.element else self.block


def order_effects(effects: Sequence[RankedEffect]) -> list[RankedEffect]:
    """Sort effects as :func:`order_key` says; equal ones stay in order."""
    return sorted(effects, key=lambda effect: order_key(effect.effect, effect.confirmed))


def order_key(effect: float, confirmed: float | None) -> tuple[bool, float]:
    """Give what effects are sorted by: those that images confirmed by true figure, then the rest by their estimates."""
    return confirmed is None, -(effect if confirmed is None else confirmed)


def format_effects(effects: Sequence[RankedEffect]) -> bytes:
    """Write effects as CSV with a header row, sorted by :func:`order_effects`; UTF-8 with a mark, for Excel."""
    return format_table(CSV_COLUMNS, (_row(rank, effect) for rank, effect in enumerate(order_effects(effects), 1)))


def _row(rank: int, effect: RankedEffect) -> tuple[object, ...]:
    confirmed = "" if effect.confirmed is None else f"{effect.confirmed:.4f}"
    return rank, effect.block, effect.element, f"{effect.effect:.4f}", f"{100 * effect.share:.3f}", confirmed


def draw_effect_chart(effects: Sequence[RankedEffect], *, title: str) -> Image.Image:
    """Draw the first 200 effects as bars, the largest on top, with a mark where an image tells the true effect.

    Args:
        effects: In any order.
        title: Text above the bars; long lines are wrapped.

    Returns:
        An RGB image, 1000 pixels wide.
    """
    ordered = order_effects(effects)
    bars = [Bar(effect.name, effect.effect, _describe(effect), effect.confirmed) for effect in ordered]
    return draw_bars(bars, title=f"{title}\n{UNIT}; share of the whole change", meaning=("estimate", "in a real image"))


def _describe(effect: RankedEffect) -> str:
    figure = format_effect(effect.effect)
    if effect.confirmed is not None:
        figure += f" (real: {format_effect(effect.confirmed)})"
    return f"{figure}, {format_share(effect.share)}"
