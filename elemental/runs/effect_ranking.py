"""Rank what an estimate found: tensors, groups of elements and blocks by their effects, and the map of all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from ..architectures.blocks import BASE, TEXT_ENCODER, VAE, Architecture
from ..architectures.element_groups import Group, find_groups
from ..architectures.keys import KeyName
from ..images.effect_chart import RankedEffect, order_key
from ..images.effect_map_drawing import EffectMap, EffectRow

if TYPE_CHECKING:
    from ..effects.samples import Samples


class Effect(NamedTuple):
    """The effect of tensors whose ratios are larger by 1 together: of one, of a group in a block, or of a block.

    Attributes:
        name: The tensor's key, the group's name in ``architectures.element_groups``, or the block.
        block: The block side of a rule for them.
        element: The element side of that rule; empty for the whole of ``block``.
        keys: The tensors.
        effect: The estimate: mean absolute difference of channel values, of 255, to first order.
        share: The effect in proportion to that of all tensors together, mostly from 0 to 1.
        confirmed: The mean absolute difference in real images; None if none were made.
    """

    name: str
    block: str
    element: str
    keys: tuple[str, ...]
    effect: float = 0.0
    share: float = 0.0
    confirmed: float | None = None

    @property
    def column(self) -> str:
        """The block that the tensors are in; the text encoder and the VAE are in BASE."""
        return BASE if self.block in (TEXT_ENCODER, VAE) else self.block

    def ranked(self) -> RankedEffect:
        """Give what tables and charts show of it."""
        return RankedEffect(self.block, self.element, self.effect, self.share, self.confirmed)


@dataclass(frozen=True)
class EffectRanking:
    """The effects of an estimate, the largest first; what has been confirmed comes before the rest, by true figure.

    Attributes:
        samples: The estimate.
        rows: All groups of elements, in the order of a map.
        tensors: The effect of each tensor that has samples.
        groups: That of each group in each block.
        blocks: That of each block.
        whole: That of all tensors together.
    """

    samples: Samples
    rows: tuple[Group, ...]
    tensors: tuple[Effect, ...]
    groups: tuple[Effect, ...]
    blocks: tuple[Effect, ...]
    whole: float

    @property
    def is_confirmed(self) -> bool:
        """Whether there are true figures."""
        return any(effect.confirmed is not None for effect in self.tensors[:1])

    @property
    def shown(self) -> tuple[Effect, ...]:
        """What says most to a person: tensors if there are true figures of them, groups otherwise."""
        return self.tensors if self.is_confirmed else self.groups

    def with_confirmed(self, figures: Mapping[str, float]) -> EffectRanking:
        """Put true figures beside the estimates.

        Args:
            figures: The mean absolute difference that each tensor made alone, by key; others stay as they are.
        """
        known = [effect._replace(confirmed=figures.get(effect.name, effect.confirmed)) for effect in self.tensors]
        return replace(self, tensors=_sorted(known))

    def shares_together(self, effects: Sequence[Effect]) -> list[float]:
        """Estimate what the first ones of several effects make together, from the first alone to all of them.

        Returns:
            Shares of the effect of all tensors together.
        """
        found = self.samples.group_effects(list(accumulate(effect.keys for effect in effects)))
        return [_share(effect, self.whole) for effect in found]


def rank_effects(samples: Samples, names: Sequence[KeyName]) -> EffectRanking:
    """Rank the tensors, the groups of elements and the blocks of an estimate.

    Args:
        samples: The estimate.
        names: The names of the checkpoint's tensors, as in a plan; those without samples are left out.
    """
    whole = samples.effect(dict.fromkeys(samples.keys, 1.0))
    rows = tuple(find_groups(names))
    groups = (
        Effect(group.name, place.word, place.part, tuple(names[index].key for index in place.indices))
        for group in rows
        for place in group.places.values()
    )
    tensors = (Effect(name.key, name.block, name.element, (name.key,)) for name in names)
    return EffectRanking(
        samples,
        rows,
        tensors=_rank(samples, tensors, whole),
        groups=_rank(samples, groups, whole),
        blocks=_rank(samples, _blocks(names), whole),
        whole=whole,
    )


def _blocks(names: Sequence[KeyName]) -> list[Effect]:
    keys: dict[str, list[str]] = {}
    for name in names:
        keys.setdefault(name.block, []).append(name.key)
    return [Effect(block, block, "", tuple(members)) for block, members in keys.items()]


def _rank(samples: Samples, effects: Iterable[Effect], whole: float) -> tuple[Effect, ...]:
    """Estimate effects and sort them; what has no samples is left out."""
    known = frozenset(samples.keys)
    kept = [effect for effect in effects if known.intersection(effect.keys)]
    found = samples.group_effects([effect.keys for effect in kept])
    return _sorted(
        effect._replace(effect=size, share=_share(size, whole)) for effect, size in zip(kept, found, strict=True)
    )


def _sorted(effects: Iterable[Effect]) -> tuple[Effect, ...]:
    return tuple(sorted(effects, key=lambda effect: order_key(effect.effect, effect.confirmed)))


def _share(effect: float, whole: float) -> float:
    return effect / whole if whole else 0.0


def map_effects(ranking: EffectRanking, architecture: Architecture, *, title: str, made_from: str = "") -> EffectMap:
    """Give the map of a ranking: groups of elements in rows, blocks in columns, and the totals of both.

    Args:
        ranking: The effects.
        architecture: Of the models.
        title: A few words at the top.
        made_from: What the estimate was made from.
    """
    cells: dict[str, dict[str, Effect]] = {}
    for effect in ranking.groups:
        cells.setdefault(effect.name, {})[effect.column] = effect
    rows = [group for group in ranking.rows if group.name in cells]
    totals = ranking.samples.group_effects(
        [[key for effect in cells[group.name].values() for key in effect.keys] for group in rows]
    )
    return EffectMap(
        architecture.blocks,
        [
            EffectRow(group.label, {block: effect.effect for block, effect in cells[group.name].items()}, total)
            for group, total in zip(rows, totals, strict=True)
        ],
        {effect.block: effect.effect for effect in ranking.blocks},
        title,
        made_from,
    )
