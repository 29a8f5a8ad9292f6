"""``elemental search``: finds the ratios of a merge by choosing images."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ..errors import RecipeError
from ..workflows import plan_merge
from .cluster_option import add_cluster_options, find_place, image_maker, own_device, refuse_cluster_options
from .command import Command, Interrupts, UsageError, read_as, read_integer, read_number
from .image_options import EachPromptAndSeed, ImageOptions, add_image_options, read_each_prompt_and_seed
from .judge_options import JudgeOptions, add_judge_options, judge_from_dict
from .output import print_lines, print_warnings
from .progress import ProgressBar, effect_watcher
from .recipe_help import SHORT_RECIPE_HELP
from .recipe_options import add_recipe_options, read_recipe_options
from .run_options import (
    Preparation,
    RunCommandOptions,
    RunOptions,
    device_of,
    models_folder_of,
    options_to_keep,
    prepare,
    require_output,
    same_command,
    spell_options,
)
from .search_rounds import Judging, judge_rounds
from .standalone_host import make_host, require_packages

if TYPE_CHECKING:
    from ..hosts.base import Host
    from ..searches.search_folder import Search
    from ..searches.search_order import SearchOrder

_EFFECTS = "effects:8"
_ROUNDS = 6
_BESIDE_RESUME = (
    *("resume", "device", "models_folder", "on", "workers", "rounds", "step", "candidate", "undo", "json"),
    *("pick", "score", "toward", "measure", "pick_after"),
)

_NOTES = """\
what varies, each with --vary: blocks and elements as in rules, with a range
  OUT03              the ratio of a block, 0 to 1
  OUT04:attn2:0-0.6  of elements, 0 to 0.6; also "IN04 IN05:ff", BASE, M00
  alpha:0-1, beta:0-1, number-NAME:LOW-HIGH, lora NAME:0-1, adjust-NAME:LOW-HIGH
  curve:POINTS:0-1   block weights between points
  effects:N          the N blocks that an estimate from gradients ranks first;
                     effects:N:groups and effects:N:elements are finer

Each round makes a few candidates, whose numbers vary around what was liked
best, and a sheet, DIR/round-01/grid.png. In round 1, 0 is the merge that the
options describe; later it is the best so far, whose images are not made again.
With --pick, type the numbers of the best, the best first: 3 1 7. 0 means that
none is better than the best so far, u takes the last pick back, q stops.

Everything is kept in DIR: --resume DIR goes on, with the same judge or another.
--resume DIR --from 2.5 goes on from candidate 5 of round 2; --undo takes the
last pick back. The best is in best.png, best.json (for --recipe), best.txt (its
rules), and the rounds in rounds.csv.

A candidate without an image, of one colour or of noise is named, and is last.

