"""XY plots and element checks as jobs."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import ElementalError, ImageError, Stopped
from ..images.image_request import ImageRequest
from ..runs.element_check_run import folder_of_check
from ..runs.estimate import Estimate
from ..runs.resume import open_run
from ..runs.run_files import RunFiles, latest_run
from ..runs.run_record import CellState, RunRecord, read_record
from ..runs.runner import Run, RunResult, RunWatcher, continue_run, start_run
from ..runs.xy_plot_run import PlotRun
from .form import MergeForm
from .jobs import Job, JobState
from .run_plans import CheckForm, PlotForm, plan_check, plan_plot
from .run_view import RunView
from .session import Session

_MOST_LISTED = 50
_PLOT, _CHECK = "XY plot", "Element check"
"""Names of jobs."""


def run_plot(session: Session, form: MergeForm, plot: PlotForm, request: ImageRequest) -> Job:
    """Start an XY plot in a new folder.

    Raises:
        ElementalError: The plot is not valid, or a job is running.
    """
    run, estimate = plan_plot(session, form, plot, request)
    folder = _new_folder(session.host.output_folder() / "plots")
    extra = {"x_type": plot.x_type, "x": plot.x, "y_type": plot.y_type, "y": plot.y, "compare": plot.compare}
    return _start(session, _PLOT, run, estimate, folder, form=form, extra=extra)


def run_check(session: Session, form: MergeForm, check: CheckForm, request: ImageRequest) -> Job:
    """Start an element check in the folder of its two models.

    Raises:
        ElementalError: The check is not valid, or a job is running.
    """
    run, estimate = plan_check(session, form, check, request)
    folder = folder_of_check(session.host.output_folder() / "checks", run.check.base.recipe)
    extra = {"elements": check.elements, "ratio": check.ratio}
    return _start(session, _CHECK, run, estimate, folder, form=form, extra=extra)


def unfinished_runs(session: Session) -> list[tuple[str, str]]:
    """List the runs that still have images to make, the latest first: a text and the record's file."""
    runs = []
    folder = session.host.output_folder()
    records = [*(folder / "plots").glob("*/run*.json"), *(folder / "checks").glob("*/diff/run*.json")]
    dated = [(path.stat().st_mtime, path) for path in records if path.is_file()]  # a named pipe would never end
    for _, path in sorted(dated, reverse=True)[:_MOST_LISTED]:
        try:
            record = _read_run(path)
        except ElementalError:
            continue  # killed right at the start, or written by another version
        done = record.count(CellState.DONE)
        if done < len(record.cells):
            number = "" if record.files.number == 1 else f", run {record.files.number}"
            words = f"{record.kind} {path.parent.relative_to(folder).as_posix()}{number}"
            runs.append((f"{words}: {done} of {len(record.cells)} images", str(path)))
    return runs


def resume(session: Session, choice: str) -> Job:
    """Continue a run.

    Args:
        session: The session of the page.
        choice: The text of :func:`unfinished_runs`, whose number of images may be outdated; empty for the latest run.

    Raises:
        ElementalError: The run cannot be continued, or a job is running.
    """
    record = _read_run(_find_unfinished(session, choice))
    locator = session.locator
    run = open_run(session.host, record, locator=locator)

    def go_on(watcher: RunWatcher) -> RunResult:
        return continue_run(session.host, run, record, watcher=watcher, locator=locator)

    return _follow(session, _PLOT if run.kind == PlotRun.kind else _CHECK, run, go_on, lambda _: None)


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


def _start(
    session: Session,
    name: str,
    run: Run,
    estimate: Estimate,
    folder: Path,
    *,
    form: MergeForm,
    extra: Mapping[str, Any],
) -> Job:
    def begin(watcher: RunWatcher) -> RunResult:
        return start_run(session.host, run, folder, estimate=estimate, watcher=watcher, locator=session.locator)

    recipe = session.recipe(form)

    def remember(text: str) -> None:
        session.remember(run.kind, recipe, text, form, extra)

    return _follow(session, name, run, begin, remember)


def _follow(
    session: Session,
    name: str,
    run: Run,
    make: Callable[[RunWatcher], RunResult],
    remember: Callable[[str], None],
) -> Job:
    """Make a run as a job.

    Args:
        session: The session of the page.
        name: The name of the job.
        run: The run.
        make: Makes its images.
        remember: Adds the text of the result to the history.
    """

    def work(job: Job) -> None:
        view = RunView(job, run)
        view.show_planning()
        result: RunResult | None = None
        try:
            with session.host_job(job, name, view.count), session.model.suspended():
                result = make(_watch(session, view))
                view.show_result(result)
                remember(job.view.text)
        except ElementalError as exc:
            if result is None:
                raise
            raise type(exc)(f"{job.view.text}\nWhat was in the live model could not be put back: {exc}") from exc
        if result.waiting:
            raise Stopped(job.view.text)
        if result.failed:
            job.show(state=JobState.FAILED)

    return session.board.start(name, work)


def _watch(session: Session, view: RunView) -> RunWatcher:
    """Show the run on its job; the controls can stop it, but do not show the progress of each merge."""
    controls = replace(session.controls(), begin=lambda _: None, advance=lambda _: None, stage=lambda _: None)
    return RunWatcher(on_begin=view.show_begin, on_cell=view.show_cell, controls=controls)


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
