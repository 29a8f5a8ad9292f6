"""The command that shows what elemental merging is: ``elemental demo``."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable
from pathlib import Path

from ..demo.pair import copy_pair
from ..merge.files.model_locator import model_source
from ..recipe.recipe import MergeRecipe
from .generate import DEFAULT_DEVICE, make_host, require_packages
from .plot import CellBar, tell_result

_SEED = 3
_PROMPTS = "a red circle on blue\na white star on red\na blue circle on white"


def run_demo(folder: Path, *, say: Callable[[Iterable[str]], None]) -> None:
    """Make the strip that explains elemental merging, from the demo pair.

    Args:
        folder: Where the pair and the strip go.
        say: Prints lines.

    Raises:
        MergeError: The folder holds something else, or cannot be written.
        HostError: A package is missing.
        ImageError: Some images could not be made, or the folder of the strip cannot be written to.
        Stopped: The user asked for it; what is done is kept.
    """
    require_packages()
    from ..images.request import ImageRequest
    from ..runs.axis import Setting
    from ..runs.axis_context import make_axis_context
    from ..runs.axis_values import parse_axis
    from ..runs.estimate import estimate_plot
    from ..runs.plot_run import PlotRun, make_plot
    from ..runs.runner import start_run
    from ..runs.samples import find_samples

    a, b = copy_pair(folder)
    say(
        [
            f"Two small checkpoints with the layout of SD 1.x are in {folder}:",
            f"  {a.name} draws plain shapes, {b.name} the same shapes as if they were printed.",
            "Images are made of A, of A with one block moved towards B, and with single element groups of it ...",
        ]
    )
    recipe = MergeRecipe(model_source(a), model_source(b), alpha=0)
    request = ImageRequest("", seed=_SEED, steps=16, cfg=4.0, width=128, height=128)
    host = make_host(DEFAULT_DEVICE)
    context = make_axis_context(host, recipe)
    specs = find_samples()[1].axes["x"]
    axes = parse_axis("x", *specs, context), parse_axis("y", "prompt", _PROMPTS, context)
    plot = make_plot(Setting(recipe, request), *axes, context=context)
    with CellBar() as bar:
        run = PlotRun(plot, compare=True)
        result = start_run(host, run, folder / "strip", estimate=estimate_plot(plot), watcher=bar.watcher())
    tell_result(result, "plot", say)
    block, group = (value.text for value in plot.x.values[1:3])
    pair = f"{shlex.quote(str(a))} {shlex.quote(str(b))}"
    say(
        [
            f"The first column is A alone; in the second the whole block {block.partition(':')[0]} is moved towards B,",
            "in each of the others one group of its elements; below each stands how much of the image changed.",
            "",
            "To go on with the pair:",
            f'  elemental plan {pair} --alpha 0.3 --elemental "{group}"',
            f'  elemental check {pair} --alpha 0 --elements ALL --ratio 1 --prompt "a red circle on blue" \\',
            f"    --width 128 --height 128 --cfg 4 -o {shlex.quote(str(folder / 'checks'))}",
            "and in a page, with all its elements to click on:",
            f'  elemental ui --models {shlex.quote(str(folder))} --prompt "a red circle on blue" \\',
            "    --width 128 --height 128 --cfg 4",
        ]
    )
