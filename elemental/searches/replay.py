"""The rounds of a search, computed from what was said of them; and where the images of each round's best are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..errors import RecipeError
from .search import Candidate, Round, make_round
from .search_record import Said, SaidPick
from .space import Space
from .steering import BEST, Picked, Restarted, Settings, Steering


class Origin(NamedTuple):
    """A candidate, by the round that it was first proposed in: its images are there.

    Attributes:
        round: The round, from 1 on.
        number: Its number in that round; 0 for the merge from which the search begins.
    """

    round: int
    number: int


class Proposed(NamedTuple):
    """A round, and where its best so far is from."""

    round: Round
    best_is_from: Origin

    def origin(self, number: int) -> Origin:
        """Tell where a candidate is from; 0 is the best so far.

        Raises:
            RecipeError: There is no such candidate.
        """
        self.candidate(number)
        return self.best_is_from if number == BEST else Origin(self.round.number, number)

    def candidate(self, number: int) -> Candidate:
        """Give a candidate; 0 is the best so far.

        Raises:
            RecipeError: There is no such candidate.
        """
        if not 0 <= number <= len(self.round.candidates):
            most = len(self.round.candidates)
            raise RecipeError(f"There is no candidate {number} in round {self.round.number}; there are 0 to {most}.")
        return self.round.best if number == BEST else self.round.candidates[number - 1]


def replay(space: Space, settings: Settings, said: Sequence[Said]) -> tuple[Proposed, ...]:
    """Compute all rounds of a search; the last one is still to be judged.

    Args:
        space: What varies.
        settings: How it steers.
        said: What was said of each round but the last.

    Raises:
        RecipeError: What was said names a candidate or a round that does not exist.
    """
    steering = Steering(space, settings)
    rounds = [Proposed(make_round(space, steering), Origin(1, BEST))]
    for verdict in said:
        if isinstance(verdict, SaidPick):
            steering.take(Picked(verdict.order))
            origin = rounds[-1].origin(verdict.order[0])
        else:
            source = _round_of(rounds, verdict.round)
            origin = source.origin(verdict.number)
            steering.take(Restarted(source.candidate(verdict.number).point, verdict.step))
        rounds.append(Proposed(make_round(space, steering), origin))
    return tuple(rounds)


def _round_of(rounds: Sequence[Proposed], number: int) -> Proposed:
    if not 1 <= number <= len(rounds):
        raise RecipeError(f"There is no round {number}; there are 1 to {len(rounds)}.")
    return rounds[number - 1]
