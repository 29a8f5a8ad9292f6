"""Families of element groups: the few kinds of layers that a U-Net is made of, one row of a folded table each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from .blocks import TEXT_ENCODER, VAE
from .element_groups import Group, Place
from .keys import KeyName
from .tensor_sets import TensorIndex, members, union


@dataclass(frozen=True)
class Family:
    """Groups of elements of the same kind of layer.

    Attributes:
        name: What such layers are called, such as "cross-attention"; that of the group if it has just one.
        groups: The groups, in the order of the table.
        places: For each block all tensors of these groups: the cell of the folded row.
    """

    name: str
    groups: tuple[Group, ...]
    places: Mapping[str, Place]

    @property
    def folds(self) -> bool:
        """Whether there is more than its own row to show."""
        return len(self.groups) > 1


_PARTS = {
    "ResBlock": ("in_layers", "out_layers", "emb_layers", "skip_connection"),
    "self-attention": ("attn1",),
    "cross-attention": ("attn2",),
    "feed-forward": ("ff",),
    "norms, projections": ("proj_in", "proj_out", "norm"),
}
"""Layers by parts of their elements' names; a rule of these parts in a block selects no others."""

_REST = "in, time, out"


def find_families(groups: Sequence[Group], names: Sequence[KeyName]) -> list[Family]:
    """Sort the groups of a checkpoint into families: text encoder and VAE first, then the layers of the U-Net.

    Args:
        groups: As :func:`~.element_groups.find_groups` gives them.
        names: Of the same checkpoint.
    """
    lookup = TensorIndex(names)
    sorted_groups: dict[str, list[Group]] = {name: [] for name in (TEXT_ENCODER, VAE, *_PARTS, _REST)}
    for group in groups:
        sorted_groups[_family_of(group)].append(group)
    return [
        Family(name if len(members_) > 1 else members_[0].label, tuple(members_), dict(_places(name, members_, lookup)))
        for name, members_ in sorted_groups.items()
        if members_
    ]


def _family_of(group: Group) -> str:
    if group.name in (TEXT_ENCODER, VAE):
        return group.name
    return next((name for name, parts in _PARTS.items() if any(part in group.name for part in parts)), _REST)


def _places(family: str, groups: Sequence[Group], lookup: TensorIndex) -> Iterator[tuple[str, Place]]:
    for block in dict.fromkeys(block for group in groups for block in group.places):
        places = [group.places[block] for group in groups if block in group.places]
        if len(places) == 1:
            yield block, places[0]
            continue
        indices = tuple(sorted(index for place in places for index in place.indices))
        part = _part(_PARTS.get(family, ()), indices, block, lookup) or " ".join(place.part for place in places)
        yield block, Place(block, places[0].word, part, places[0].key, indices)


def _part(parts: Sequence[str], indices: Sequence[int], block: str, lookup: TensorIndex) -> str:
    """Give the words of a family that select exactly these tensors of a block; empty if they select others too."""
    in_block = lookup.with_block(block)
    found = {part: lookup.with_part(part) & in_block for part in parts}
    kept = [part for part, tensors in found.items() if tensors]
    return " ".join(kept) if tuple(members(union(found.values()))) == tuple(indices) else ""
