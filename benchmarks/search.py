"""How near picking images comes to hidden merges of the demo's pair, against scores, random draws and a grid.

Run ``OMP_NUM_THREADS=1 python -m benchmarks.search [--goals N]``. A goal is an image of A with ratios of B in the eight
blocks of the largest effect, drawn uniformly from 0 to 1; A's ratios are 0 elsewhere. Each way of searching sees only
which of its images are nearer to the goal's image, begins with all eight ratios at ``--start``, and is measured by the
distance left: the mean absolute difference of its best image from the goal's, divided by that of A's image. The image
at the start is not counted. With few sampling steps images jump where ratios hardly change. Ten goals are some 3,200
images of 64x64, three quarters of an hour on an idle core.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

import elemental
from elemental.demo.checkpoint_pair import copy_pair
from elemental.hosts.base import CheckpointRef
from elemental.hosts.standalone.host import StandaloneHost
from elemental.images.diff import mean_difference
from elemental.images.image_request import ImageRequest
from elemental.merge.live_merge import LiveMerge
from elemental.recipe.rules import RuleSet
from elemental.runs.axes.context import make_axis_context
from elemental.searches.effect_groups import KINDS, estimate_groups
from elemental.searches.search import search
from elemental.searches.space import Space
from elemental.searches.steering import Point, Settings
from elemental.searches.vary_texts import read_space
from elemental.workflows import live_merge

PROMPTS = (("a red circle on blue", 3), ("a white star on red", 11), ("a blue circle on white", 7))
BUDGETS = (24, 48, 96)
"""After so many images the distance left is told."""
_PICKED = 3
"""A person names so many of a round, in order."""

Measure = Callable[[Point], float]
"""Gives the distance left at a point."""


def main() -> None:
    """Search each goal in each way, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--goals", type=int, default=10, help="so many goals (default: 10)")
    parser.add_argument("--prompts", type=int, default=len(PROMPTS), choices=range(1, len(PROMPTS) + 1))
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS, help="some of the ways (default: all)")
    parser.add_argument("--by", default="blocks", choices=KINDS, help="what shares a ratio (default: blocks)")
    parser.add_argument("--start", type=float, default=0.5, help="the ratios at the start (default: 0.5)")
    parser.add_argument("--step", type=float, default=Settings.step, help="the first step (default: the usual one)")
    parser.add_argument("--steps", type=int, default=12, help="sampling steps of an image (default: 12)")
    args = parser.parse_args()
    left: dict[str, list[list[float]]] = {way: [] for way in args.ways}
    with tempfile.TemporaryDirectory() as folder:
        host, (a, b) = StandaloneHost(), map(elemental.model_source, copy_pair(Path(folder)))
        recipe = elemental.MergeRecipe(a, b, alpha=0)
        spaces = [make_space(host, recipe, which, args) for which in range(min(args.goals, args.prompts))]
        with live_merge(host.open_model(CheckpointRef("a", Path(a.path).expanduser()))) as merge:
            studio = Studio(host, merge, spaces, args.steps)
            for number, way in itertools.product(range(args.goals), args.ways):
                space, measure = spaces[number % len(spaces)], studio.measure(number)
                points = WAYS[way](measure, space, Settings(step=args.step, seed=number))
                seen = list(itertools.islice(points, BUDGETS[-1]))
                left[way].append([min(seen[:budget]) for budget in BUDGETS])
                print(f"{way}, goal {number}:", *(f"{distance:.3f}" for distance in left[way][-1]), flush=True)
    print_table(left)


def make_space(host: StandaloneHost, recipe: elemental.MergeRecipe, which: int, args: argparse.Namespace) -> Space:
    """Let vary what changes the image of a prompt most."""
    texts = estimate_groups(host, recipe, [_request(which, args.steps)], by=args.by)
    print(f'"{PROMPTS[which][0]}", seed {PROMPTS[which][1]}:', ", ".join(texts), flush=True)
    rules = ", ".join(f"{text if ':' in text else f'{text}:'}:{args.start}" for text in texts)
    recipe = replace(recipe, rules=elemental.parse_rules(rules))
    return read_space(texts, recipe, make_axis_context(host, recipe))


def _request(which: int, steps: int) -> ImageRequest:
    prompt, seed = PROMPTS[which]
    return ImageRequest(prompt, seed=seed, steps=steps, cfg=4.0, width=64, height=64)


