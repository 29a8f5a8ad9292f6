"""What plots and element checks share: the options of a run, samples, and starting and resuming a run."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from ..errors import ImageError, Stopped
from ..recipe.recipe import MergeRecipe
from ..runs.sample_file import Sample, find_samples
from .cluster_option import add_cluster_options, image_maker, own_device, refuse_cluster_options
from .command import Interrupts, UsageError
from .image_options import ImageOptions
from .output import count_of, print_lines
from .progress import ProgressBar, run_watcher
from .recipe_options import RecipeOptions, find_recipe
from .standalone_host import DEFAULT_DEVICE, make_host, require_packages

if TYPE_CHECKING:
    from ..hosts.base import Host
    from ..runs.axes.context import AxisContext
    from ..runs.estimate import Estimate
    from ..runs.runner import Run, RunResult

T = TypeVar("T")
Specific = TypeVar("Specific", bound="RunCommandOptions")
_BESIDE_RESUME = ("resume", "device", "models_folder", "on", "workers")
"""Options that say nothing of what a run makes."""
_SPELLINGS = {"models": "the models", "prompts": "--prompt", "seeds": "--seed"}


@dataclass(frozen=True)
class RunOptions:
    """Where a run goes, and what is made of it.

    Attributes:
        output: The folder for images, grids and run.json.
        resume: The folder of a run to go on with.
        sample: The number of a sample; 0 to list them.
        dry_run: Whether to make nothing.
        yes: Whether to make more images than a user usually means.
        on: The cluster that makes the images, as "ray" or "ray:ADDRESS"; None for this computer.
        workers: How many workers of the cluster.
    """

    output: Path | None
    resume: Path | None
    sample: int | None
    dry_run: bool
    yes: bool
    on: str | None = None
    workers: int | None = None


@dataclass(frozen=True)
class RunCommandOptions:
    """The options of a command that makes a run.

    Attributes:
        command: Its name.
        recipe: The merge that the images have in common.
        images: What else they have in common.
        run: Where they go.
    """

    command: ClassVar[str]
    recipe: RecipeOptions
    images: ImageOptions
    run: RunOptions

    @property
    def quiet(self) -> bool:
        """Whether the result alone is printed."""
        return False


@dataclass(frozen=True)
class Preparation:
    """What a plot or an element check is made of.

    Attributes:
        recipe: The merge that all images have in common.
        remarks: On options without effect.
        host: What makes the images.
        context: What the user's texts are read against.
    """

    recipe: MergeRecipe
    remarks: list[str]
    host: Host
    context: AxisContext


def add_run_options(command: argparse.ArgumentParser) -> None:
    """Declare the options of a run."""
    group = command.add_argument_group("run")
    group.add_argument("-o", "--output", type=Path, metavar="DIR", help="the folder for the results (required)")
    group.add_argument(
        "--resume",
        type=Path,
        metavar="DIR",
        help="finish the last run in DIR with the settings it started with; models and -o are not needed",
    )
    group.add_argument(
        "--sample", type=int, metavar="N", help="start from the settings of built-in example N; 0 lists them"
    )
    group.add_argument("--dry-run", action="store_true", help="list the images without making them")
    group.add_argument("--yes", action="store_true", help="allow more than 1,000 images")
    add_cluster_options(group)


def run_or_resume(options: Specific, interrupts: Interrupts, start: Callable[[Specific, Interrupts], None]) -> None:
    """List the samples, resume a run, or start one, as the options ask.

    Args:
        options: Of the command.
        interrupts: Signals that asked to stop.
        start: Starts a run.

    Raises:
        UsageError: The options do not go together.
        ElementalError: The run cannot be made, or some images of it could not be.
        Stopped: The user asked for it; what is done is kept.
    """
    require_packages()
    refuse_cluster_options(options.run.on, options.run.workers, options.images.device)
    if options.run.sample == 0:
        list_samples()
    elif options.run.resume is not None:
        refuse_beside_resume(options)
        resume_run(options.run.resume, options, interrupts)
    else:
        require_output(options.run)
        start(options, interrupts)


def list_samples() -> None:
    """Print number and title of all samples."""
    print_lines(f"{sample.number:3}  {sample.title}" for sample in find_samples().values())


def require_output(options: RunOptions) -> None:
    """Refuse a run that makes images and has no folder for them."""
    if options.output is None and not options.dry_run:
        raise UsageError("a folder is needed: -o DIR")


def refuse_beside_resume(options: RunCommandOptions) -> None:
    """Refuse options that say anew what a run already has."""
    spellings = list(spell_options(options))
    if spellings:
        raise UsageError(f"--resume takes everything from the run; leave out {', '.join(spellings)}")


def spell_options(options: Any, allowed: Collection[str] = _BESIDE_RESUME) -> Iterator[str]:
    """Spell the options that were set, as users type them; 0 is set, though it equals False.

    Args:
        options: A dataclass of options, maybe with others in it.
        allowed: The names of those that are left out.
    """
    for field in fields(options):
        value = getattr(options, field.name)
        if is_dataclass(value):
            yield from spell_options(value, allowed)
        elif field.name not in allowed and value not in (None, ()) and value is not False:
            yield _SPELLINGS.get(field.name, f"--{field.name.replace('_', '-')}")


def find_sample(options: RunCommandOptions) -> Sample | None:
    """Find the sample that the options ask for; None if they ask for none.

    Raises:
        UsageError: The command has no such sample.
        ImageError: The samples cannot be read.
    """
    number, command = options.run.sample, options.command
    if number is None:
        return None
    fitting = {n: sample for n, sample in find_samples().items() if bool(sample.axes) is (command == "plot")}
    if number not in fitting:
        numbers = ", ".join(map(str, fitting))
        raise UsageError(f"--sample {number}: the samples of a {command} are {numbers}; 0 lists all")
    return fitting[number]


def fill(options: Specific, sample: Specific) -> Specific:
    """Take options from a sample where the user set none; beside ``--recipe``, none that say what to merge."""
    if options.recipe.recipe is not None:
        return _fill(options, replace(sample, recipe=RecipeOptions(), images=ImageOptions()))
    if options.recipe.elemental_file is not None:
        sample = replace(sample, recipe=replace(sample.recipe, elemental=None))
    return _fill(options, sample)


def _fill(options: T, defaults: T) -> T:
    changes: dict[str, Any] = {}
    for field in fields(options):  # type: ignore[arg-type]
        value, default = getattr(options, field.name), getattr(defaults, field.name)
        if is_dataclass(value):
            changes[field.name] = _fill(value, default)
        elif value is None:
            changes[field.name] = default
    return replace(options, **changes)  # type: ignore[type-var]


def prepare(options: RunCommandOptions) -> Preparation:
    """Make what a plot or an element check is made of.

    Raises:
        UsageError: There are too few models, or too many.
        ElementalError: Something cannot be read, or does not fit the rest.
    """
    from ..runs.axes.context import make_axis_context

    locator = options.recipe.locator
    found, remarks = find_recipe(options.recipe)
    host = make_host(own_device(options.run.on, options.images.device))
    return Preparation(found, remarks, host, make_axis_context(host, found, locator=locator))


def start_new_run(
    host: Host, run: Run, folder: Path, *, estimate: Estimate, options: RunCommandOptions, interrupts: Interrupts
) -> None:
    """Say how many images a run has, make them, and say what was made; ``--dry-run`` lists them instead.

    Args:
        host: What makes the images.
        run: What to make.
        folder: Where.
        estimate: What was found before.
        options: Of the command.
        interrupts: Signals that asked to stop.

    Raises:
        ElementalError: Some images could not be made.
        Stopped: The user asked for it; what is done is kept.
    """
    print_lines([f"{count_of(estimate.cells, 'image')}, {count_of(estimate.merges, 'merge')}."])
    if options.run.dry_run:
        _print_dry_run(run)
    else:
        _make(host, run, folder, estimate=estimate, options=options, interrupts=interrupts)


def _print_dry_run(run: Run) -> None:
    print_lines(" ".join([cell.name, *run.labels(cell).values()]) for cells in run.rounds() for cell in cells)
    print_lines(["Dry run: nothing was made."])


def _make(
    host: Host, run: Run, folder: Path, *, estimate: Estimate, options: RunCommandOptions, interrupts: Interrupts
) -> None:
    from ..runs.runner import start_run

    locator = options.recipe.locator
    with (
        stopped_anywhere(same_command(options), folder),
        image_maker(host, options, locator, estimate.models, options.images.device) as (maker, device),
    ):
        with ProgressBar() as bar:
            result = start_run(
                maker,
                run,
                folder,
                estimate=estimate,
                watcher=run_watcher(bar, interrupts),
                locator=locator,
                options=options_to_keep(options, device),
            )
        print_result(result, same_command(options))


def options_to_keep(options: RunCommandOptions, device: str) -> Mapping[str, str | None]:
    """Give the options that a record keeps for going on."""
    folder = options.recipe.models_folder
    return {
        "device": device,
        "models": None if folder is None else str(folder.resolve()),
    }


def resume_run(folder: Path, options: RunCommandOptions, interrupts: Interrupts) -> None:
    """Continue the last run in a folder.

    Args:
        folder: The folder.
        options: Of the command; only the device, the cluster and the folder of models count.
        interrupts: Signals that asked to stop.

    Raises:
        UsageError: The run began on another device.
        ElementalError: There is no run, it cannot go on, or some images could not be made.
        Stopped: The user asked for it; what is done is kept.
    """
    from ..runs.resume import open_run
    from ..runs.run_files import latest_run
    from ..runs.run_record import read_record
    from ..runs.runner import continue_run

    record = read_record(latest_run(folder))
    recipe = replace(options.recipe, models_folder=options.recipe.models_folder or models_folder_of(record.options))
    device, locator = device_of(record.options, options.images.device), recipe.locator
    refuse_cluster_options(options.run.on, options.run.workers, device)
    host = make_host(own_device(options.run.on, device))
    run = open_run(host, record, locator=locator)
    with (
        stopped_anywhere(same_command(options), record.files.folder),
        image_maker(host, options, locator, record.models, device) as (maker, _),
    ):
        with ProgressBar() as bar:
            watcher = run_watcher(bar, interrupts)
            result = continue_run(maker, run, record, watcher=watcher, locator=locator)
        print_result(result, same_command(options))


def models_folder_of(kept: Mapping[str, Any]) -> Path | None:
    """Give the folder of models that a run began with, from the options that its record keeps."""
    folder = kept.get("models")
    return Path(folder) if folder else None


def device_of(kept: Mapping[str, Any], device: str | None) -> str:
    """Give the device to go on with, which is of the kind that a run began on, as its record says; refuse others."""
    first: str = kept.get("device") or DEFAULT_DEVICE
    if device not in (None, first) and not (first == "cuda" and str(device).startswith("cuda:")):
        raise UsageError(f"the run began on {first}; on {device} its images would not be the same")
    return device or first


@contextmanager
def stopped_anywhere(command: str, folder: Path) -> Iterator[None]:
    """Say how to go on after an interrupt between two images, or while grids are drawn.

    Args:
        command: The one that goes on with the run.
        folder: The folder of the run.

    Raises:
        Stopped: There is a run to go on with.
    """
    from ..runs.run_files import latest_run

    try:
        yield
    except KeyboardInterrupt as exc:
        with suppress(ImageError):  # there is no run yet: nothing was changed
            latest_run(folder)
            raise Stopped(f"Stopped. To go on: {resume_command(command, folder)}") from exc
        raise


def print_result(result: RunResult, command: str) -> None:
    """Print what a run made, and how long it took.

    Args:
        result: Of the run.
        command: The one that goes on with it.

    Raises:
        ImageError: Some images could not be made.
        Stopped: Some images were not tried.
    """
    print_lines(map(str, result.products))
    if result.made:
        print_lines([_describe_time(result)])
    again = resume_command(command, result.files.folder)
    if result.failed:
        lines = [f"{name} failed: {error}" for name, error in result.failed.items()]
        raise ImageError("\n".join([*lines, f"To try these images again: {again}"]))
    if result.waiting:
        raise Stopped(f"Stopped; {count_of(result.waiting, 'image')} not made. To go on: {again}")


def _describe_time(result: RunResult) -> str:
    stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in result.seconds.items() if stage != "whole")
    whole = f"{count_of(result.made, 'image')} in {result.seconds['whole']:.1f} s ({stages})"
    return f"{whole}; {result.outside:.1f} % of the time outside of generating."


def same_command(options: RunCommandOptions) -> str:
    """Give the command that goes on with a run in the same place, as the words after "elemental"."""
    on, workers = options.run.on, options.run.workers
    words = ["--on", shlex.quote(on)] if on is not None else []
    words += ["--workers", str(workers)] if workers is not None else []
    return " ".join([options.command, *words])


def resume_command(command: str, folder: Path) -> str:
    """Give the command that goes on with what is in a folder, as users type it."""
    return f"elemental {command} --resume {shlex.quote(str(folder))}"
