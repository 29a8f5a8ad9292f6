"""The commands that make many images: ``elemental plot`` and ``elemental check``."""

from __future__ import annotations

import argparse
import shlex
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, ImageError, Stopped
from ..recipe.modes import MergeMode
from ..recipe.recipe import MergeRecipe
from ..runs.axes import AXES
from ..runs.samples import find_samples
from ..workflows import identify_models
from .generate import DEFAULT_DEVICE, add_request_options, make_host, request_from_options, require_packages
from .recipe_options import add_recipe_options, locator_from_options, recipe_from_options

if TYPE_CHECKING:
    from PIL import Image

    from ..hosts.base import Host
    from ..runs.axis_context import AxisContext
    from ..runs.cells import Cell
    from ..runs.estimate import Estimate
    from ..runs.runner import Progress, Run, RunResult, RunWatcher
    from ..runs.samples import Sample

_BESIDE_RESUME = {"resume", "device", "models", "debug", "parser", "command", "interrupts"}

Say = Callable[[Iterable[str]], None]
Warn = Callable[[Iterable[str]], None]


def _axes_help() -> str:
    indent = " " * 21
    lines = [
        textwrap.fill(f"  {name:<18} {axis.form}", 79, subsequent_indent=indent, break_on_hyphens=False)
        for name, axis in AXES.items()
    ]
    return "\n".join(
        [
            "axes, and their values:",
            "",
            *lines,
            "",
            '"|" between values of any axis begins another grid ("\\|" is a bar in a prompt).',
            "",
            "DIR gets grid.png, cells/ with an image for each place, and run.json; a second",
            "run there is numbered.",
            "",
            "",
        ]
    )


AXES_HELP = _axes_help()
"""What the help of plots says of axes."""

CHECK_HELP = """\
DIR/A-B/diff/ gets a grid, diff.csv, ranking.png, gif/ and cells/; a second
check there is numbered.

"""


def add_plot_options(command: argparse.ArgumentParser) -> None:
    """Declare the options of ``elemental plot``."""
    add_recipe_options(command)
    group = command.add_argument_group("axes")
    for side, what in (("x", "axis of the columns, see below"), ("y", "axis of the rows; without it there is one row")):
        group.add_argument(
            f"--{side}-type",
            choices=list(AXES),
            metavar="T",
            help=what,
        )
        values = group.add_mutually_exclusive_group()
        values.add_argument(f"--{side}", metavar="VALUES", help="its values")
        values.add_argument(f"--{side}-file", metavar="FILE", help="its values from a text file")
    group.add_argument(
        "--compare",
        action="store_const",
        const=True,
        help="say below each image how much of it differs from the first of its row",
    )
    add_request_options(command, batch=False)
    _add_run_options(command)


def add_check_options(command: argparse.ArgumentParser) -> None:
    """Declare the options of ``elemental check``."""
    add_recipe_options(command)
    group = command.add_argument_group("check")
    group.add_argument(
        "--elements",
        metavar="VALUES",
        help="blocks:elements or blocks, separated by commas; ALL for each block, OUT05:ALL for each element of one",
    )
    group.add_argument("--ratio", type=float, metavar="R", help="the ratio that each of them is given")
    add_request_options(command, batch=False)
    _add_run_options(command)


