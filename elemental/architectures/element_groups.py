"""Groups of elements: the rows of every table that shows a U-Net, and the shortest words that name one in a rule."""

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
        block: The block's name, as a column.
        word: What stands before the colon of a rule for these tensors alone.
        part: What stands behind it; empty if the whole of ``word`` is meant.
        key: The first of the keys.
        indices: The tensors, in the order of the names.
    """

    block: str
    word: str
    part: str
    key: str
    indices: tuple[int, ...]


@dataclass(frozen=True)
class Group:
    """Elements that are alike, in whichever blocks they are.

    Attributes:
        name: What a layer's weight and bias have in common, whichever transformer of its block it is in.
        label: What people call it: the words that name it in most of its blocks, if they are short.
        places: Where it is, by block.
    """

    name: str
    label: str
    places: Mapping[str, Place]


def group_name(element: str) -> str:
    """Name the group of an element: without weight or bias, and with ``*`` for the number of a transformer."""
    row = re.sub(r"\.(weight|bias)$", "", element)
    return re.sub(r"(?<=transformer_blocks\.)\d+", "*", row)


def natural_key(text: str) -> list[tuple[int, str]]:
    """Give a sort key that puts 2 before 10."""
    return [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in re.split(r"(\d+)", text)]


def find_groups(names: Sequence[KeyName]) -> list[Group]:
    """Group the tensors of a checkpoint: the parts of BASE first, then the elements of the U-Net by name."""
    rows: dict[str, dict[str, list[int]]] = {}
    for index, name in enumerate(names):
        row = group_name(name.element) if name.component is Component.UNET else part_of_base(name.component)
        if row is not None:  # what is of neither text encoder nor VAE has no name of its own in rules
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
    """Find what selects exactly these tensors of a block, the shortest first: from what people type to the full key."""
    in_block = lookup.with_block(block)
    tail = row.rpartition("transformer_blocks.*.")[2]
    first = lookup.names[(tensors & -tensors).bit_length() - 1]
    whole = first.key[: len(first.key) - len(first.element)] + row + "."
    for part in (tail, f"{tail}.", f".{tail}.", whole):
        if lookup.with_part(part) & in_block == tensors:
            return part
    return whole
