"""Groups of alike elements: the rows of element tables, and the shortest rule text for each."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .blocks import BASE, TEXT_ENCODER, VAE
from .keys import FULL_KEY_PREFIXES, Component, KeyName, part_of_base
from .tensor_sets import TensorIndex, TensorSet


@dataclass(frozen=True)
class Place:
    """The tensors of one group in one block: a cell of a table.

    Attributes:
        block: The name of the block; the column.
        word: The block side of a rule for exactly these tensors.
        part: The element side of that rule; empty for the whole of ``word``.
        key: The key of the first tensor.
        indices: The indices of the tensors, in the order of the names.
    """

    block: str
    word: str
    part: str
    key: str
    indices: tuple[int, ...]


@dataclass(frozen=True)
class Group:
    """Alike elements in all blocks: a row of a table.

    Attributes:
        name: The name that a layer's weight and bias share, with ``*`` for the number of the transformer.
        label: The short name: the element side of a rule in most blocks; ``name`` if there is no short one.
        places: The cell of each block that has such elements.
    """

    name: str
    label: str
    places: Mapping[str, Place]


def group_name(element: str) -> str:
    """Name the group of an element: without weight or bias, and with ``*`` for the number of a transformer."""
    layer = re.sub(r"\.(weight|bias)$", "", element)
    return re.sub(r"(?<=transformer_blocks\.)\d+", "*", layer)


def natural_key(text: str) -> list[tuple[int, str]]:
    """Give a sort key that puts 2 before 10."""
    return [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in re.split(r"(\d+)", text)]


def find_groups(names: Sequence[KeyName]) -> list[Group]:
    """Group the tensors of a checkpoint: the parts of BASE first, then the elements of the U-Net by name."""
    rows: dict[str, dict[str, list[int]]] = {}
    for index, name in enumerate(names):
        row = group_name(name.element) if name.component is Component.UNET else part_of_base(name.component)
        if row is not None:  # rules have no name for the parts of BASE besides text encoder and VAE
            rows.setdefault(row, {}).setdefault(name.block, []).append(index)
    lookup = TensorIndex(names)
    ordered = sorted(rows, key=lambda row: (row not in (TEXT_ENCODER, VAE), natural_key(row)))
    return [_make_group(row, rows[row], lookup) for row in ordered]


def _make_group(row: str, blocks: Mapping[str, Sequence[int]], lookup: TensorIndex) -> Group:
    places = {}
    for block, indices in blocks.items():
        key = lookup.names[indices[0]].key
        if block == BASE and row in (TEXT_ENCODER, VAE):
            places[block] = Place(block, row, "", key, tuple(indices))
        else:
            part = _shortest_part(row, block, sum(1 << index for index in indices), lookup)
            places[block] = Place(block, block, part, key, tuple(indices))
    parts = [place.part for place in places.values()]
    label = max(parts, key=parts.count)
    return Group(row, row if not label or label.startswith(FULL_KEY_PREFIXES) else label, places)


def _shortest_part(row: str, block: str, tensors: TensorSet, lookup: TensorIndex) -> str:
    """Find the shortest element side of a rule that selects exactly these tensors of a block; the full key if none."""
    in_block = lookup.with_block(block)
    tail = row.rpartition("transformer_blocks.*.")[2]
    first = lookup.names[(tensors & -tensors).bit_length() - 1]
    whole = first.key[: len(first.key) - len(first.element)] + row + "."
    for part in (tail, f"{tail}.", f".{tail}.", whole):
        if lookup.with_part(part) & in_block == tensors:
            return part
    return whole
