"""Blocks times parts of names: the sets of tensors that one rule can match."""

from __future__ import annotations

from collections.abc import Sequence

from ...architectures.tensor_sets import TensorSet, members, union
from .name_parts import Part


def find_rectangles(
    wanted: TensorSet,
    others: TensorSet,
    *,
    columns: Sequence[TensorSet],
    parts: Sequence[Part],
    purity: float,
    most: int,
) -> list[TensorSet]:
    """Find large sets of tensors that one rule can match.

    Args:
        wanted: The tensors to match.
        others: The tensors to spare.
        columns: The tensors of each block.
        parts: The parts of names that rules can have.
        purity: The least share of wanted tensors among those that a part matches in a block; 1 spares all others.
        most: About how many sets to give.

    Returns:
        Each a union of what some parts match in some blocks, with as many parts as these blocks allow.
    """
    by_blocks: dict[int, TensorSet] = {}
    for part in parts:
        if part.tensors & wanted:
            allowed = _allowed_columns(part.tensors & wanted, part.tensors & others, columns, purity)
            by_blocks[allowed] = by_blocks.get(allowed, 0) | part.tensors
    rectangles = dict.fromkeys(_fill(chosen, by_blocks, columns) for chosen in _intersections(by_blocks, columns, most))
    return [tensors for tensors in rectangles if tensors & wanted]


def _allowed_columns(wanted: TensorSet, others: TensorSet, columns: Sequence[TensorSet], purity: float) -> int:
    """Give the columns, as bits, where enough of a part's tensors are wanted, or none are at stake."""
    allowed = 0
    for index, column in enumerate(columns):
        wrong = (others & column).bit_count()
        if not wrong or (wanted & column).bit_count() * (1 - purity) >= wrong * purity:
            allowed |= 1 << index
    return allowed


def _intersections(by_blocks: dict[int, TensorSet], columns: Sequence[TensorSet], most: int) -> list[int]:
    """Intersect sets of columns with each other until there are ``most`` of them."""
    largest_first = sorted(by_blocks, key=lambda chosen: -by_blocks[chosen].bit_count())
    found = dict.fromkeys([*largest_first, *(1 << index for index in range(len(columns)))])
    for one in largest_first:
        for other in list(found):
            if len(found) >= most:
                break
            found.setdefault(one & other)
    return [chosen for chosen in found if chosen]


def _fill(chosen: int, by_blocks: dict[int, TensorSet], columns: Sequence[TensorSet]) -> TensorSet:
    """Unite what all parts match that are allowed in these columns."""
    parts = union(tensors for allowed, tensors in by_blocks.items() if not chosen & ~allowed)
    return parts & union(columns[index] for index in members(chosen))
