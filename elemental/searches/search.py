"""A search as a generator: it yields the candidates of a round, and takes which of them are best."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import NamedTuple

from ..recipe.recipe import MergeRecipe
from .space import Space
from .steering import BEST, Picked, Point, Settings, Steering


class Candidate(NamedTuple):
    """A merge that is proposed.

    Attributes:
        number: From 1 on in its round; :data:`.steering.BEST`, 0, is the best so far.
        point: The shares of the numbers' ranges.
        values: The numbers.
        recipe: The merge.
    """

    number: int
    point: Point
    values: tuple[float, ...]
    recipe: MergeRecipe


class Round(NamedTuple):
    """What is to be judged.

    Attributes:
        number: From 1 on.
        best: The best candidate so far; in the first round the merge from which the search begins.
        candidates: The others.
    """

    number: int
    best: Candidate
    candidates: tuple[Candidate, ...]


def search(space: Space, settings: Settings | None = None) -> Generator[Round, Sequence[int], None]:
    """Find the numbers of a merge by choosing, round after round.

    As in::

        rounds = search(space)
        proposed = next(rounds)
        while not good_enough(proposed.best):
            proposed = rounds.send([3, 1])  # candidate 3 is the best, 1 the second; 0 is the best so far

    Args:
        space: What varies.
        settings: How it steers.

    Yields:
        The next round.

    Raises:
        RecipeError: Nothing is picked, or there is no such candidate, or the mode takes no such value.
    """
    steering = Steering(space, settings or Settings())
    while True:
        steering.take(Picked(tuple((yield make_round(space, steering)))))


def make_round(space: Space, steering: Steering) -> Round:
    """Give the round that a search is in, with the recipes."""
    candidates = (_candidate(space, number, point) for number, point in enumerate(steering.points, 1))
    return Round(steering.round, _candidate(space, BEST, steering.best), tuple(candidates))


def _candidate(space: Space, number: int, point: Point) -> Candidate:
    return Candidate(number, point, space.values(point), space.recipe(point))
