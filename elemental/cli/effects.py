"""``elemental effects``: estimates how much each element changes images, and confirms the first by real images."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..recipe.recipe import MergeRecipe
from ..workflows import plan_merge
from .cluster_option import (
    add_cluster_options,
    begun,
    cluster_effects,
    find_place,
    note_unused_gpus,
    own_device,
    refuse_cluster_options,
)
from .command import Command, Interrupts, UsageError, read_as, read_integer
from .image_options import EachPromptAndSeed, add_image_options, read_each_prompt_and_seed
from .output import count_of, print_json, print_lines, print_warnings
from .progress import ProgressBar, effect_watcher
from .recipe_help import SHORT_RECIPE_HELP
from .recipe_options import RecipeOptions, add_recipe_options, find_recipe, read_recipe_options
from .standalone_host import make_host, require_packages

if TYPE_CHECKING:
    from ..hosts.base import Host
    from ..merge.plan import MergePlan
    from ..runs.effect_estimate import EffectOrder, Effects
    from ..runs.effect_maker import EffectMaker
    from ..runs.effect_ranking import EffectRanking
    from ..runs.image_maker import ImageMaker

_PASSES, _PASSES_OF_STEPS, _MOST_PASSES = 4, 16, 10_000
_ROWS = 20

_NOTES = """\
An effect says how much an element alone changes the images if its alpha is
larger by 1, on top of the recipe: the mean change of channel values, of 255. It
is estimated from gradients, so all elements together cost about as much as ten
images. With --alpha 0 the recipe is model A, and the effects are what more of B
does to A; with another alpha or rules, what more of B does to that merge.
A share is the effect beside that of everything at once; effects of several
elements do not just add up: they overlap, and some cancel each other.

Each prompt is used with each seed: two prompts and three seeds are six images,
which count the same. The ranking is worth more with two or three of them.

Results go to DIR: effect-map.png, effect-chart.png, effects.csv (tensors),
effect-groups.csv, effect-blocks.csv, effects.json and effect-images/. The
passes are kept there, too: the same command with more --passes adds to them,
with --confirm it uses them, and after a stop it goes on. Results of other
models, recipes, prompts or seeds in the same DIR get numbered names.

The order of the very largest is the least certain, since ratio 1 is no small
change; --confirm makes their images, and ranks them by what these show.

