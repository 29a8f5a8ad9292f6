"""XY plots and element checks as jobs."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ElementalError, HostError, ImageError, RecipeError, Stopped
from ..hosts.base import HostSettings
from ..images.image_request import ImageRequest
from ..images.ranking import ElementEffect
from ..recipe.recipe import recipe_from_dict
from ..runs.cells import FIRST, place_name
from ..runs.element_check_run import CheckRun, folder_of_check
from ..runs.estimate import Estimate
from ..runs.resume import open_run
from ..runs.run_files import RunFiles, latest_run
from ..runs.run_record import CellState, PageRecord, RunRecord, read_record
from ..runs.runner import Run, RunResult, RunWatcher, continue_run, start_run
from ..runs.xy_plot_run import PlotRun
from ..workflows import plan_merge
from .check_effects import checked_effects
from .form import MergeForm
from .found_effects import for_models, models_of
from .found_forms import values_of_run
from .job_texts import count_images, describe_order, not_put_back
from .jobs import Job, JobState
from .run_devices import RunMaker, RunOrder, run_maker
from .run_plans import CheckForm, PlotForm, batch_notes, plan_check, plan_plot
from .run_times import note_run
from .run_view import RunView
from .session import Session

_MOST_LISTED = 50
_PLOT, _CHECK = "XY plot", "Element check"
"""Names of jobs."""
_PRESENT_SETTINGS = (
    "Begun by version 0.1.0 or on the command line, without settings of the txt2img tab: images that were missing are "
    "made with those of the resume."
)


def run_plot(
    session: Session,
    form: MergeForm,
    plot: PlotForm,
    request: ImageRequest,
    settings: HostSettings | None = None,
    *,
    elsewhere: bool = False,
) -> Job:
    """Start an XY plot in a new folder.

    Args:
        session: The session of the page.
        form: The merge that the axes change.
        plot: The axes.
        request: The image that they change.
        settings: What else the host's own page says of the images.
        elsewhere: Whether the cluster makes them.

    Raises:
        ElementalError: The plot is not valid, its settings cannot be kept in its record, or too many jobs are
            waiting.
    """
    run, estimate = plan_plot(session, form, plot, request)
    plots = session.host.output_folder() / "plots"
    extra = {**asdict(plot), **request.to_dict()}
    begun = _Begun(run, estimate, lambda: _new_folder(plots), settings, batch_notes(request), elsewhere)
    return _start(session, _PLOT, begun, form=form, extra=extra, inputs=(form, plot, request, elsewhere))


def run_check(
    session: Session,
    form: MergeForm,
    check: CheckForm,
    request: ImageRequest,
    settings: HostSettings | None = None,
    *,
    elsewhere: bool = False,
) -> Job:
    """Start an element check in the folder of its two models.

    Args:
        session: The session of the page.
        form: The merge that the elements are put over.
        check: The elements.
        request: The image.
        settings: What else the host's own page says of the images.
        elsewhere: Whether the cluster makes them.

    Raises:
        ElementalError: The check is not valid, its settings cannot be kept in its record, or too many jobs are
            waiting.
    """
    run, estimate = plan_check(session, form, check, request)
    folder = folder_of_check(session.host.output_folder() / "checks", run.check.base.recipe)
    extra = {**asdict(check), **request.to_dict()}
    begun = _Begun(run, estimate, lambda: folder, settings, batch_notes(request), elsewhere)
    return _start(session, _CHECK, begun, form=form, extra=extra, inputs=(form, check, request, elsewhere))


def unfinished_runs(session: Session) -> list[tuple[str, str]]:
    """List the runs that still have images to make, and do not run now, the latest first: text and record's file."""
    runs = []
    folder = session.host.output_folder()
    records = [*(folder / "plots").glob("*/run*.json"), *(folder / "checks").glob("*/diff/run*.json")]
    dated = [(path.stat().st_mtime, path) for path in records if path.is_file()]  # a named pipe would never end
    for _, path in sorted(dated, reverse=True)[:_MOST_LISTED]:
        try:
            record = _read_run(path)
        except ElementalError:
            continue  # killed right at the start, or written by another version
        done = _count_made(record)
        if done < len(record.cells) and path != session.running:
            number = "" if record.files.number == 1 else f", run {record.files.number}"
            words = f"{path.parent.relative_to(folder).as_posix()}{number}"
            runs.append((f"{words}: {done} of {len(record.cells)} images", str(path)))
    return runs