def _add_run_options(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("run")
    group.add_argument("-o", "--output", metavar="DIR", help="the folder for images, grids and run.json")
    group.add_argument("--resume", metavar="DIR", help="go on with the last run in a folder, as it was begun")
    group.add_argument("--sample", type=int, metavar="N", help="start from a sample; 0 lists them")
    group.add_argument("--dry-run", action="store_true", help="say what would be made, and make nothing")
    group.add_argument("--yes", action="store_true", help="make more than 1,000 images, too")


def run_plot(args: argparse.Namespace, *, say: Say, warn: Warn) -> None:
    """Make a plot, or go on with a run.

    Args:
        args: What was given.
        say: Prints lines.
        warn: Prints warnings; raises if they are errors.

    Raises:
        ElementalError: What was given cannot be read or does not fit, or some images could not be made.
        Stopped: The user asked for it; what is done is kept.
    """
    if _is_done_otherwise(args, say):
        return
    from ..runs.axis import Setting
    from ..runs.axis_values import parse_axis
    from ..runs.estimate import MOST_CELLS, estimate_plot
    from ..runs.plot_run import PlotRun, make_plot, read_stored_plot

    texts = _axis_texts(args, _take_sample(args))
    stored = read_stored_plot(Path(args.recipe)) if args.recipe else None
    if "x" not in texts and stored is None:
        args.parser.error("a plot needs --x-type and --x, a --sample, or the grid of another plot as --recipe")
    _complete_base(args, texts)
    recipe, remarks, host, context = _prepare(args)
    request = request_from_options(args, stored.request if stored else None)
    axes = stored.axes(context) if stored else {}
    axes |= {side: parse_axis(side, *text, context) for side, text in texts.items()}
    most = None if args.yes else MOST_CELLS
    plot = make_plot(Setting(recipe, request), axes["x"], axes.get("y"), context=context, most=most)
    estimate = estimate_plot(plot, locator=locator_from_options(args))
    warn([*remarks, *estimate.warnings])
    compare = args.compare or (stored is not None and stored.compare)
    _start(args, host, PlotRun(plot, compare=compare), estimate, Path(args.output), say)


def run_check(args: argparse.Namespace, *, say: Say, warn: Warn) -> None:
    """Check what elements do to an image, or go on with a run.

    Args:
        args: What was given.
        say: Prints lines.
        warn: Prints warnings; raises if they are errors.

    Raises:
        ElementalError: What was given cannot be read or does not fit, or some images could not be made.
        Stopped: The user asked for it; what is done is kept.
    """
    if _is_done_otherwise(args, say):
        return
    from ..runs.axis import Setting
    from ..runs.check_run import CheckRun, folder_of_check
    from ..runs.element_check import parse_check
    from ..runs.estimate import MOST_CELLS, estimate_check, refuse_many

    sample = _take_sample(args)
    if sample is not None:
        args.elements = args.elements if args.elements is not None else sample.elements
        args.ratio = args.ratio if args.ratio is not None else float(sample.ratio)
    if args.elements is None or args.ratio is None:
        args.parser.error("a check needs --elements and --ratio, or the --sample of a check")
    recipe, remarks, host, context = _prepare(args)
    check = parse_check(Setting(recipe, request_from_options(args)), args.elements, args.ratio, context)
    refuse_many(len(check.targets), None if args.yes else MOST_CELLS)
    estimate = estimate_check(check, locator=locator_from_options(args))
    warn([*remarks, *estimate.warnings])
    _start(args, host, CheckRun(check), estimate, folder_of_check(Path(args.output), recipe), say)


def _prepare(args: argparse.Namespace) -> tuple[MergeRecipe, list[str], Host, AxisContext]:
    """Make the recipe of the base, remarks on its options, the host, and what values are read against."""
    from ..runs.axis_context import make_axis_context

    recipe, remarks = recipe_from_options(args)
    recipe = identify_models(recipe, locator=locator_from_options(args))
    host = make_host(args.device or DEFAULT_DEVICE)
    return recipe, remarks, host, make_axis_context(host, recipe, locator=locator_from_options(args))


def _is_done_otherwise(args: argparse.Namespace, say: Say) -> bool:
    """Do what needs no new run: list the samples, or go on with a run."""
    require_packages()
    if args.sample == 0:
        say(f"{sample.number:3}  {sample.title}" for sample in find_samples().values())
        return True
    if args.resume is not None:
        # 0 is given, though it equals False
        beside = [name for name, value in vars(args).items() if value not in (None, []) and value is not False]
        beside = [f"--{name.replace('_', '-')}" for name in beside if name not in _BESIDE_RESUME]
        if beside:
            args.parser.error(f"--resume takes everything from the run; leave out {', '.join(beside)}")
        _resume(args, say)
        return True
    if args.output is None and not args.dry_run:
        args.parser.error("a folder is needed: -o DIR")
    args.output = args.output or "."
    return False


def _resume(args: argparse.Namespace, say: Say) -> None:
    from ..runs.record import read_record
    from ..runs.resume import open_run
    from ..runs.run_files import latest_run
    from ..runs.runner import continue_run

    record = read_record(latest_run(Path(args.resume)))
    device, models = (record.options.get(name) for name in ("device", "models"))
    device = device or DEFAULT_DEVICE
    if args.device not in (None, device):
        args.parser.error(f"the run began on {device}; on {args.device} its images would not be the same")
    args.models = args.models or models
    host = make_host(device)
    run = open_run(host, record, locator=locator_from_options(args))
    with _stopped_anywhere(args.command, record.files.folder):
        with CellBar() as bar:
            result = continue_run(
                host, run, record, watcher=bar.watcher(args.interrupts), locator=locator_from_options(args)
            )
        tell_result(result, args.command, say)


def _start(args: argparse.Namespace, host: Host, run: Run, estimate: Estimate, folder: Path, say: Say) -> None:
    from ..runs.runner import start_run

    say([f"{_count(estimate.cells, 'image')}, {_count(estimate.merges, 'merge')}."])
    if args.dry_run:
        say(" ".join([cell.name, *run.labels(cell).values()]) for cells in run.rounds() for cell in cells)
        say(["Dry run: nothing was made."])
        return
    options = {"device": args.device or DEFAULT_DEVICE, "models": args.models and str(Path(args.models).resolve())}
    with _stopped_anywhere(args.command, folder):
        with CellBar() as bar:
            result = start_run(
                host,
                run,
                folder,
                estimate=estimate,
                watcher=bar.watcher(args.interrupts),
                locator=locator_from_options(args),
                options=options,
            )
        tell_result(result, args.command, say)


@contextmanager
def _stopped_anywhere(command: str, folder: Path) -> Iterator[None]:
    """Tell how to go on after an interrupt that no result tells of: grids were drawn, say, and images may be made."""
    from ..runs.run_files import latest_run

    try:
        yield
    except KeyboardInterrupt as exc:
        with suppress(ImageError):  # before there is a run, nothing was changed
            latest_run(folder)
            raise Stopped(f"Stopped. To go on: {_go_on(command, folder)}") from exc
        raise


def _go_on(command: str, folder: Path) -> str:
    return f"elemental {command} --resume {shlex.quote(str(folder))}"


def tell_result(result: RunResult, command: str, say: Say) -> None:
    """Say what came of a run.

    Args:
        result: Of the run.
        command: The one that would go on with it.
        say: Prints lines.

    Raises:
        ImageError: Some images could not be made.
        Stopped: Some were not come to.
    """
    stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in result.seconds.items() if stage != "whole")
    say(map(str, result.products))
    if result.made:
        say(
            [
                f"{_count(result.made, 'image')} in {result.seconds['whole']:.1f} s ({stages}); "
                f"{result.outside:.1f} % of the time outside of generating."
            ]
        )
    again = _go_on(command, result.files.folder)
    if result.failed:
        lines = [f"{name} failed: {error}" for name, error in result.failed.items()]
        raise ImageError("\n".join([*lines, f"To try these images again: {again}"]))
    if result.waiting:
        raise Stopped(f"Stopped; {_count(result.waiting, 'image')} not made. To go on: {again}")


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _axis_texts(args: argparse.Namespace, sample: Sample | None) -> dict[str, tuple[str, str]]:
    """Find type and values of the axes that the command line, or else a sample, gives."""
    texts = dict(sample.axes) if sample else {}
    for side in "xy":
        kind, values, file = (getattr(args, f"{side}{end}") for end in ("_type", "", "_file"))
        if kind is None and values is None and file is None:
            continue
        if kind is None or (values is None and file is None):
            args.parser.error(f"--{side}-type and --{side} go together")
        texts[side] = kind, values if file is None else _read_text(file)
    return texts


