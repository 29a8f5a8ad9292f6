"""Proposes points of a space, and learns from which of them somebody likes best: CMA-ES, told ranks alone.

Method: N. Hansen, "The CMA Evolution Strategy: A Tutorial", arXiv 1604.00772; the package ``cmaes`` computes it. It
needs the order of a round's points only, and of those only the first few: the others count the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ..errors import RecipeError
from .space import Space

if TYPE_CHECKING:
    from cmaes import CMA

BEST = 0
"""The number of the best so far, beside those of a round's candidates, which begin at 1."""

Point = tuple[float, ...]


class Picked(NamedTuple):
    """What was said of a round.

    Attributes:
        order: Numbers of candidates, the best first; :data:`BEST` stands for the best so far. Those that are not in it
            count the same, as the last. :data:`BEST` alone: none is better.
    """

    order: tuple[int, ...]


class Restarted(NamedTuple):
    """The search begins anew around a point; the round ends without a pick.

    Attributes:
        point: Around which.
        step: The standard deviation of the new candidates, as a share of each number's range.
    """

    point: Point
    step: float


Verdict = Picked | Restarted


@dataclass(frozen=True)
class Settings:
    """How a search steers.

    Attributes:
        population: How many candidates a round has, from 4 on.
        step: The standard deviation of the first candidates, as a share of each number's range.
        seed: Decides which candidates are drawn.

    Raises:
        RecipeError: A number is out of its range.
    """

    population: int = 8
    step: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        if not 4 <= self.population <= 64:
            raise RecipeError(f"A round has {self.population} candidates; it can have 4 to 64.")
        if not 0 < self.step <= 1:
            raise RecipeError(f"The step is {self.step:g}; it must be above 0 and at most 1.")


class Steering:
    """The state of a search: which point is the best so far, and the candidates of the round.

    It depends on the space, the settings and the verdicts alone, so that it can be computed again from these.

    Args:
        space: What varies.
        settings: How it steers.
        verdicts: What was said so far.

    Attributes:
        best: The best point so far; at first that at which the search begins.
        points: The candidates of this round.
        round: The number of the round, from 1.
    """

    def __init__(self, space: Space, settings: Settings, verdicts: Sequence[Verdict] = ()) -> None:
        self._space = space
        self._settings = settings
        self._starts = 0
        self.best: Point = space.start
        self.round = 1
        self._start(space.start, settings.step)
        for verdict in verdicts:
            self.take(verdict)

    def take(self, verdict: Verdict) -> None:
        """Learn from a verdict, and propose the next candidates.

        Raises:
            RecipeError: There is no such candidate, or one is named twice.
        """
        if isinstance(verdict, Restarted):
            self.best = verdict.point
            self.round += 1
            self._start(verdict.point, verdict.step)
            return
        order = self._checked(verdict.order)
        points = [self.best, *self.points]
        if BEST in order:  # in the place of a candidate that nobody picked, or else of the last one
            rest = [number for number in range(1, len(points)) if number not in order]
            left_out = rest[-1] if rest else order[-1] if order[-1] != BEST else order[-2]
            told = [number for number in range(len(points)) if number != left_out]
        else:
            told = list(range(1, len(points)))
        ranks = {number: rank for rank, number in enumerate(order)}
        self._optimizer.tell([(_array(points[number]), ranks.get(number, len(order))) for number in told])
        self.best = points[order[0]]
        self.round += 1
        self._propose()

    def _checked(self, order: Sequence[int]) -> tuple[int, ...]:
        if not order:
            raise RecipeError(f"Nothing is picked: name the best candidates, or {BEST} if none is better.")
        for number in order:
            if not 0 <= number <= len(self.points):
                raise RecipeError(f"There is no candidate {number}; there are 1 to {len(self.points)}.")
        if len(set(order)) < len(order):
            raise RecipeError(f"A candidate is named twice: {', '.join(map(str, order))}.")
        return tuple(order)

    def _start(self, point: Point, step: float) -> None:
        from cmaes import CMA

        size, seed = len(point), self._settings.seed + self._starts
        bounds = _array([(0.0, 1.0)] * size)
        self._optimizer: CMA = CMA(
            _array(point), step, bounds=bounds, seed=seed % 2**32, population_size=self._settings.population
        )
        self._starts += 1
        self._propose()

    def _propose(self) -> None:
        self.points = [tuple(map(float, self._optimizer.ask())) for _ in range(self._settings.population)]


def _array(numbers: Sequence[object]):  # type: ignore[no-untyped-def]  # noqa: ANN202
    import numpy as np

    return np.array(numbers, dtype=float)
