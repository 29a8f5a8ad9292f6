"""``elemental plot``: makes an XY plot."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ..modes.catalogue import MergeMode
from ..runs.axes.base import SIDES
from ..runs.axes.catalogue import AXES
from .command import Command, Interrupts, UsageError, read_as
from .image_options import ImageOptions, add_image_options
from .output import print_lines, print_warnings
from .recipe_help import SHORT_RECIPE_HELP
from .recipe_options import RecipeOptions, add_recipe_options, read_recipe_options, read_text_file
from .run_options import (
    Preparation,
    RunCommandOptions,
    RunOptions,
    add_run_options,
    fill,
    find_sample,
    prepare,
    run_or_resume,
    start_new_run,
)

if TYPE_CHECKING:
    from ..runs.xy_plot_run import PlotRun, StoredPlot

AxisTexts = Mapping[str, tuple[str, str]]
"""Type and values of an axis by its side."""


@dataclass(frozen=True)
class PlotOptions(RunCommandOptions):
    """What to plot.

    Attributes:
        x_type: The axis of the columns.
        x: Its values.
        x_file: A text file with its values.
        y_type: The axis of the rows.
        y: Its values.
        y_file: A text file with its values.
        z_type: The axis of the grids.
        z: Its values.
        z_file: A text file with its values.
        compare: Whether to say below each image how much of it differs from the first of its row.
        first_without_rules: Whether an axis of specs begins with an image without any.
    """

    command: ClassVar[str] = "plot"
    x_type: str | None
    x: str | None
    x_file: str | None
    y_type: str | None
    y: str | None
    y_file: str | None
    z_type: str | None
    z: str | None
    z_file: str | None
    compare: bool | None
    first_without_rules: bool | None

    def axis_texts(self) -> dict[str, tuple[str, str]]:
        """Give type and values of each axis that the options set, by its side.

        Raises:
            UsageError: A type has no values, or values have no type.
            CheckpointError: A file of values cannot be read.
        """
        texts: dict[str, tuple[str, str]] = {}
        for side in SIDES:
            kind, values, file = (getattr(self, f"{side}{part}") for part in ("_type", "", "_file"))
            if (kind, values, file) != (None, None, None):
                texts[side] = _axis_text(side, kind, values, file)
        return texts


def _axis_text(side: str, kind: str | None, values: str | None, file: str | None) -> tuple[str, str]:
    if kind is None or (values is None and file is None):
        raise UsageError(f"--{side}-type and --{side} go together")
    return kind, read_text_file(file, "values") if file is not None else values or ""


def run_plot(options: PlotOptions, interrupts: Interrupts) -> None:
    """Make a plot, resume one, or list the samples.

    Raises:
        UsageError: The options do not go together.
        ElementalError: Something cannot be read or does not fit, or some images could not be made.
        Stopped: The user asked for it; what is done is kept.
    """
    run_or_resume(options, interrupts, _start)


def _start(options: PlotOptions, interrupts: Interrupts) -> None:
    from ..runs.estimate import estimate_plot
    from ..runs.xy_plot_run import read_stored_plot

    options, texts = _with_sample(options)
    stored = read_stored_plot(Path(options.recipe.recipe)) if options.recipe.recipe else None
    if "x" not in texts and stored is None:
        raise UsageError("a plot needs --x-type and --x, a --sample, or the grid of another plot as --recipe")
    options = replace(options, recipe=_complete_recipe(options.recipe, texts))
    prepared = prepare(options)
    run = _make_run(options, texts, stored, prepared)
    estimate = estimate_plot(run.plot, locator=options.recipe.locator)
    print_warnings([*prepared.remarks, *estimate.warnings], strict=options.recipe.strict)
    if remarks := [remark for axis in run.plot.axes for remark in axis.remarks]:
        print_lines(remarks)
    folder = options.run.output or Path()
    start_new_run(prepared.host, run, folder, estimate=estimate, options=options, interrupts=interrupts)


def _with_sample(options: PlotOptions) -> tuple[PlotOptions, AxisTexts]:
    """Fill in what a sample says, and give the axes: those of the options, then those of the sample."""
    sample = find_sample(options)
    if sample is None:
        return options, options.axis_texts()
    return fill(options, PLOT.read_text(sample.options)), {**sample.axes, **options.axis_texts()}


def _complete_recipe(recipe: RecipeOptions, texts: AxisTexts) -> RecipeOptions:
    """Set a mode and a beta to start from, where an axis sets them in each image and the user left them out."""
    if recipe.recipe is not None:
        return recipe
    axes = dict(texts.values())
    mode = recipe.mode
    if mode is None and len(recipe.models) == 3:
        mode = _starting_mode(axes.get("mode", ""))
    beta = recipe.beta
    if beta is None and mode is not None and mode.uses_beta and {"beta", "alpha-beta"} & set(axes):
        beta = 0.0
    return replace(recipe, mode=mode, beta=beta)


def _starting_mode(values: str) -> MergeMode | None:
    """Choose a mode from the values of an axis: one with beta, or else one with model C."""
    modes = {mode.value: mode for mode in MergeMode}
    words = values.replace(",", " ").lower().split()
    fitting = [modes[word] for word in words if word in modes and modes[word].uses_c]
    return next((mode for mode in fitting if mode.uses_beta), next(iter(fitting), None))


def _make_run(options: PlotOptions, texts: AxisTexts, stored: StoredPlot | None, prepared: Preparation) -> PlotRun:
    """Make the plot; what the options do not say is taken from the stored one."""
    from ..runs.axes.base import Setting
    from ..runs.axes.values import parse_axis
    from ..runs.estimate import MOST_CELLS
    from ..runs.xy_plot_run import PlotRun, make_plot

    context = prepared.context
    request = options.images.request(stored.request if stored else None)
    axes = stored.axes(context) if stored else {}
    baseline = bool(options.first_without_rules)
    axes |= {side: parse_axis(side, *text, context, baseline=baseline) for side, text in texts.items()}
    if baseline and not any(axis.axis.baseline for axis in axes.values()):
        raise UsageError("--first-without-rules needs an axis of specs: elemental or add-elemental")
    most = None if options.run.yes else MOST_CELLS
    plot = make_plot(Setting(prepared.recipe, request), axes, context=context, most=most)
    return PlotRun(plot, compare=bool(options.compare or (stored and stored.compare)))


def _add_options(command: argparse.ArgumentParser) -> None:
    add_recipe_options(command)
    _add_axis_options(command)
    add_image_options(command, batch=False)
    add_run_options(command)


def _add_axis_options(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("axes")
    for side, purpose in (
        ("x", "what varies from column to column (required); see below"),
        ("y", "what varies from row to row (default: a single row)"),
        ("z", "what varies from grid to grid (default: a single grid)"),
    ):
        group.add_argument(f"--{side}-type", choices=list(AXES), metavar="T", help=purpose)
        values = group.add_mutually_exclusive_group()
        values.add_argument(f"--{side}", metavar="VALUES", help=f"values of the {side.upper()} axis (or --{side}-file)")
        values.add_argument(f"--{side}-file", metavar="FILE", help="read the values from a text file")
    group.add_argument(
        "--compare",
        action="store_const",
        const=True,
        help="label each image with its difference from the first image in its row (%%)",
    )
    group.add_argument(
        "--first-without-rules",
        action="store_const",
        const=True,
        help="begin the specs of elemental with an image without rules, of add-elemental without added ones",
    )


def _read(args: argparse.Namespace) -> PlotOptions:
    recipe, images, run = read_recipe_options(args), read_as(ImageOptions, args), read_as(RunOptions, args)
    return read_as(PlotOptions, args, recipe=recipe, images=images, run=run)


def _axes_help() -> str:
    names_by_form: dict[str, list[str]] = {}
    for name, axis in AXES.items():
        said = axis.form if axis.example in axis.form else f"{axis.form}. Example: {axis.example}"
        names_by_form.setdefault(said, []).append(name)
    lines = [
        textwrap.fill(f"  {', '.join(names)}: {said}", 79, subsequent_indent=" " * 4, break_on_hyphens=False)
        for said, names in names_by_form.items()
    ]
    notes = [
        '"|" between values of X or Y starts another grid; in a prompt write "\\|" for a',
        'plain "|". Each value of Z is a grid.',
        "Two blank lines before specs ask for a first image without rules, too.",
        "Results go to DIR: grid.png, cells/ with every image, and run.json. A later plot",
        "in the same folder adds a number to these names.",
    ]
    return "\n".join(["axes and their values:", *lines, *notes, ""])


PLOT = Command(
    arguments="[options] -o DIR A B [C] | --resume DIR",
    example="elemental plot a.safetensors b.safetensors -o plot --alpha 0 \\\n"
    '    --prompt "a cat" --x-type alpha --x "0, 0.5, 1" \\\n'
    '    --y-type pinpoint-element --y "IN07:attn1, IN07:attn2"',
    add_options=_add_options,
    read=_read,
    run=run_plot,
    notes=f"{_axes_help()}\n{SHORT_RECIPE_HELP}",
)
