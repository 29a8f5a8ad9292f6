"""``elemental simplify``: finds the shortest spec whose images are like a merge's."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..workflows import plan_merge
from .command import Command, Interrupts, UsageError, read_as, read_integer
from .image_options import EachPromptAndSeed, add_image_options, read_each_prompt_and_seed
from .output import count_of, print_json, print_lines, print_warnings
from .progress import ProgressBar, effect_watcher
from .recipe_help import SHORT_RECIPE_HELP
from .recipe_options import RecipeOptions, add_recipe_options, find_recipe, read_recipe_options
from .standalone_host import make_host, require_packages

if TYPE_CHECKING:
    from ..runs.simplify import Simplified, SimplifyOrder

_PASSES = 24
_TOLERANCE = 0.1

_NOTES = """\
Give the merge that you like, as for elemental merge: a plain alpha, block
weights, a long spec. The result is a spec for --alpha 0 that moves as few
elements as are enough: the images are within the tolerance of the merge's, as a
share of the distance between A's images and the merge's. Elements are taken in
the order of an estimate from gradients, and up to 14 real images for each
prompt and seed tell how many are enough. Where a number is not enough, eight
more passes tell which elements add most of what is missing.

--leave-out finds the opposite: rules to add to the merge that leave out just so
many elements that its images are like A's.

Each prompt is used with each seed. On other prompts the images can differ more:
give the ones that matter to you.

Results go to DIR: simplified.png (A, the merge, the simplified merge, the
difference; it holds the recipe) and simplified.txt (the spec).

"""


@dataclass(frozen=True)
class SimplifyOptions:
    """What to simplify.

    Attributes:
        recipe: The merge.
        images: The images that count together.
        tolerance: How far the images may be away, as a share.
        passes: Backward passes for each image.
        leave_out: Whether to find what makes the difference, and leave it out.
        output: The folder for the results.
        json: Whether to print JSON.
    """

    recipe: RecipeOptions
    images: EachPromptAndSeed
    tolerance: float
    passes: int
    leave_out: bool
    output: Path
    json: bool


def run_simplify(options: SimplifyOptions, interrupts: Interrupts) -> None:
    """Simplify a merge, and write and print what was found.

    Raises:
        UsageError: The options do not go together.
        ElementalError: Something cannot be read or does not fit, or the images cannot be made or differentiated.
        Stopped: The user asked for it.
    """
    require_packages()
    from ..images.files import make_folder
    from ..runs.simplify import simplify
    from ..runs.simplify_results import simplified_to_dict, write_simplified

    started = time.perf_counter()
    order = _order(options)
    host = make_host(options.images.common.device)
    make_folder(options.output)
    with ProgressBar() as bar:
        watcher = effect_watcher(bar, interrupts)
        result = simplify(host, order, watcher=watcher, locator=options.recipe.locator)
    files = write_simplified(options.output, order, result)
    if options.json:
        print_json(simplified_to_dict(order, result))
    else:
        print_lines([*_describe(order, result), "", *map(str, files)])
        print_lines([f"{count_of(result.generated, 'image')} in {time.perf_counter() - started:.1f} s."])


def _order(options: SimplifyOptions) -> SimplifyOrder:
    from ..runs.effect_estimate import refuse_same_file
    from ..runs.simplify import SimplifyOrder

    locator = options.recipe.locator
    found, remarks = find_recipe(options.recipe)
    refuse_same_file(found, locator)
    texts = [warning.message for warning in plan_merge(found, locator=locator).warnings]
    print_warnings([*remarks, *texts], strict=options.recipe.strict)
    return SimplifyOrder(found, options.images.requests(), options.tolerance, options.passes, options.leave_out)


def _describe(order: SimplifyOrder, result: Simplified) -> Iterator[str]:
    from ..runs.simplify_results import spec_of

    spec = spec_of(order, result)
    rules = count_of(len(spec.splitlines()), "rule")
    what = "leave out" if order.leave_out else "with --alpha 0 move"
    yield f"{rules}, which {what} {count_of(result.elements, 'element')}:"
    yield spec
    yield ""
    near = "A" if order.leave_out else "the merge"
    share = result.distance / result.full_distance
    difference = f"{result.distance:.2f} of 255, {share:.1%} of A's distance from the merge"
    yield f"Its images differ from {near}'s by {difference}."


def _add_options(command: argparse.ArgumentParser) -> None:
    add_recipe_options(command)
    add_image_options(command, batch=False, several=True)
    group = command.add_argument_group("simplify")
    group.add_argument(
        "--tolerance",
        type=_read_share,
        default=_TOLERANCE,
        metavar="SHARE",
        help="how far the images may be away: 10%% or 0.1 (default: 10%%)",
    )
    group.add_argument(
        "--passes",
        type=read_integer,
        default=_PASSES,
        metavar="N",
        help="backward passes for each image, which rank all elements first (default: %(default)s)",
    )
    group.add_argument("--leave-out", action="store_true", help="find rules that leave out what makes the difference")
    group = command.add_argument_group("result")
    group.add_argument(
        "-o", "--output", type=Path, metavar="DIR", required=True, help="the folder for the results (required)"
    )
    group.add_argument("--json", action="store_true", help="print the result as JSON, and nothing else")


def _read_share(text: str) -> float:
    number = text.strip()
    try:
        share = float(number[:-1]) / 100 if number.endswith("%") else float(number)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f'"{text}" is no share: write 10% or 0.1, above 0 and below 1')
    return share


def _read(args: argparse.Namespace) -> SimplifyOptions:
    if args.passes < 3:
        raise UsageError(f"--passes {args.passes}: it must be 3 or more")
    images = read_each_prompt_and_seed(args)
    return read_as(SimplifyOptions, args, recipe=read_recipe_options(args), images=images)


SIMPLIFY = Command(
    arguments="[options] -o DIR A B [C] | -o DIR --recipe FILE",
    example="elemental simplify a.safetensors b.safetensors --alpha 0.5 -o simplified \\\n"
    '    --prompt "a cat" --prompt "a house by the sea" --seed 3',
    add_options=_add_options,
    read=_read,
    run=run_simplify,
    notes=_NOTES + SHORT_RECIPE_HELP,
)
