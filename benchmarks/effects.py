"""Estimated effects against those of real images, on the demo's pair, over three prompts and seeds together.

Run ``OMP_NUM_THREADS=1 python -m benchmarks.effects [--make-truth]``. The truth are images with one tensor, one group
or one block of B, and the rest of A: their mean absolute difference from A's image, in
``benchmarks/effects_truth.json``; ``--make-truth`` makes these 3,318 images anew, which takes an hour or two. Estimates
of both methods stand beside two simpler rankings: the size of B - A, and this relative to A. Prices are CPU time, in
images that are made before and after the passes; what other programs do counts little in it.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import elemental
from elemental.architectures.element_groups import find_groups
from elemental.architectures.keys import Component, KeyName
from elemental.demo.checkpoint_pair import copy_pair
from elemental.effects.samples import Samples
from elemental.hosts.base import CheckpointRef
from elemental.hosts.standalone.host import StandaloneHost
from elemental.images.diff import mean_difference
from elemental.images.image_request import ImageRequest
from elemental.merge.files.checkpoint import Checkpoint
from elemental.merge.live_merge import LiveMerge
from elemental.recipe.rules import BlockSelector, ElementSelector, Rule, RuleSet, rule_of_tensor
from elemental.runs.effect_estimate import EffectOrder, Method, estimate_effects
from elemental.workflows import live_merge

TRUTH = Path(__file__).with_name("effects_truth.json")
PROMPTS = (("a red circle on blue", 3), ("a white star on red", 11), ("a blue circle on white", 7))
REQUESTS = tuple(ImageRequest(prompt, seed=seed, steps=16, cfg=4.0, width=128, height=128) for prompt, seed in PROMPTS)
_PASSES = {Method.STEPS: (4, 8, 16, 32, 48), Method.WHOLE: (3, 4, 8, 16)}
_USUAL = {Method.STEPS: 16, Method.WHOLE: 4}
"""Passes of ``elemental effects`` if nothing is said; shares of specs are compared with these."""
_ROUNDING = 0.05
"""Effects below this, of 255, are lost where images are rounded."""

Figures = dict[str, dict[str, list[float]]]
"""By kind (tensor, group, block) and name, the figure for each request."""


class Unit(NamedTuple):
    """A tensor, a group of a block, or a block."""

    kind: str
    name: str
    keys: tuple[str, ...]
    rule: Rule


def main() -> None:
    """Make the truth anew, or compare the estimates with it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--make-truth", action="store_true", help="make the images of the truth anew")
    parser.add_argument("--specs", type=int, default=50, help="random specs whose share is compared (default: 50)")
    parser.add_argument("--most", type=int, default=48, help="leave out rows of more passes, which take long")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        a, b = map(elemental.model_source, copy_pair(Path(folder)))
        recipe = elemental.MergeRecipe(a, b, alpha=0)
        names = [tensor.name for tensor in elemental.plan_merge(recipe).tensors]
        units = list(units_of(names))
        if args.make_truth:
            TRUTH.write_text(json.dumps(make_truth(recipe, units)) + "\n")
        usual = compare(recipe, units, args.most)
        if args.specs:
            compare_specs(recipe, units, usual, args.specs)


def units_of(names: Sequence[KeyName]) -> Iterator[Unit]:
    """List the tensors of the U-Net, the groups of each of its blocks, and its blocks."""
    unet = [name for name in names if name.component is Component.UNET]
    for name in unet:
        yield Unit("tensor", name.key, (name.key,), rule_of_tensor(name, 1.0))
    for group in find_groups(names):
        for block, place in group.places.items():
            if block != "BASE":
                keys = tuple(names[index].key for index in place.indices)
                yield Unit("group", f"{block}:{place.part}", keys, _rule(block, place.part))
    for block in dict.fromkeys(name.block for name in unet):
        keys = tuple(name.key for name in unet if name.block == block)
        yield Unit("block", block, keys, _rule(block))