"""


@dataclass(frozen=True)
class EffectOptions:
    """What to estimate.

    Attributes:
        recipe: The merge on top of which the effects are estimated.
        images: The images that count together.
        passes: Backward passes in all; None for as many as are usual.
        single_steps: Whether to differentiate single U-Net steps instead of whole images.
        confirm: How many tensors to confirm by real images.
        yes: Whether to make more images than a user usually means.
        on: The cluster that makes images and passes, as "ray" or "ray:ADDRESS"; None for this process.
        workers: How many workers of the cluster.
        output: The folder for the results.
        json: Whether to print JSON.
    """

    recipe: RecipeOptions
    images: EachPromptAndSeed
    passes: int | None
    single_steps: bool
    confirm: int
    yes: bool
    on: str | None
    workers: int | None
    output: Path
    json: bool


def run_effects(options: EffectOptions, interrupts: Interrupts) -> None:
    """Estimate effects, confirm the first, and write and print what was found.

    Raises:
        UsageError: The options do not go together.
        ElementalError: Something cannot be read or does not fit, or the images cannot be made or differentiated.
        Stopped: The user asked for it; what is done is kept.
    """
    require_packages()
    refuse_cluster_options(options.on, options.workers, options.images.common.device)
    from ..images.files import make_folder
    from ..images.image_request import with_known_sampler
    from ..runs.effect_results import effects_to_dict, write_effects

    started = time.perf_counter()
    order = _order(options)
    plan = _plan(order.recipe, options)
    host = make_host(own_device(options.on, options.images.common.device))
    for request in order.requests:
        with_known_sampler(request, host.samplers())
    make_folder(options.output)
    if not options.json:
        print_lines([_describe_work(options, order)])
    with _makers(host, order, options) as makers, ProgressBar() as bar:
        effects, ranking, generated = _estimate(makers, order, plan, options=options, bar=bar, interrupts=interrupts)
    files = write_effects(options.output, effects, ranking, plan.architecture)
    if options.json:
        print_json(effects_to_dict(effects, ranking))
    else:
        print_lines([*_table(ranking, order.recipe), "", *map(str, files)])
        print_lines([_describe_time(effects, generated, time.perf_counter() - started)])


def _order(options: EffectOptions) -> EffectOrder:
    """Read what to estimate, and refuse what cannot have been meant."""
    from ..runs.effect_estimate import EffectOrder, Method
    from ..runs.estimate import MOST_CELLS, refuse_many

    requests, method = options.images.requests(), Method.STEPS if options.single_steps else Method.WHOLE
    usual = max(_PASSES_OF_STEPS if options.single_steps else _PASSES, len(requests))
    passes = usual if options.passes is None else options.passes
    if passes < len(requests):
        raise UsageError(f"--passes {passes}: {len(requests)} images need {len(requests)} passes or more")
    found, remarks = find_recipe(options.recipe)
    order = EffectOrder(found, requests, passes, method)
    refuse_many(_count_images(options, order), None if options.yes else MOST_CELLS)
    print_warnings(remarks, strict=options.recipe.strict)
    return order


def _plan(recipe: MergeRecipe, options: EffectOptions) -> MergePlan:
    """Plan the recipe and print warnings; that it is model A is what most want here."""
    from ..merge.plan import ONLY_MODEL_A
    from ..runs.effect_estimate import refuse_same_file

    refuse_same_file(recipe, options.recipe.locator)
    plan = plan_merge(recipe, locator=options.recipe.locator)
    texts = [warning.message for warning in plan.warnings if warning not in ONLY_MODEL_A]
    print_warnings(texts, strict=options.recipe.strict)
    return plan


def _count_images(options: EffectOptions, order: EffectOrder) -> int:
    """Count the images that are made at most, those that confirm included."""
    from ..runs.effect_estimate import count_images

    return count_images(order) + len(order.requests) * options.confirm


def _describe_work(options: EffectOptions, order: EffectOrder) -> str:
    work = f"{count_of(_count_images(options, order), 'image')} and {order.passes:,} backward passes at most."
    if len(order.requests) == 1:
        return work
    pairs = f"{count_of(len(options.images.prompts), 'prompt')} with {count_of(len(options.images.seeds), 'seed')}"
    return f"{pairs}{' each' if len(options.images.prompts) > 1 else ''}: {work}"


class _Makers(NamedTuple):
    """What makes images and passes.

    Attributes:
        host: The host of this process.
        passes: What makes the estimate; None for the host.
        images: What makes the images that confirm it.
    """

    host: Host
    passes: EffectMaker | None
    images: Host | ImageMaker


@contextmanager
def _makers(host: Host, order: EffectOrder, options: EffectOptions) -> Iterator[_Makers]:
    """Give the host; or workers on the cluster that the options name, or on the GPUs of this computer."""
    device = options.images.common.device
    place = find_place(options.on, device)
    if place is None:
        note_unused_gpus(device)
        yield _Makers(host, None, host)
        return
    from ..runs.cells import Cell
    from ..runs.estimate import estimate_cells

    locator, cell = options.recipe.locator, Cell(0, 0, order.recipe, order.requests[0])
    models = estimate_cells([cell], order.recipe, lambda _: "the merge", locator=locator).models
    workers = cluster_effects(place, workers=options.workers, device=device, models=models, locator=locator)
    with begun(workers, asked_for=place == options.on) as (passes, images, chosen):
        if not options.json:
            print_lines([f"{count_of(images.at_once, 'worker')} on {place} ({chosen})."])
        yield _Makers(host, passes, images)


def _estimate(
    makers: _Makers,
    order: EffectOrder,
    plan: MergePlan,
    *,
    options: EffectOptions,
    bar: ProgressBar,
    interrupts: Interrupts,
) -> tuple[Effects, EffectRanking, int]:
    """Estimate and confirm; gives the ranking and the number of images, too."""
    from ..runs.effect_confirmation import confirm_effects
    from ..runs.effect_estimate import estimate_effects
    from ..runs.effect_ranking import rank_effects

    watcher, locator = effect_watcher(bar, interrupts), options.recipe.locator
    effects = estimate_effects(
        makers.host, order, folder=options.output, watcher=watcher, locator=locator, maker=makers.passes
    )
    ranking = rank_effects(effects.samples, [tensor.name for tensor in plan.tensors])
    by_key = {tensor.name.key: tensor for tensor in plan.tensors}
    first = [by_key[effect.name] for effect in ranking.tensors[: options.confirm] if effect.effect]
    if not first:
        return effects, ranking, effects.generated
    confirmed = confirm_effects(makers.images, effects, first, folder=options.output, watcher=watcher, locator=locator)
    return effects, ranking.with_confirmed(confirmed.figures), effects.generated + confirmed.generated


def _table(ranking: EffectRanking, recipe: MergeRecipe) -> Iterator[str]:
    """Show the first of the ranking: groups of elements, or tensors if images confirmed some."""
    from ..images.effect_scale import format_effect, format_share
    from ..runs.effect_results import title_of

    shown, columns = ranking.shown[:_ROWS], ["effect", "share", "together"]
    together = ranking.shares_together(shown)
    what = "tensors" if ranking.is_confirmed else "groups of elements"
    figures = "in real images, and estimated" if ranking.is_confirmed else "estimated"
    yield f"{title_of(recipe)}: the first {len(shown)} of {len(ranking.shown):,} {what}."
    yield f"Mean change of channel values, of 255, with alpha larger by 1: {figures}."
    yield ""
    if ranking.is_confirmed:
        columns.insert(0, "true")
    yield _row("", columns, "elements")
    for rank, (effect, share) in enumerate(zip(shown, together, strict=True), 1):
        cells = [format_effect(effect.effect), format_share(effect.share), format_share(share)]
        if ranking.is_confirmed:
            cells.insert(0, "" if effect.confirmed is None else format_effect(effect.confirmed))
        yield _row(str(rank), cells, effect.ranked().name)


def _row(rank: str, cells: Sequence[str], name: str) -> str:
    return f"{rank:>3}  {'  '.join(f'{cell:>8}' for cell in cells)}  {name}"


def _describe_time(effects: Effects, generated: int, seconds: float) -> str:
    from ..runs.effect_results import describe_passes

    return f"{describe_passes(effects)} and {count_of(generated, 'new image')} in {seconds:.1f} s."


def _add_options(command: argparse.ArgumentParser) -> None:
    add_recipe_options(command)
    add_image_options(command, batch=False, several=True)
    group = command.add_argument_group("estimate")
    group.add_argument(
        "--passes",
        type=read_integer,
        metavar="N",
        help=f"backward passes, shared by all images (default: {_PASSES}; with --single-steps {_PASSES_OF_STEPS}; or "
        "one per image if these are more)",
    )
    group.add_argument(
        "--single-steps",
        action="store_true",
        help="differentiate single U-Net steps instead of whole images: a pass takes a tenth of the time, and the "
        "ranking is less exact",
    )
    group.add_argument(
        "--confirm",
        type=read_integer,
        default=0,
        metavar="N",
        help="make real images of the first N tensors, each alone with alpha larger by 1",
    )
    group.add_argument("--yes", action="store_true", help="allow more than 1,000 images")
    add_cluster_options(group)
    group = command.add_argument_group("result")
    group.add_argument(
        "-o", "--output", type=Path, metavar="DIR", required=True, help="the folder for the results (required)"
    )
    group.add_argument("--json", action="store_true", help="print all effects as JSON, and nothing else")


def _read(args: argparse.Namespace) -> EffectOptions:
    if args.passes is not None and not 1 <= args.passes <= _MOST_PASSES:
        raise UsageError(f"--passes {args.passes}: it must be from 1 to {_MOST_PASSES:,}")
    if args.confirm < 0:
        raise UsageError(f"--confirm {args.confirm}: it must be 0 or more")
    images = read_each_prompt_and_seed(args)
    return read_as(EffectOptions, args, recipe=read_recipe_options(args), images=images)


EFFECTS = Command(
    arguments="[options] -o DIR A B [C] | -o DIR --recipe FILE",
    example="elemental effects a.safetensors b.safetensors --alpha 0 -o effects \\\n"
    '    --prompt "a cat" --prompt "a house by the sea" --seed 3 --seed 4',
    add_options=_add_options,
    read=_read,
    run=run_effects,
    notes=_NOTES + SHORT_RECIPE_HELP,
)
