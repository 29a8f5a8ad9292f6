"""``elemental check``: runs an element check."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from .command import Command, Interrupts, UsageError, read_as, read_number
from .image_options import ImageOptions, add_image_options
from .output import print_lines, print_warnings
from .recipe_help import SHORT_RECIPE_HELP
from .recipe_options import add_recipe_options, read_recipe_options
from .run_options import (
    RunCommandOptions,
    RunOptions,
    add_run_options,
    fill,
    find_sample,
    prepare,
    run_or_resume,
    start_new_run,
)

_NOTES = """\
Results go to DIR/A-B/diff/, where A and B are the models' names: grid.png,
ranking.png, diff.csv, gif/ and cells/. A later check adds a number to these.

"""


@dataclass(frozen=True)
class CheckOptions(RunCommandOptions):
    """What to check.

    Attributes:
        elements: Blocks, or elements of blocks.
        ratio: The ratio that each of them gets.
    """

    command: ClassVar[str] = "check"
    elements: str | None
    ratio: float | None


def run_check(options: CheckOptions, interrupts: Interrupts) -> None:
    """Run an element check, resume one, or list the samples.

    Raises:
        UsageError: The options do not go together.
        ElementalError: Something cannot be read or does not fit, or some images could not be made.
        Stopped: The user asked for it; what is done is kept.
    """
    run_or_resume(options, interrupts, _start)


def _start(options: CheckOptions, interrupts: Interrupts) -> None:
    from ..runs.axes.base import Setting
    from ..runs.element_check import parse_check
    from ..runs.element_check_run import CheckRun, folder_of_check
    from ..runs.estimate import MOST_CELLS, estimate_check, refuse_many

    options = _with_sample(options)
    if options.elements is None or options.ratio is None:
        raise UsageError("a check needs --elements and --ratio, or the --sample of a check")
    prepared = prepare(options)
    base = Setting(prepared.recipe, options.images.request())
    check = parse_check(base, options.elements, options.ratio, prepared.context)
    refuse_many(len(check.targets), None if options.run.yes else MOST_CELLS)
    estimate = estimate_check(check, locator=options.recipe.locator)
    print_warnings([*prepared.remarks, *estimate.warnings], strict=options.recipe.strict)
    if check.remarks:
        print_lines(check.remarks)
    folder = folder_of_check(options.run.output or Path(), prepared.recipe)
    start_new_run(prepared.host, CheckRun(check), folder, estimate=estimate, options=options, interrupts=interrupts)


def _with_sample(options: CheckOptions) -> CheckOptions:
    sample = find_sample(options)
    if sample is None:
        return options
    from_sample = CHECK.read_text(sample.options)
    return fill(options, replace(from_sample, elements=sample.elements, ratio=float(sample.ratio)))


def _add_options(command: argparse.ArgumentParser) -> None:
    add_recipe_options(command)
    group = command.add_argument_group("check")
    group.add_argument(
        "--elements",
        metavar="VALUES",
        help="what to check (required): blocks or blocks:elements, separated by commas. ALL: one image per block; "
        "OUT05:ALL: one image per element of OUT05",
    )
    group.add_argument("--ratio", type=read_number, metavar="R", help="the ratio for whatever is checked (required)")
    add_image_options(command, batch=False)
    add_run_options(command)


def _read(args: argparse.Namespace) -> CheckOptions:
    recipe, images, run = read_recipe_options(args), read_as(ImageOptions, args), read_as(RunOptions, args)
    return read_as(CheckOptions, args, recipe=recipe, images=images, run=run)


CHECK = Command(
    arguments="[options] -o DIR A B [C] | --resume DIR",
    example="elemental check a.safetensors b.safetensors --alpha 0 --ratio 1 -o checks \\\n"
    '    --elements "OUT03:attn1, OUT03:attn2, OUT03:ff" --prompt "a cat"',
    add_options=_add_options,
    read=_read,
    run=run_check,
    notes=_NOTES + SHORT_RECIPE_HELP,
)