def _rule(block: str, *parts: str) -> Rule:
    return Rule(BlockSelector((block,)), ElementSelector(parts), 1.0)


def make_truth(recipe: elemental.MergeRecipe, units: Sequence[Unit]) -> Figures:
    """Make the images, and measure them."""
    host, figures = StandaloneHost(), Figures()
    path = Path(recipe.model_a.path).expanduser()
    live = host.open_model(CheckpointRef("a", path))
    with live_merge(live) as merge:
        base = _draw(host, merge, recipe)
        for unit in units:
            moved = _draw(host, merge, replace(recipe, rules=RuleSet((unit.rule,))))
            distances = [round(mean_difference(*pair), 4) for pair in zip(base, moved, strict=True)]
            figures.setdefault(unit.kind, {})[unit.name] = distances
    return figures


def compare_specs(
    recipe: elemental.MergeRecipe, units: Sequence[Unit], estimates: Mapping[Method, Samples], count: int
) -> None:
    """Compare the share of the change from A to B that random specs are expected to make with that of real images."""
    draw, host = random.Random(1), StandaloneHost()
    live = host.open_model(CheckpointRef("a", Path(recipe.model_a.path).expanduser()))
    moves, true = [], []
    with live_merge(live) as merge:
        base = _draw(host, merge, recipe)
        full = _distance(base, _draw(host, merge, replace(recipe, alpha=1.0)))
        for _ in range(count):
            chosen = draw.sample([unit for unit in units if unit.kind != "tensor"], draw.choice((1, 2, 4, 8, 16, 32)))
            ratio = draw.choice((0.25, 0.5, 1.0))
            rules = tuple(unit.rule._replace(alpha=ratio) for unit in chosen)
            moves.append({key: ratio for unit in chosen for key in unit.keys})
            true.append(_distance(base, _draw(host, merge, replace(recipe, rules=RuleSet(rules)))) / full)
    print(f"\n| shares of {count} specs | up to half | correlation | of ranks | true by expected, median | error |")
    print("|---|---|---|---|---|---|")
    for method, samples in estimates.items():
        whole = samples.effect(dict.fromkeys(samples.keys, 1.0))
        _print_shares(method.value, np.array([samples.effect(each) / whole for each in moves]), np.array(true))


def _print_shares(name: str, expected: NDArray[np.float64], true: NDArray[np.float64]) -> None:
    one, other = expected[true <= 0.5], true[true <= 0.5]
    error = float(np.sqrt(np.square(one - other).mean()))
    figures = float(np.corrcoef(one, other)[0, 1]), rank_correlation(one, other), float(np.median(other / one)), error
    print("|", " | ".join([name, str(len(one)), *(f"{figure:.3f}" for figure in figures)]), "|")


def _draw(host: StandaloneHost, merge: LiveMerge, recipe: elemental.MergeRecipe) -> list[Image.Image]:
    merge.apply(recipe)
    return [host.make_images(request, model={})[0].image for request in REQUESTS]


def _distance(ones: Sequence[Image.Image], others: Sequence[Image.Image]) -> float:
    return float(np.mean([mean_difference(*pair) for pair in zip(ones, others, strict=True)]))


