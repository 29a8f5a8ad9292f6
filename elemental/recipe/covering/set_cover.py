"""Few of many sets that together hold certain tensors."""

from __future__ import annotations

import random
from collections.abc import Sequence

from ...architectures.tensor_sets import TensorSet, union


def choose_sets(tensors: TensorSet, sets: Sequence[TensorSet], *, most: int | None = None) -> list[TensorSet] | None:
    """Choose sets that together hold some tensors, each time the one that holds most of those left.

    Args:
        tensors: The tensors to hold.
        sets: The sets to choose from.
        most: The largest number of sets that is of use.

    Returns:
        The sets, none of them needless; None if there are too few, or more would be needed than are of use.
    """
    chosen, left = list[TensorSet](), tensors
    while left:
        gains = [(found & left).bit_count() for found in sets]
        best = max(gains, default=0)
        if not best or len(chosen) == most:
            return None
        chosen.append(sets[gains.index(best)])
        left &= ~chosen[-1]
    return drop_needless(tensors, chosen)


def drop_needless(tensors: TensorSet, chosen: Sequence[TensorSet]) -> list[TensorSet]:
    """Drop sets that the others make needless, the last ones first."""
    kept = list(chosen)
    for index in reversed(range(len(kept))):
        others = kept[:index] + kept[index + 1 :]
        if not tensors & ~union(others):
            kept = others
    return kept


def improve_choice(
    tensors: TensorSet, chosen: Sequence[TensorSet], sets: Sequence[TensorSet], *, rounds: int
) -> list[list[TensorSet]]:
    """Replace some of the chosen sets by others, again and again, to need fewer of them; the same each time.

    Args:
        tensors: The tensors to hold.
        chosen: Sets that hold them.
        sets: The sets to choose from.
        rounds: How often to try.

    Returns:
        The smallest choices that were found, all of one size; the first is ``chosen`` if nothing smaller was.
    """
    generator = random.Random(0)
    best = [list(chosen)]
    for _ in range(rounds if len(chosen) > 1 else 0):
        found = _replace_some(tensors, best[-1], sets, generator)
        if found and len(found) < len(best[0]):
            best = [found]
        elif found and len(found) == len(best[0]) and found not in best:
            best.append(found)
    return best


def _replace_some(
    tensors: TensorSet, chosen: Sequence[TensorSet], sets: Sequence[TensorSet], generator: random.Random
) -> list[TensorSet] | None:
    removed = generator.randint(2, min(5, len(chosen)))
    kept = generator.sample(chosen, len(chosen) - removed)
    left = tensors & ~union(kept)
    for _ in range(removed):
        gains = [(found & left).bit_count() for found in sets]
        good = 0.75 * max(gains)
        kept.append(sets[generator.choice([index for index, gain in enumerate(gains) if gain >= good])])
        left &= ~kept[-1]
        if not left:
            return drop_needless(tensors, kept)
    return None