"""


@dataclass(frozen=True)
class SearchOptions(RunCommandOptions):
    """What to search.

    Attributes:
        each: The prompts and seeds; None to go on with a search.
        judge: Who judges.
        vary: What varies.
        rounds: How many rounds in all.
        population: How many candidates a round has.
        step: How far they are apart at first, as a share of each range.
        search_seed: Decides which candidates are drawn.
        candidate: Round and number of the candidate to go on from.
        undo: Whether to take the last pick back.
        json: Whether to print JSON.
    """

    command: ClassVar[str] = "search"
    each: EachPromptAndSeed | None
    judge: JudgeOptions
    vary: tuple[str, ...]
    rounds: int | None
    population: int | None
    step: float | None
    search_seed: int | None
    candidate: tuple[int, int] | None
    undo: bool
    json: bool

    @property
    def quiet(self) -> bool:
        """Whether the result alone is printed."""
        return self.json


def run_search(options: SearchOptions, interrupts: Interrupts) -> None:
    """Begin a search, or go on with one.

    Raises:
        UsageError: The options do not go together.
        ElementalError: Something cannot be read or does not fit, or images cannot be made or judged.
        Stopped: The user asked for it; what is done is kept.
    """
    require_packages()
    refuse_cluster_options(options.run.on, options.run.workers, options.images.device)
    if options.run.resume is None:
        _start(options, interrupts)
    else:
        _go_on(options, options.run.resume, interrupts)


def _start(options: SearchOptions, interrupts: Interrupts) -> None:
    from ..runs.cells import Cell
    from ..runs.estimate import estimate_cells
    from ..searches.search_folder import Search
    from ..searches.search_record import refuse_search

    judge, locator = options.judge, options.recipe.locator
    if options.candidate or options.undo:
        raise UsageError("--from and --undo go with --resume")
    judge.check()
    _refuse_json_and_person(options, judge)
    require_output(options.run)
    folder = options.run.output or Path()
    refuse_search(folder)
    prepared = prepare(options)
    order = _order(options, prepared)
    scorer = judge.scorer((order.requests[0].width, order.requests[0].height))
    warnings = [warning.message for warning in plan_merge(order.recipe, locator=locator).warnings]
    print_warnings([*prepared.remarks, *warnings], strict=options.recipe.strict)
    order = replace(order, vary=_with_effects(options, order, prepared.host, interrupts))
    space = order.space(prepared.context)  # mistakes come before workers begin
    print_warnings([remark for part in space.parts for remark in part.remarks], strict=options.recipe.strict)
    base = Cell(0, 0, order.recipe, order.requests[0])
    models = estimate_cells([base], order.recipe, lambda _: "the merge", locator=locator).models
    rounds = options.rounds if options.rounds is not None or judge.asks_ever else _ROUNDS
    with image_maker(prepared.host, options, locator, models, options.images.device) as (maker, device):
        kept = {**options_to_keep(options, device), "judge": judge.to_dict(), "rounds": rounds}
        search = Search.begin(folder, order, prepared.context, options=kept)
        judging = Judging(maker, locator, judge, scorer, rounds, same_command(options), options.json)
        judge_rounds(search, judging, interrupts)


def _order(options: SearchOptions, prepared: Preparation) -> SearchOrder:
    """Make the search; what varies by its effects is not known yet."""
    from ..images.image_request import with_known_sampler
    from ..searches.search_order import SearchOrder
    from ..searches.steering import Settings

    given = {"population": options.population, "step": options.step, "seed": options.search_seed}
    settings = Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    assert options.each is not None  # the options of a new search are read with it
    samplers = prepared.context.samplers
    requests = tuple(with_known_sampler(request, samplers) for request in options.each.requests())
    return SearchOrder(prepared.recipe, options.vary or (_EFFECTS,), requests, settings)


def _with_effects(options: SearchOptions, order: SearchOrder, host: Host, interrupts: Interrupts) -> tuple[str, ...]:
    """Put what an estimate of effects finds in the place of "effects:N"."""
    from ..searches.effect_groups import KINDS, estimate_groups

    texts: list[str] = []
    for text in order.vary:
        if not text.startswith("effects"):
            texts.append(text)
            continue
        form = re.fullmatch(rf"effects(?::(\d+))?(?::({'|'.join(KINDS)}))?", text.strip())
        if form is None:
            raise RecipeError(f'"{text}": write effects:8, or effects:8:groups ({", ".join(KINDS)}).')
        with ProgressBar() as bar, _estimating_host(options, host) as estimating:
            watcher = effect_watcher(bar, interrupts)
            count, by = int(form[1] or 8), form[2] or KINDS[0]
            found = estimate_groups(
                estimating, order.recipe, order.requests, count, by=by, watcher=watcher, locator=options.recipe.locator
            )
        if not options.json:
            print_lines([f"{text}: {', '.join(found)}"])
        texts += found
    return tuple(dict.fromkeys(texts))


@contextmanager
def _estimating_host(options: SearchOptions, host: Host) -> Iterator[Host]:
    """Give the host that estimates effects: on the device that was asked for, though workers make the images on all.

    On a cluster that the user has named it is the host of this process, whose computer may lack that device.
    """
    device = options.images.device
    if options.run.on is not None or find_place(None, device) is None:
        yield host
        return
    own = make_host(device)
    try:
        yield own
    finally:
        own.unload()  # a worker needs the memory


def _go_on(options: SearchOptions, folder: Path, interrupts: Interrupts) -> None:
    from ..runs.axes.context import make_axis_context
    from ..searches.search_folder import Search
    from ..searches.search_record import read_search

    if spellings := list(spell_options(options, _BESIDE_RESUME)):
        raise UsageError(f"--resume takes the rest from the search; leave out {', '.join(spellings)}")
    record = read_search(folder)
    if record.page.settings is not None:
        raise UsageError(f"the search in {folder} was begun on a page, with that page's settings: go on with it there")
    judge = options.judge if options.judge.is_said else judge_from_dict(record.options.get("judge") or {})
    judge.check()
    _refuse_json_and_person(options, judge)
    recipe = replace(options.recipe, models_folder=options.recipe.models_folder or models_folder_of(record.options))
    device, locator = device_of(record.options, options.images.device), recipe.locator
    refuse_cluster_options(options.run.on, options.run.workers, device)
    host = make_host(own_device(options.run.on, device))
    search = Search.open(folder, make_axis_context(host, record.order.recipe, locator=locator))
    request = record.order.requests[0]
    scorer = judge.scorer((request.width, request.height))
    _change(search, options)
    rounds = (
        options.rounds if options.rounds is not None or judge.asks_ever else record.options.get("rounds") or _ROUNDS
    )
    models = search.estimate(locator=locator).models
    with image_maker(host, options, locator, models, device) as (maker, _):
        judging = Judging(maker, locator, judge, scorer, rounds, same_command(options), options.json)
        judge_rounds(search, judging, interrupts)


def _change(search: Search, options: SearchOptions) -> None:
    """Take the last pick back, or go on from another candidate, before the rounds go on."""
    if options.undo:
        search.undo()
    if options.candidate is not None:
        step = options.step if options.step is not None else search.order.settings.step / 2
        search.restart(*options.candidate, step)
    elif options.step is not None:
        raise UsageError("--step goes with --resume only beside --from")


def _refuse_json_and_person(options: SearchOptions, judge: JudgeOptions) -> None:
    if options.json and judge.asks_ever:
        raise UsageError("--json prints nothing else, and a person needs to be asked: leave out one of them")


def _read_candidate(text: str) -> tuple[int, int]:
    form = re.fullmatch(r"\s*(\d{1,4})\.(\d{1,2})\s*", text)
    if form is None:
        raise argparse.ArgumentTypeError(f'"{text}" is no candidate: write ROUND.CANDIDATE, such as 2.5')
    return int(form[1]), int(form[2])


def _add_options(command: argparse.ArgumentParser) -> None:
    add_recipe_options(command)
    add_image_options(command, batch=False, several=True)
    group = command.add_argument_group("search")
    group.add_argument(
        "--vary",
        action="append",
        metavar="TEXT",
        help=f"what varies; may be repeated (default: {_EFFECTS}); see below",
    )
    group.add_argument(
        "--rounds",
        type=read_integer,
        metavar="N",
        help=f"how many rounds in all (default: {_ROUNDS}, or until you stop if you pick)",
    )
    group.add_argument("--population", type=read_integer, metavar="N", help="candidates in a round (default: 8)")
    group.add_argument(
        "--step",
        type=read_number,
        metavar="X",
        help="how far the first candidates lie apart, as a share of each range (default: 0.3; with --from half of "
        "what it was)",
    )
    group.add_argument("--search-seed", type=read_integer, metavar="N", help="draws other candidates (default: 0)")
    add_judge_options(command)
    _add_run_options(command.add_argument_group("run"))


def _add_run_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("-o", "--output", type=Path, metavar="DIR", help="the folder for the search (required)")
    group.add_argument(
        "--resume", type=Path, metavar="DIR", help="go on with the search in DIR; models and -o are not needed"
    )
    group.add_argument(
        "--from",
        dest="candidate",
        type=_read_candidate,
        metavar="ROUND.CANDIDATE",
        help="with --resume: go on from this candidate, with smaller steps around it",
    )
    group.add_argument("--undo", action="store_true", help="with --resume: take the last pick back first")
    add_cluster_options(group)
    group.add_argument("--json", action="store_true", help="print the result as JSON, and nothing else")


def _read(args: argparse.Namespace) -> SearchOptions:
    if args.rounds is not None and args.rounds < 1:
        raise UsageError(f"--rounds {args.rounds}: it must be 1 or more")
    run = RunOptions(args.output, args.resume, sample=None, dry_run=False, yes=False, on=args.on, workers=args.workers)
    asked = args.resume is None or args.prompt or args.seed
    each = read_each_prompt_and_seed(args) if asked else None
    images = read_as(ImageOptions, args, prompt=None, seed=None)
    return read_as(
        SearchOptions,
        args,
        recipe=read_recipe_options(args),
        images=images,
        run=run,
        each=each,
        judge=read_as(JudgeOptions, args),
        vary=tuple(args.vary or ()),
    )


SEARCH = Command(
    arguments="[options] -o DIR A B [C] | --resume DIR",
    example="elemental search a.safetensors b.safetensors --alpha 0.5 -o found \\\n"
    '    --prompt "a cat" --seed 3 --vary OUT03 --vary OUT04:attn2:0-0.6 --pick',
    add_options=_add_options,
    read=_read,
    run=run_search,
    notes=_NOTES + SHORT_RECIPE_HELP,
)
