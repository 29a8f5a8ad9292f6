"""The search for few rules, before they are written.

Rules come in two layers: first broad ones, which may set tensors wrong; then exact ones, which set right what is left.
What one rule can set is a rectangle: blocks times parts of names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ...architectures.tensor_sets import TensorSet
from .name_parts import Part
from .rectangles import find_rectangles
from .set_cover import choose_sets, improve_choice
from .task import Patch, Task

_MOST_RECTANGLES = 1500
"""For each pair of ratios."""
_BROAD = 0.6
"""The least share that a broad rule sets right of a part in a block."""
_MOST_TRIES = 40
_WORK = 2_000_000
"""How many sets to look at when broad rules are tried, and again when exact ones are replaced."""


@dataclass(frozen=True)
class _Layers:
    """Broad rules, what they leave wrong, and the tensors of the exact rules for that."""

    broad: tuple[Patch, ...]
    wrong: TensorSet
    exact: list[TensorSet]

    def __len__(self) -> int:
        return len(self.broad) + len(self.exact)


def find_patches(task: Task, blocks: Sequence[TensorSet], parts: Sequence[Part]) -> Iterator[list[Patch]]:
    """Find small lists of patches that, one after the other, give all tensors what they are to have.

    Args:
        task: What is asked.
        blocks: The tensors of each block.
        parts: The parts of names that rules can have.

    Yields:
        Lists of one length; none if there are tensors that these parts cannot tell from others.
    """
    ratios_of = {patch.tensors: patch.ratios for patch in _rectangles(task, blocks, parts, purity=1)}
    exact = list(ratios_of)
    chosen = choose_sets(task.wrong, _useful(exact, task.wrong))
    if chosen is None:
        return
    layers = _Layers((), task.wrong, chosen)
    broad = list(_rectangles(task, blocks, parts, purity=_BROAD))
    while better := _add_broad(task, layers, broad, exact):
        layers = better
    useful = _useful(exact, layers.wrong)
    rounds = min(200, _WORK // (4 * len(useful) + 1))
    for choice in improve_choice(layers.wrong, layers.exact, useful, rounds=rounds):
        yield [*layers.broad, *(Patch(ratios_of[tensors], tensors) for tensors in choice)]


def _rectangles(task: Task, blocks: Sequence[TensorSet], parts: Sequence[Part], *, purity: float) -> Iterator[Patch]:
    for ratios, tensors in task.wanted.items():
        others = task.at_stake & ~tensors
        for found in find_rectangles(
            tensors, others, columns=blocks, parts=parts, purity=purity, most=_MOST_RECTANGLES
        ):
            yield Patch(ratios, found & task.at_stake)


def _useful(sets: Sequence[TensorSet], wrong: TensorSet) -> list[TensorSet]:
    return [found for found in sets if found & wrong]


def _add_broad(task: Task, layers: _Layers, broad: Sequence[Patch], exact: Sequence[TensorSet]) -> _Layers | None:
    """Add a broad rule that makes two exact ones needless, or more; None if there is none."""
    tries = min(_MOST_TRIES, 2 * _WORK // (len(exact) * len(layers) + 1))
    left = sorted(
        ((task.wrong_after(patch, layers.wrong), patch) for patch in broad), key=lambda pair: pair[0].bit_count()
    )
    best = None
    fewest = len(layers.exact) - 1
    for wrong, patch in left[:tries]:
        chosen = choose_sets(wrong, _useful(exact, wrong), most=fewest)
        if chosen is not None and len(chosen) < fewest:
            fewest = len(chosen)
            best = _Layers((*layers.broad, patch), wrong, chosen)
    return best