def _count_made(record: RunRecord) -> int:
    """Count the images that are there; the record of a run that was killed is older than its last ones."""
    cells = record.cells.items()
    return sum(cell.state is CellState.DONE or record.files.cell(name).is_file() for name, cell in cells)


def resume(
    session: Session,
    choice: str,
    present: Callable[[], HostSettings | None] = lambda: None,
    *,
    elsewhere: bool = False,
) -> Job:
    """Continue a run with the settings that it was begun with, whatever the host's own page says by now.

    Args:
        session: The session of the page.
        choice: The text of :func:`unfinished_runs`, whose number of images may be outdated; empty for the latest run.
        present: Gives what the host's own page says now, for a run that has no settings in its record.
        elsewhere: Whether the cluster makes the images.

    Raises:
        ElementalError: The run cannot be continued, or too many jobs are
            waiting.
    """
    record = _read_run(_find_unfinished(session, choice))
    settings = _settings_of(session, record, present)
    locator = session.locator
    run = open_run(session.host, record, locator=locator)

    def go_on(made: RunMaker, watcher: RunWatcher) -> RunResult:
        now = _read_again(record)
        now.options = {**made.options, **now.options}  # a run of an older version does not say where it was begun
        return continue_run(made.maker, run, now, watcher=watcher, locator=locator)

    definition = record.definition
    recipe = recipe_from_dict(definition["recipe"])

    def remember(text: str, image: Path | None) -> None:
        extra = {**values_of_run(run.kind, definition)[0], **definition["request"]}
        with suppress(RecipeError):  # of a merge that the form cannot say
            form = session.form_of(recipe)
            session.remember(run.kind, recipe, text, form, extra, image=image)

    name = _PLOT if run.kind == PlotRun.kind else _CHECK
    path = record.files.record
    order = RunOrder(elsewhere, lambda: record.models, record.options)
    asked = _Asked(f"Resume of {path.parent.parent.name}/{path.parent.name}", path, order)
    return _follow(session, name, run, go_on, remember, asked, settings=settings, notes=record.notes)


def _read_again(record: RunRecord) -> RunRecord:
    """Read a run's record when its turn has come: a job before it may have made some of its images, or the last.

    Raises:
        ImageError: No image is left to make.
    """
    now = _read_run(record.files.record)
    now.settings = record.settings
    now.note(record.notes)
    if _count_made(now) == len(now.cells):
        raise ImageError("This run is finished; there is no image left to make.")
    return now


def _settings_of(
    session: Session, record: RunRecord, present: Callable[[], HostSettings | None]
) -> HostSettings | None:
    """Give the settings to go on with; what is to be said about them is noted in the record.

    Raises:
        HostError: The host cannot go on with those of the record; or it has none, and nobody has been told yet that
            the rest would be made with what the page says now.
    """
    if record.settings is not None:
        settings: HostSettings | None = session.host.read_settings(record.settings)
    else:
        settings = present()
        if settings is not None:
            _refuse_once(session, record)
            record.settings = settings.to_dict()
            record.note([_PRESENT_SETTINGS])
    record.note(() if settings is None else settings.notes)
    return settings


def _refuse_once(session: Session, record: RunRecord) -> None:
    """Refuse to mix two kinds of images the first time that somebody asks for it.

    Raises:
        HostError: It is the first time.
    """
    if record.files.record not in session.told:
        session.told.add(record.files.record)
        raise HostError(
            "This run has no record of what the txt2img tab said (Hires. fix, styles, scripts, override settings): "
            "version 0.1.0 or the command line began it. Set the tab up as it was, and press Resume again: the missing "
            "images are made with what it says then."
        )


def _find_unfinished(session: Session, choice: str) -> Path:
    """Find the record's file of a run by its text up to the colon."""
    runs = unfinished_runs(session)
    name = choice.partition(":")[0].strip()
    path = next((path for text, path in runs if not name or text.partition(":")[0] == name), None)
    if path is None:
        raise ImageError(
            "There is no unfinished run." if not runs else f'"{name}" is finished, or was deleted; choose another run.'
        )
    return Path(path)


@dataclass(frozen=True)
class _Begun:
    """A run that is to begin.

    Attributes:
        run: The run.
        estimate: Its estimate.
        folder: Says where its files go, when it begins: another run can have begun in the same second.
        settings: What the host's own page says of the images.
        notes: What the user is told about it.
        elsewhere: Whether the cluster makes its images.
    """

    run: Run
    estimate: Estimate
    folder: Callable[[], Path]
    settings: HostSettings | None
    notes: Sequence[str]
    elsewhere: bool


