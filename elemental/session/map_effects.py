"""Effects on the element map: what a cell, the table and the legend say of them, as HTML."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from typing import NamedTuple

from ..architectures.element_groups import Place
from ..images.effect_scale import COLOURS, UNIT, EffectScale, format_effect, format_share, scale_for
from ..merge.plan import MergePlan, TensorPlan

_MANY_TENSORS = 3


class CellEffect(NamedTuple):
    """The effect of a cell: of a group of elements in a block.

    Attributes:
        effect: Mean absolute difference of channel values, of 255, at ratio 1.
        rank: 1 for the largest; 0 where it is not ranked.
        share: Of the whole change, from 0 to 1; None if that is not known.
        within: What the figure is of, if the cell is only a part of it.
    """

    effect: float
    rank: int
    share: float | None
    within: str = ""


class CellMarks(NamedTuple):
    """What a cell says of its effect.

    Attributes:
        style: For the colour.
        attributes: The figures, as attributes of HTML, with a blank in front.
    """

    style: str
    attributes: str


@dataclass(frozen=True)
class MapEffects:
    """The effects that a map shows.

    Attributes:
        cells: By the name of the group and the block.
        made_from: What they were made from, in a line: prompts, method, passes.
        tensors: The effect of each tensor, by key; those that are not known are left out.
        together: The share of the whole change that the first cells make together, from the first alone to all; by
            default the sum of their shares.
        expect: Says in a line what a plan is expected to change; empty if that is not known.
        families: What ``cells`` has, for what is not ranked: the families of groups that the map folds, and parts.
        unit: What the colours mean.
    """

    cells: Mapping[tuple[str, str], CellEffect]
    made_from: str = ""
    tensors: Mapping[str, float] = field(default_factory=dict)
    together: Sequence[float] = ()
    expect: Callable[[MergePlan], str] = lambda _plan: ""
    families: Mapping[tuple[str, str], CellEffect] = field(default_factory=dict)
    unit: str = UNIT

    @cached_property
    def scale(self) -> EffectScale:
        """The scale of the cells' colours."""
        shown = [*self.cells.values(), *(() if self.unit == UNIT else self.families.values())]
        return scale_for(cell.effect for cell in shown)

    @cached_property
    def table_attributes(self) -> str:
        """What the table says of the effects as a whole, the shares of the first cells together among it."""
        ranked = sorted(self.cells.values(), key=lambda cell: cell.rank)
        known = [cell.share for cell in ranked if cell.share is not None]
        together = self.together or [min(1.0, share) for share in itertools.accumulate(known)]
        shares = "|".join(format_share(share) for share in together)
        count = ranked[-1].rank if ranked else 0
        stamp = f"{zlib.crc32(f'{self.made_from} {sorted(self.cells.items())}'.encode('utf-8', 'replace')):08x}"
        facts = f'data-effects="{stamp}" data-ranked="{count}" data-together="{escape(shares)}"'
        measured = " data-measured" if self.unit != UNIT else ""
        return f' {facts}{measured} style="{_COLOURS}"'

    @cached_property
    def legend(self) -> str:
        """The colours with their ticks, the unit, and what the effects were made from."""
        scale = self.scale
        ticks = "".join(
            f'<i style="left:{100 * scale.position(tick):.1f}%">'
            f"{'&le; ' if scale.clipped and tick == scale.low else ''}{tick:g}</i>"
            for tick in scale.ticks()
        )
        return (
            f'<div class="elemental-legend"><p>{self.unit}</p><div class="bar" style="{_COLOURS}"></div>'
            f'<div class="ticks">{ticks}</div><p>{escape(self.made_from)}</p></div>'
        )

    def marks(self, row: str, place: Place, tensors: Sequence[TensorPlan]) -> CellMarks:
        """Give the attributes of a cell; the same as for the last plan, since they depend on the models alone.

        Args:
            row: The name of its group or family.
            place: The cell.
            tensors: Of the cell.
        """
        at = row, place.block
        if at not in self._marks:
            keys = [tensor.name.key for tensor in tensors]
            cell = self.cells.get(at) or self.families.get(at)
            self._marks[at] = self._make_marks(cell, keys) if cell is not None else CellMarks("", "")
        return self._marks[at]

    @cached_property
    def _marks(self) -> dict[tuple[str, str], CellMarks]:
        return {}

    def _make_marks(self, cell: CellEffect, keys: Sequence[str]) -> CellMarks:
        facts = {
            "effect": format_effect(cell.effect),
            "rank": str(cell.rank or ""),
            "share": "" if cell.share is None else format_share(cell.share),
            "within": cell.within,
            "most": self._describe_most(keys),
        }
        attributes = "".join(f' data-{name}="{escape(fact)}"' for name, fact in facts.items() if fact)
        return CellMarks(f"--e:{100 * self.scale.position(cell.effect):.0f}%", attributes)

    def _describe_most(self, keys: Sequence[str]) -> str:
        """Name the tensor with the largest effect, where a cell has more than a weight and a bias."""
        known = [key for key in keys if key in self.tensors]
        if len(known) < _MANY_TENSORS:
            return ""
        most = max(known, key=self.tensors.__getitem__)
        return f"{_tail(most, known)} {format_effect(self.tensors[most])}"


def _tail(key: str, others: Sequence[str]) -> str:
    """Give what tells a key from others, such as "weight"."""
    pieces = key.split(".")
    columns = zip(*(other.split(".") for other in others), strict=False)  # the shortest ends it
    same = list(itertools.takewhile(lambda column: len(set(column)) == 1, columns))
    return ".".join(pieces[len(same) :])


_COLOURS = f"--scale:linear-gradient(to right,{','.join(f'#{r:02x}{g:02x}{b:02x}' for r, g, b in COLOURS)})"