def _complete_base(args: argparse.Namespace, texts: Mapping[str, tuple[str, str]]) -> None:
    """Give what every cell starts from the mode and the beta that an axis is to set, where the user left them out."""
    axes = dict(texts.values())
    modes = {mode.value: mode for mode in MergeMode}
    if args.mode is None and args.recipe is None and len(args.models_given) == 3:
        words = axes.get("mode", "").replace(",", " ").lower().split()
        fitting = [word for word in words if word in modes and modes[word].uses_c]
        args.mode = next((word for word in fitting if modes[word].uses_beta), next(iter(fitting), None))
    uses_beta = args.mode is not None and modes[args.mode].uses_beta
    if args.beta is None and args.recipe is None and uses_beta and {"beta", "alpha-beta"} & set(axes):
        args.beta = 0.0


def _read_text(name: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        raise CheckpointError(f"Cannot read the values in {name}: {exc}.") from exc


def _take_sample(args: argparse.Namespace) -> Sample | None:
    """Find the sample that was asked for, and take its options where none were given."""
    if args.sample is None:
        return None
    fitting = {n: sample for n, sample in find_samples().items() if bool(sample.axes) is (args.command == "plot")}
    if args.sample not in fitting:
        numbers = ", ".join(map(str, fitting))
        args.parser.error(f"--sample {args.sample}: the samples of a {args.command} are {numbers}; 0 lists all")
    sample = fitting[args.sample]
    taken = vars(args.parser.parse_args(shlex.split(sample.options)))
    if args.recipe is not None:  # it says what to merge
        taken = {"compare": taken.get("compare")}
    elif args.elemental_file is not None:
        taken["elemental"] = None
    for name, value in taken.items():
        if getattr(args, name, None) is None:
            setattr(args, name, value)
    return sample


class CellBar:
    """Shows images done and the time left on a terminal, nothing in a pipe."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __enter__(self) -> CellBar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def watcher(self, interrupts: Sequence[int] = ()) -> RunWatcher:
        """Give what follows a run for it, and stops it after an interrupt, even one that was taken for a failure."""
        from ..merge.progress import Controls
        from ..runs.runner import RunWatcher

        return RunWatcher(on_cell=self._on_cell, controls=Controls(should_stop=lambda: bool(interrupts)))

    def _on_cell(self, cell: Cell, image: Image.Image | None, progress: Progress) -> None:
        if not sys.stderr.isatty():
            return
        from tqdm import tqdm

        if self._bar is None:
            form = "{desc}: {n_fmt}/{total_fmt} |{bar}| {postfix}"
            self._bar = tqdm(total=progress.total, bar_format=form, leave=False)
        self._bar.set_description(cell.name if image else f"{cell.name} failed", refresh=False)
        minutes, seconds = divmod(round(progress.seconds_left), 60)
        each = f"{progress.seconds_each:.1f} s each, {minutes}:{seconds:02} left"
        self._bar.set_postfix_str(each, refresh=False)
        self._bar.update(progress.done - self._bar.n)