class _Asked(NamedTuple):
    words: str
    inputs: object
    order: RunOrder


def _start(
    session: Session, name: str, begun: _Begun, *, form: MergeForm, extra: Mapping[str, Any], inputs: object
) -> Job:
    settings = None if begun.settings is None else begun.settings.to_dict()

    def begin(made: RunMaker, watcher: RunWatcher) -> RunResult:
        return start_run(
            made.maker,
            begun.run,
            begun.folder(),
            estimate=begun.estimate,
            watcher=watcher,
            locator=session.locator,
            options=made.options,
            page=PageRecord(settings, begun.notes),
        )

    recipe = session.recipe(form)

    def remember(text: str, image: Path | None) -> None:
        session.remember(begun.run.kind, recipe, text, form, extra, image=image)

    order = RunOrder(begun.elsewhere, lambda: begun.estimate.models, {})
    asked = _Asked(describe_order(recipe, None, count_images(begun.estimate.cells)), inputs, order)
    return _follow(session, name, begun.run, begin, remember, asked, settings=begun.settings, notes=begun.notes)


def _follow(
    session: Session,
    name: str,
    run: Run,
    make: Callable[[RunMaker, RunWatcher], RunResult],
    remember: Callable[[str, Path | None], None],
    asked: _Asked,
    *,
    settings: HostSettings | None,
    notes: Sequence[str],
) -> Job:
    """Make a run as a job.

    Args:
        session: The session of the page.
        name: The name of the job.
        run: The run.
        make: Makes its images.
        remember: Adds the text of the result to the history, and an image that shows it.
        asked: What it is about, what it was asked with, and where its images are to be made.
        settings: What the host's own page said of the images.
        notes: What the user is told about the run.
    """

    def work(job: Job) -> None:
        view = RunView(job, run, notes)
        view.show_planning()
        result: RunResult | None = None
        try:
            with (
                session.host_job(job, name, view.count, settings),
                run_maker(session, asked.order, view.show_stage) as made,
            ):
                result = make(made, _watch(session, view))
                note_run(session, run, result.files, made)
                view.show_result(result)
                remember(job.view.text, _image_of(run, result))
                _show_on_map(session, run, view.effects)
        except ElementalError as exc:
            if result is None:
                raise
            raise not_put_back(job.view.text, exc) from exc
        finally:
            session.running = None
        if result.waiting:
            raise Stopped(job.view.text)
        if result.failed:
            job.show(state=JobState.FAILED)

    return session.board.start(name, work, words=asked.words, inputs=asked.inputs)


def _show_on_map(session: Session, run: Run, effects: Sequence[ElementEffect]) -> None:
    """Paint the element map by the figures of a check."""
    if not isinstance(run, CheckRun) or not effects:
        return
    with suppress(ElementalError):  # a model was deleted meanwhile
        plan = plan_merge(run.check.base.recipe, locator=session.locator)
        models, shown = models_of(plan.recipe), checked_effects(run.check, effects, plan)
        session.previewer.paint("check", partial(for_models, models, shown))


def _image_of(run: Run, result: RunResult) -> Path | None:
    """Give what shows a run at a small size: the first grid of a plot; of a check, whose grid is high, its base."""
    base = result.files.cell(place_name(*FIRST))
    return next(iter(result.products), base) if run.kind == PlotRun.kind else base


def _watch(session: Session, view: RunView) -> RunWatcher:
    """Show the run on its job; the controls can stop it, but do not show the progress of each merge."""
    controls = session.stop_controls()

    def begin(record: RunRecord) -> None:
        session.running = record.files.record
        view.show_begin(record)

    return RunWatcher(on_begin=begin, on_start=view.show_start, on_cell=view.show_cell, controls=controls)


def _new_folder(parent: Path) -> Path:
    """Give a path named after the time that does not exist yet."""
    name = time.strftime("%Y-%m-%d_%H-%M-%S")
    count = 1
    while (folder := parent / (name if count == 1 else f"{name}_{count}")).exists():
        count += 1
    return folder


def _read_run(path: Path) -> RunRecord:
    number = re.fullmatch(r"run(?:-(\d+))?\.json", path.name)
    return read_record(RunFiles(path.parent, int(number[1] or 1)) if number else latest_run(path.parent))