class Studio:
    """Makes the images of goals and points.

    Args:
        host: Makes them.
        merge: The model that they are made with.
        spaces: What varies, for each prompt.
        steps: Sampling steps.
    """

    def __init__(self, host: StandaloneHost, merge: LiveMerge, spaces: Sequence[Space], steps: int) -> None:
        self._host = host
        self._merge = merge
        self._spaces = spaces
        self._steps = steps
        self._images: dict[tuple[int, elemental.MergeRecipe], Image.Image] = {}

    def measure(self, number: int) -> Measure:
        """Draw a goal, and give what measures the distance left from it."""
        which = number % len(self._spaces)
        space, dice = self._spaces[which], random.Random(1000 + number)
        goal = self._draw(which, space.recipe([dice.random() for _ in space.numbers]))
        whole = mean_difference(goal, self._draw(which, replace(space.base, rules=RuleSet())))
        return lambda point: mean_difference(goal, self._draw(which, space.recipe(point))) / whole

    def _draw(self, which: int, recipe: elemental.MergeRecipe) -> Image.Image:
        """Make an image, or find it: random draws and the corners of grids are the same for each goal of a prompt."""
        if (which, recipe) not in self._images:
            self._merge.apply(recipe)
            (made,) = self._host.make_images(_request(which, self._steps), model={})
            self._images[which, recipe] = made.image
        return self._images[which, recipe]


def pick(measure: Measure, space: Space, settings: Settings) -> Iterator[float]:
    """Name the best three of each round in order, the best so far among them."""
    return _choose(measure, space, settings, _PICKED)


def score(measure: Measure, space: Space, settings: Settings) -> Iterator[float]:
    """Give the whole order of each round."""
    return _choose(measure, space, settings, settings.population + 1)


def _choose(measure: Measure, space: Space, settings: Settings, named: int) -> Iterator[float]:
    proposed = next(steps := search(space, settings))
    best = measure(proposed.best.point)
    for _ in range(BUDGETS[-1] // settings.population):
        distances = {found.number: measure(found.point) for found in proposed.candidates}
        yield from distances.values()
        distances[proposed.best.number] = best
        order = sorted(distances, key=distances.__getitem__)
        best = distances[order[0]]
        proposed = steps.send(order[:named])


def draw(measure: Measure, space: Space, settings: Settings) -> Iterator[float]:  # noqa: ARG001
    """Draw points uniformly, the same for each goal."""
    dice = random.Random(1)
    return (measure(tuple(dice.random() for _ in space.numbers)) for _ in range(BUDGETS[-1]))


def go_through(measure: Measure, space: Space, settings: Settings) -> Iterator[float]:  # noqa: ARG001
    """Vary one number at a time, and keep its best value: 0, 0.5 and 1, then a quarter on both sides, an eighth, ..."""
    best, least = list(space.start), measure(space.start)
    step = 0.5
    while True:
        for place in range(len(best)):
            values = (0.0, 0.5, 1.0) if step == 0.5 else (best[place] - step, best[place] + step)
            for value in values:
                point = [*best[:place], min(1.0, max(0.0, value)), *best[place + 1 :]]
                distance = measure(tuple(point))
                yield distance
                if distance < least:
                    best, least = point, distance
        step /= 2


def print_table(left: dict[str, list[list[float]]]) -> None:
    """Print the medians, and in how many goals half the images of a search are nearer than all random ones."""
    print(f"\n| way | {' | '.join(f'{budget} images' for budget in BUDGETS)} | nearer with 48 than random with 96 |")
    print(f"|{'---|' * (len(BUDGETS) + 2)}")
    for way, found in left.items():
        medians = " | ".join(f"{statistics.median(of_goal):.3f}" for of_goal in zip(*found, strict=True))
        pairs = zip(found, left.get("random draws", []), strict=False)
        nearer = f"{sum(one[1] < other[2] for one, other in pairs)} of {len(found)}" if "random" not in way else ""
        print(f"| {way} | {medians} | {nearer} |")


WAYS: dict[str, Callable[[Measure, Space, Settings], Iterator[float]]] = {
    "picking": pick,
    "random draws": draw,
    "scores": score,
    "one at a time": go_through,
}

if __name__ == "__main__":
    main()