def compare(recipe: elemental.MergeRecipe, units: Sequence[Unit], most: int) -> dict[Method, Samples]:
    """Print the table; give the samples of the usual numbers of passes."""
    truth: Figures = json.loads(TRUTH.read_text())
    print("| ranking | passes | tensors | groups | blocks | first 20 in 20 | in 40 | in 60 | price | true by effect |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, sizes in simple_rankings(recipe).items():
        _print_row(name, "", _of_units(sizes, units), truth, units, "")
    usual = {}
    for method, listed in _PASSES.items():
        counts = [count for count in listed if count <= most]
        samples, images, per_pass = _estimate(recipe, method, max(counts))
        for count in counts:
            some = first_passes(samples, count)
            effects = dict(zip([u.name for u in units], some.group_effects([u.keys for u in units]), strict=True))
            price = f"{images + count * per_pass:.1f} | {_median_truth(effects, truth):.2f}"
            _print_row(method.value, str(count), effects, truth, units, price)
        usual[method] = first_passes(samples, _USUAL[method])
    return usual


def _median_truth(effects: Mapping[str, float], truth: Figures) -> float:
    """Give the median of true by estimated effects, of tensors whose effect is larger than rounding."""
    true = {name: float(np.mean(figures)) for name, figures in truth["tensor"].items()}
    return float(np.median([figure / effects[name] for name, figure in true.items() if figure > _ROUNDING]))


def _estimate(recipe: elemental.MergeRecipe, method: Method, passes: int) -> tuple[Samples, int, float]:
    """Estimate; gives the samples, the number of images that are made, and the price of a pass in images."""
    host = StandaloneHost()
    host.open_model(CheckpointRef("a", Path(recipe.model_a.path).expanduser()))
    host.make_images(REQUESTS[0], model={})
    before = _time_of_images(host)
    started = time.process_time()
    effects = estimate_effects(host, EffectOrder(recipe, REQUESTS, passes, method))
    seconds = time.process_time() - started
    per_image = (before + _time_of_images(host)) / 2
    return effects.samples, effects.generated, (seconds / per_image - effects.generated) / passes


def _time_of_images(host: StandaloneHost) -> float:
    started = time.process_time()
    for request in REQUESTS:
        host.make_images(request, model={})
    return (time.process_time() - started) / len(REQUESTS)


def first_passes(samples: Samples, count: int) -> Samples:
    """Give the samples of the first passes, as if there were no others."""
    places = [place for place, row in enumerate(samples.passes) if row.source != "vae"][:count]
    rows = tuple(samples.passes[place] for place in places)
    return replace(samples, passes=rows, numbers=samples.numbers[places])


def simple_rankings(recipe: elemental.MergeRecipe) -> Mapping[str, Mapping[str, float]]:
    """Rank tensors by the size of B - A, and by this relative to A."""
    paths = (Path(source.path).expanduser() for source in (recipe.model_a, recipe.model_b))
    with Checkpoint(next(paths)) as a, Checkpoint(next(paths)) as b:
        sizes, relative = {}, {}
        for key, info in a.tensors.items():
            if info.is_float and key in b.tensors:
                first, second = a.tensor(key).double(), b.tensor(key).double()
                sizes[key] = float((second - first).norm())
                relative[key] = sizes[key] / max(1e-12, float(first.norm()))
    return {"size of B - A": sizes, "size of B - A, relative to A": relative}


def _of_units(sizes: Mapping[str, float], units: Sequence[Unit]) -> dict[str, float]:
    return {unit.name: float(np.sqrt(sum(sizes[key] ** 2 for key in unit.keys))) for unit in units}


def _print_row(
    name: str, passes: str, effects: Mapping[str, float], truth: Figures, units: Sequence[Unit], price: str
) -> None:
    cells = [name, passes]
    for kind in ("tensor", "group", "block"):
        listed = [unit.name for unit in units if unit.kind == kind]
        true = np.array([np.mean(truth[kind][each]) for each in listed])
        cells.append(f"{rank_correlation(np.array([effects[each] for each in listed]), true):.3f}")
    listed = [unit.name for unit in units if unit.kind == "tensor"]
    by_truth = sorted(listed, key=lambda each: -float(np.mean(truth["tensor"][each])))[:20]
    by_effect = sorted(listed, key=lambda each: -effects[each])
    cells += [str(len(set(by_truth) & set(by_effect[:count]))) for count in (20, 40, 60)]
    print("|", " | ".join([*cells, price]), "|", flush=True)


def rank_correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Give Spearman's rank correlation of figures without ties."""
    ranks = [np.argsort(np.argsort(figures)).astype(float) for figures in (one, other)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


if __name__ == "__main__":
    main()
