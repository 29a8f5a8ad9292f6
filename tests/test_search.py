"""Searches: ratios found by choosing, told ranks alone."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from elemental import MergeRecipe, ModelSource, RecipeError, Rule, RuleSet
from elemental.recipe.rules import BlockSelector, ElementSelector
from elemental.searches.search import Candidate, Round, search
from elemental.searches.space import Part, Space, Varying
from elemental.searches.steering import BEST, Picked, Restarted, Settings, Steering, Verdict

BASE = MergeRecipe(ModelSource("a.safetensors"), ModelSource("b.safetensors"), alpha=0.5)


def part(block: str, low: float = 0.0, high: float = 1.0, start: float = 0.5) -> Part:
    def apply(recipe: MergeRecipe, values: Sequence[float]) -> MergeRecipe:
        rule = Rule(BlockSelector((block,)), ElementSelector(), values[0])
        return replace(recipe, rules=RuleSet((*recipe.rules.rules, rule)))

    return Part(block, (Varying(block, low, high, start),), apply)


SPACE = Space(BASE, tuple(part(f"IN{number:02}") for number in range(8)))


def away(point: Sequence[float], goal: Sequence[float]) -> float:
    return math.dist(point, goal) / math.hypot(*goal)


def find(goal: Sequence[float], *, rounds: int, seed: int) -> float:
    """Pick the three nearest to a goal in each round, and give how far the best is from it in the end."""
    proposed = next(steps := search(SPACE, Settings(seed=seed)))
    for _ in range(rounds):
        by_distance = sorted([proposed.best, *proposed.candidates], key=lambda found: away(found.point, goal))
        proposed = steps.send([found.number for found in by_distance[:3]])
    return away(proposed.best.point, goal)


def test_picking_three_of_eight_finds_more_in_six_rounds_than_drawing_does_in_twelve() -> None:
    dice = random.Random(1)
    goals = [[dice.random() for _ in range(8)] for _ in range(10)]
    drawn = [min(away([dice.random() for _ in range(8)], goal) for _ in range(96)) for goal in goals]
    picked = [find(goal, rounds=6, seed=number) for number, goal in enumerate(goals)]
    assert statistics.median(picked) < 0.8 * statistics.median(drawn)
    assert sum(one < other for one, other in zip(picked, drawn, strict=True)) >= 8


def test_the_best_so_far_is_never_lost() -> None:
    goal = [0.2] * 8
    proposed = next(steps := search(SPACE))
    last = away(proposed.best.point, goal)
    for _ in range(10):
        by_distance = sorted([proposed.best, *proposed.candidates], key=lambda found: away(found.point, goal))
        proposed = steps.send([by_distance[0].number])
        assert away(proposed.best.point, goal) <= last
        last = away(proposed.best.point, goal)


def test_none_is_better_keeps_the_best_and_proposes_others() -> None:
    steps = search(SPACE)
    first, second = next(steps), steps.send([BEST])
    assert second.best.point == first.best.point == SPACE.start
    assert second.number == 2
    assert not {found.point for found in first.candidates} & {found.point for found in second.candidates}


def test_verdicts_give_the_same_search_again() -> None:
    verdicts: list[Verdict] = [
        Picked((3, 1)),
        Picked((BEST, 2)),
        Restarted((0.5,) * 8, 0.1),
        Picked((8, BEST, 1, 2, 3, 4, 5, 6, 7)),
    ]
    once, again = (Steering(SPACE, Settings(seed=5), verdicts) for _ in range(2))
    assert (once.points, once.best, once.round) == (again.points, again.best, again.round)
    other = Steering(SPACE, Settings(seed=6), verdicts)
    assert other.points != once.points


def test_a_new_start_is_around_its_point() -> None:
    steering = Steering(SPACE, Settings(), [Restarted((0.25,) * 8, 0.01)])
    assert steering.best == (0.25,) * 8
    assert all(away(point, [0.25] * 8) < 0.2 for point in steering.points)


def test_candidates_are_recipes_with_short_numbers_within_their_ranges() -> None:
    space = Space(BASE, (part("IN01", 0.2, 0.6, start=0.9), part("OUT02", -1, 1, start=0.25)))
    assert space.start == (1.0, 0.625)
    proposed: Round = next(search(space))
    assert len(proposed.candidates) == 8
    for found in proposed.candidates:
        assert [rule.alpha for rule in found.recipe.rules.rules] == list(found.values)
        assert all(len(f"{value:g}") <= 6 for value in found.values)
        assert 0.2 <= found.values[0] <= 0.6
        assert -1 <= found.values[1] <= 1
    assert proposed.best == Candidate(BEST, space.start, (0.6, 0.25), space.recipe(space.start))


def test_one_number_can_be_searched() -> None:
    proposed = next(steps := search(Space(BASE, (part("M00"),))))
    for _ in range(6):
        nearest = min([proposed.best, *proposed.candidates], key=lambda found: abs(found.values[0] - 0.731))
        proposed = steps.send([nearest.number])
    assert proposed.best.values[0] == pytest.approx(0.731, abs=0.05)


@pytest.mark.parametrize(
    ("order", "told"),
    [
        ([], "Nothing is picked"),
        ([9], "There is no candidate 9; there are 1 to 8"),
        ([-1], "no candidate -1"),
        ([2, 3, 2], "named twice: 2, 3, 2"),
    ],
)
def test_verdicts_that_make_no_sense_are_refused(order: list[int], told: str) -> None:
    steps = search(SPACE)
    next(steps)
    with pytest.raises(RecipeError, match=told):
        steps.send(order)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Space(BASE, ()), "Nothing varies"),
        (lambda: Space(BASE, tuple(part(f"IN{n % 12:02}") for n in range(51))), "51 numbers vary; 50 at most"),
        (lambda: part("IN01", 1, 0), "write the smaller one first"),
        (lambda: Settings(population=3), "can have 4 to 64"),
        (lambda: Settings(step=0), "must be above 0"),
    ],
)
def test_searches_that_make_no_sense_are_refused(make: Callable[[], object], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        make()
