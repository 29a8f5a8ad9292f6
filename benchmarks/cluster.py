"""What a second worker gains: a plot on two workers of one thread each, against the same on one worker of one thread.

Run ``python -m benchmarks.cluster [--ratios N] [--steps N] [--rounds N]``; needs the extra ``cluster``. Both are
workers of Ray on this computer, and draw the same plot with the demo's pair of models, five elements each at some
ratios, so that what is compared is the cluster and nothing else. Workers have begun and each has its model before the
clock runs. The rounds take turns: one worker, two workers, one worker, and so on. Printed are seconds, the gain, and
the share of the workers' time outside of generating; the images of both are compared byte for byte. The aims are a gain
of 1.8, and 5 %. Two cores that are busy otherwise make the gain small; ``--ratios 1 --steps 1 --rounds 1`` tries
whether all works.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import ray

from elemental import MergeRecipe, model_source
from elemental.cli.standalone_host import make_host
from elemental.cluster.ray_workers import open_cluster
from elemental.demo.checkpoint_pair import copy_pair
from elemental.images.image_request import ImageRequest
from elemental.runs.axes.base import Setting
from elemental.runs.axes.context import make_axis_context
from elemental.runs.axes.values import parse_axis
from elemental.runs.estimate import estimate_plot
from elemental.runs.runner import start_run
from elemental.runs.xy_plot_run import PlotRun, make_plot

_ELEMENTS = "IN07:attn1, IN07:attn2, OUT09:ff, OUT09:attn2, OUT06:in_layers"
_GAIN, _OUTSIDE = 1.8, 5
"""The aims: times as fast, and percent of the time."""


class Round(NamedTuple):
    """One plot: its seconds, the share outside of generating in percent, and the bytes of its images."""

    seconds: float
    outside: float
    images: Mapping[str, bytes]


def main() -> None:
    """Make the plots and print what they took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ratios", type=int, default=5, help="images of each of five elements (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="sampling steps (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="plots of each kind (default: %(default)s)")
    args = parser.parse_args()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        warm_up, run = (_make_run(folder / "models", ratios, args.steps) for ratios in (1, args.ratios))
        rounds: dict[int, list[Round]] = {1: [], 2: []}
        for number in range(args.rounds):
            for workers in rounds:
                rounds[workers].append(_make(warm_up, run, folder / f"{number}-{workers}", workers))
    _print(rounds)


def _make_run(folder: Path, ratios: int, steps: int) -> PlotRun:
    a, b = map(model_source, copy_pair(folder))
    recipe = MergeRecipe(a, b, alpha=0)
    request = ImageRequest("a red circle", steps=steps, width=128, height=128, cfg=4.0)
    context = make_axis_context(make_host(None), recipe)
    values = ", ".join(f"{(at + 1) / ratios:g}" for at in range(ratios))
    axes = {
        "x": parse_axis("x", "alpha", values, context),
        "y": parse_axis("y", "pinpoint-element", _ELEMENTS, context),
    }
    return PlotRun(make_plot(Setting(recipe, request), axes, context=context))


def _make(warm_up: PlotRun, run: PlotRun, folder: Path, workers: int) -> Round:
    """Make a plot on workers that have one CPU each: Ray is begun with no more."""
    ray.init("local", num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        estimate = estimate_plot(run.plot)
        with open_cluster(None, make_host=make_host, models=estimate.models, workers=workers) as (maker, _):
            start_run(maker, warm_up, folder / "warm", estimate=estimate)
            start = time.perf_counter()
            result = start_run(maker, run, folder, estimate=estimate)
            seconds = time.perf_counter() - start
    finally:
        ray.shutdown()
    images = {path.name: path.read_bytes() for path in (folder / "cells").glob("*.png")}
    return Round(seconds, result.outside, images)


def _print(rounds: Mapping[int, list[Round]]) -> None:
    print("| workers | seconds, median (all) | outside of generating, median |\n|---|---|---|")
    for workers, made in rounds.items():
        each = ", ".join(f"{one.seconds:.2f}" for one in made)
        median = statistics.median(one.seconds for one in made)
        outside = statistics.median(one.outside for one in made)
        print(f"| {workers} | {median:.2f} ({each}) | {outside:.1f} % |")
    gains = [one.seconds / two.seconds for one, two in zip(rounds[1], rounds[2], strict=True)]
    same = all(made.images == rounds[1][0].images for kind in rounds.values() for made in kind)
    spread = f"median of {len(gains)} rounds; {min(gains):.2f} to {max(gains):.2f}"
    print(f"\nTwo workers are {statistics.median(gains):.2f} times as fast as one ({spread}; aim {_GAIN}).")
    print(f"The aim outside of generating is {_OUTSIDE} %. Images are {'the same' if same else 'NOT the same'}.")


if __name__ == "__main__":
    main()
