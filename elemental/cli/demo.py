"""``elemental demo``: shows what elemental merging is."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..demo.checkpoint_pair import copy_pair
from ..merge.files.model_locator import model_source
from ..recipe.recipe import MergeRecipe
from .command import Command, Interrupts, read_as
from .output import print_lines
from .progress import ProgressBar, run_watcher
from .run_options import print_result
from .standalone_host import DEFAULT_DEVICE, make_host, require_packages

if TYPE_CHECKING:
    from ..hosts.base import Host
    from ..runs.xy_plot_run import PlotRun

_SEED = 3
_PROMPTS = "a red circle on blue\na white star on red\na blue circle on white"
_SIZE = "--width 128 --height 128 --cfg 4"


@dataclass(frozen=True)
class DemoOptions:
    """Where the demo goes.

    Attributes:
        output: The folder for the two models and the strip.
    """

    output: Path


def run_demo(options: DemoOptions, interrupts: Interrupts) -> None:
    """Make the strip that explains elemental merging, from two small models.

    Raises:
        MergeError: The folder holds something else, or cannot be written.
        HostError: A package is missing.
        ImageError: Some images could not be made, or the folder of the strip cannot be written to.
        Stopped: The user asked for it; what is done is kept.
    """
    require_packages()
    from ..runs.estimate import estimate_plot
    from ..runs.runner import start_run

    folder = options.output
    pair = copy_pair(folder)
    print_lines(_introduction(folder, pair))
    host = make_host(DEFAULT_DEVICE)
    run = _make_run(host, pair)
    with ProgressBar() as bar:
        watcher = run_watcher(bar, interrupts)
        result = start_run(host, run, folder / "strip", estimate=estimate_plot(run.plot), watcher=watcher)
    print_result(result, "plot")
    block, group = (value.text for value in run.plot.x.values[1:3])
    print_lines(_explanation(block, group, folder, pair))


def _make_run(host: Host, pair: Sequence[Path]) -> PlotRun:
    from ..images.image_request import ImageRequest
    from ..runs.axes.base import Setting
    from ..runs.axes.context import make_axis_context
    from ..runs.axes.values import parse_axis
    from ..runs.sample_file import find_samples
    from ..runs.xy_plot_run import PlotRun, make_plot

    a, b = map(model_source, pair)
    recipe = MergeRecipe(a, b, alpha=0)
    request = ImageRequest("", seed=_SEED, steps=16, cfg=4.0, width=128, height=128)
    context = make_axis_context(host, recipe)
    x = parse_axis("x", *find_samples()[1].axes["x"], context)
    y = parse_axis("y", "prompt", _PROMPTS, context)
    return PlotRun(make_plot(Setting(recipe, request), {"x": x, "y": y}, context=context), compare=True)


def _introduction(folder: Path, pair: Sequence[Path]) -> list[str]:
    a, b = pair
    return [
        f"Two small checkpoints with the layout of SD 1.x are in {folder}:",
        f"  {a.name} draws plain shapes, {b.name} the same shapes as if they were printed.",
        "Images are made of A, of A with one block moved towards B, and with single element groups of it ...",
    ]


def _explanation(block: str, group: str, folder: Path, pair: Sequence[Path]) -> list[str]:
    """Say what the strip shows, and how to go on.

    Args:
        block: The rule of the second column.
        group: The rule of the third.
        folder: Where everything is.
        pair: The two models.
    """
    models = " ".join(shlex.quote(str(path)) for path in pair)
    return [
        f"The first column is A; in the second the whole block {block.partition(':')[0]} is moved towards B,",
        "in each of the others one group of its elements; below each image stands how much of it changed.",
        "",
        "To go on with the pair:",
        f'  elemental plan {models} --alpha 0.3 --elemental "{group}"',
        f'  elemental check {models} --alpha 0 --elements ALL --ratio 1 --prompt "a red circle on blue" \\',
        f"    {_SIZE} -o {shlex.quote(str(folder / 'checks'))}",
        "and in a page, with all its elements to click on:",
        f'  elemental ui --models {shlex.quote(str(folder))} --prompt "a red circle on blue" \\',
        f"    {_SIZE}",
    ]


def _add_options(command: argparse.ArgumentParser) -> None:
    help_text = "the folder for the models and images (default: %(default)s)"
    command.add_argument("-o", "--output", type=Path, metavar="DIR", default="elemental-demo", help=help_text)


def _read(args: argparse.Namespace) -> DemoOptions:
    return read_as(DemoOptions, args)


DEMO = Command(
    arguments="[options]",
    example="elemental demo -o trial",
    add_options=_add_options,
    read=_read,
    run=run_demo,
)
