"""``elemental merge``: merges into a file."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import Stopped
from ..merge.merge_to_file import MergeResult, merge_to_file
from ..merge.plan import MergePlan
from ..merge.plan_summary import describe_changes, format_size, summarise_plan
from ..recipe.recipe import MergeRecipe
from ..workflows import plan_merge
from .command import Command, Interrupts, UsageError, read_as
from .image_options import add_device_option
from .output import print_lines, print_plan, print_plan_warnings, print_warnings
from .progress import ProgressBar, merge_controls
from .recipe_help import recipe_help
from .recipe_options import RecipeOptions, add_recipe_options, make_recipe, read_recipe_options
from .standalone_host import DEFAULT_DEVICE


@dataclass(frozen=True)
class MergeOptions:
    """What to merge, and into what.

    Attributes:
        recipe: The merge.
        output: The file to make; None if there is none to make.
        overwrite: Whether to replace a file that exists.
        device: Where to compute, as torch names it.
        no_hash: Whether to leave the SHA-256 of the models out of the file.
        print_change: Whether to list each tensor that a rule sets.
        dry_run: Whether to print the plan and write nothing.
        allow_unchanged: Whether to write a copy of model A if nothing would change.
    """

    recipe: RecipeOptions
    output: str | None
    overwrite: bool
    device: str | None
    no_hash: bool
    print_change: bool
    dry_run: bool
    allow_unchanged: bool


def run_merge(options: MergeOptions, interrupts: Interrupts) -> None:
    """Merge into a file and print what was done, or print the plan.

    Raises:
        UsageError: There are too few models, or too many, the file has no name, or it would be a copy of model A.
        ElementalError: The merge cannot be done, or ``--strict`` is there and warnings are, too.
    """
    if options.output is None and not options.dry_run:
        raise UsageError("the result needs a name: -o OUT.safetensors")
    recipe, remarks = make_recipe(options.recipe)

    writes = options.output is not None and not options.dry_run

    def print_remarks(plan: MergePlan) -> None:
        print_plan_warnings(plan, remarks, strict=options.recipe.strict)
        if plan.is_model_a and writes and not options.allow_unchanged:
            raise UsageError("nothing would change: the result is model A; --allow-unchanged writes it all the same")
        if options.print_change:
            print_lines(describe_changes(plan))

    if options.output is None or not writes:
        _print_dry_run(recipe, options, print_remarks)
    else:
        _merge(recipe, options.output, options, interrupts, on_plan=print_remarks)


def _print_dry_run(recipe: MergeRecipe, options: MergeOptions, on_plan: Callable[[MergePlan], None]) -> None:
    plan = plan_merge(recipe, locator=options.recipe.locator)
    on_plan(plan)
    print_plan(plan)
    print_lines(["", "Dry run: nothing was written."])


def _merge(
    recipe: MergeRecipe,
    output: str,
    options: MergeOptions,
    interrupts: Interrupts,
    *,
    on_plan: Callable[[MergePlan], None],
) -> None:
    start = time.perf_counter()
    with ProgressBar() as bar:
        result = merge_to_file(
            recipe,
            output,
            locator=options.recipe.locator,
            device=options.device or DEFAULT_DEVICE,
            overwrite=options.overwrite,
            with_hashes=not options.no_hash,
            controls=merge_controls(bar, interrupts),
            on_plan=on_plan,
        )
    try:
        _print_result(result, time.perf_counter() - start)
    except KeyboardInterrupt as exc:
        raise Stopped(f"Stopped; {result.path} was saved before that.") from exc


def _print_result(result: MergeResult, seconds: float) -> None:
    not_finite = (f"{key} holds NaN or infinite numbers in {role.name}" for role, key in result.not_finite)
    print_warnings((f"{text}, and so in the result." for text in not_finite), strict=False)
    size = format_size(result.plan.nbytes)
    print_lines([*summarise_plan(result.plan), *result.notes, f"{result.path}: {size} in {seconds:.1f} s"])


def _add_options(command: argparse.ArgumentParser) -> None:
    add_recipe_options(command)
    group = command.add_argument_group("result")
    group.add_argument("-o", "--output", metavar="OUT", help="the .safetensors file to write (required)")
    group.add_argument("--overwrite", action="store_true", help="replace OUT, and its .yaml, if they exist")
    add_device_option(group)
    group.add_argument("--no-hash", action="store_true", help="do not write the models' SHA-256 into the file (faster)")
    group.add_argument("--print-change", action="store_true", help="list every tensor that a rule sets")
    group.add_argument(
        "--dry-run", action="store_true", help="show the plan, as elemental plan does, and write nothing"
    )
    group.add_argument(
        "--allow-unchanged", action="store_true", help="write OUT even if the result is identical to model A"
    )


def _read(args: argparse.Namespace) -> MergeOptions:
    return read_as(MergeOptions, args, recipe=read_recipe_options(args))


MERGE = Command(
    arguments="[options] -o OUT A B [C] | -o OUT --recipe FILE",
    example="elemental merge a.safetensors b.safetensors -o ab.safetensors \\\n"
    '    --alpha 0 --elemental "OUT05:attn2:0.5"',
    add_options=_add_options,
    read=_read,
    run=run_merge,
    notes=recipe_help,
)
