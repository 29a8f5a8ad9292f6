"""The figures of an element check on the element map, in the cells that were checked and in their parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ..architectures.element_families import find_families
from ..architectures.element_groups import Place, find_groups
from ..architectures.tensor_sets import TensorSet
from ..images.ranking import ElementEffect
from ..merge.plan import MergePlan
from ..recipe.rule_matching import RuleMatcher
from ..recipe.rules import format_ratio
from ..runs.element_check import ElementCheck
from .map_effects import CellEffect, MapEffects

_UNIT = "measured change of the image, mean of 255"


@dataclass(frozen=True)
class _Checked:
    tensors: TensorSet
    elements: str
    effect: float
    rank: int


def checked_effects(check: ElementCheck, effects: Sequence[ElementEffect], plan: MergePlan) -> MapEffects:
    """Put the figures of a check on the map.

    Args:
        check: The check.
        effects: Its effects, the largest first.
        plan: A plan of the same models.
    """
    names = [tensor.name for tensor in plan.tensors]
    matcher = RuleMatcher(names)
    tensors = {str(target): matcher.matching(target.rule(check.ratio)) for target in check.targets}
    checked = [
        _Checked(tensors[effect.elements], effect.elements, effect.difference.mean, rank)
        for rank, effect in enumerate(effects, 1)
    ]
    cells: dict[tuple[str, str], CellEffect] = {}
    for family in find_families(find_groups(names), names):
        cells.update(_cells(family.name, family.places.values(), checked) if family.folds else ())
        for group in family.groups:
            cells.update(_cells(group.name, group.places.values(), checked))
    ranked = {at: cell for at, cell in cells.items() if cell.rank}
    others = {at: cell for at, cell in cells.items() if not cell.rank}
    count = f"{len(checked):,} element{'s' * (len(checked) != 1)}"
    made_from = f"Element check of {count} at ratio {format_ratio(check.ratio)}, seed {check.base.request.seed}"
    return MapEffects(ranked, made_from, families=others, unit=_UNIT)


def _cells(
    row: str, places: Iterable[Place], checked: Sequence[_Checked]
) -> Iterator[tuple[tuple[str, str], CellEffect]]:
    """Give the figures of a row's cells: their own, or those of the least that was checked and has them in it."""
    for place in places:
        tensors = sum(1 << index for index in place.indices)
        around = [found for found in checked if not tensors & ~found.tensors]
        least = min(around, key=lambda found: (found.tensors.bit_count(), found.rank), default=None)
        if least is not None and least.tensors == tensors:
            yield (row, place.block), CellEffect(least.effect, least.rank, None)
        elif least is not None:
            yield (row, place.block), CellEffect(least.effect, 0, None, least.elements)
