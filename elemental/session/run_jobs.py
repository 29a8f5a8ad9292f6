"""Plots and checks as jobs of the tab, whose images are seen as they are made."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ElementalError, ImageError, Stopped
from ..images.ranking import describe_share
from ..images.request import ImageRequest
from ..recipe.rules import format_ratio
from ..runs.axis import Setting
from ..runs.axis_context import make_axis_context
from ..runs.axis_values import AxisValues, parse_axis
from ..runs.check_run import CheckRun, folder_of_check, list_effects
from ..runs.element_check import parse_check
from ..runs.estimate import MOST_CELLS, Estimate, estimate_check, estimate_plot, refuse_many
from ..runs.plot_run import PlotRun, make_plot
from ..runs.record import RunFiles, RunRecord, latest_run, read_record
from ..runs.resume import open_run
from ..runs.runner import DONE, Progress, Run, RunResult, RunWatcher, continue_run, start_run
from ..workflows import identify_models
from .form import MergeForm, finder, shown_path
from .jobs import Job, JobState
from .session import Session

if TYPE_CHECKING:
    from PIL import Image

    from ..runs.cells import Cell


@dataclass(frozen=True)
class PlotForm:
    """The fields of the plot panel.

    Attributes:
        x_type: Kind of the columns' axis.
        x: Its values.
        y_type: Kind of the rows' axis; empty for a plot of one row.
        y: Its values.
        compare: Whether to say below each image how much of it differs.
    """

    x_type: str = "elemental"
    x: str = ""
    y_type: str = ""
    y: str = ""
    compare: bool = False


@dataclass(frozen=True)
class CheckForm:
    """The fields of the check panel.

    Attributes:
        elements: What is tried.
        ratio: What it is given.
    """

    elements: str = ""
    ratio: float = 1.0


def plan_plot(session: Session, form: MergeForm, plot: PlotForm, request: ImageRequest) -> tuple[PlotRun, Estimate]:
    """Read a plot and look over its cells; nothing is merged or drawn.

    Raises:
        ElementalError: It cannot be made, or would show nothing.
    """
    recipe = identify_models(session.recipe(form), locator=session.locator)
    context = replace(
        make_axis_context(session.host, recipe, locator=session.locator),
        find_model=finder(session.checkpoints()),
    )
    axes: dict[str, AxisValues] = {"x": parse_axis("x", plot.x_type, plot.x, context, watch_count=_refuse_many)}
    if plot.y_type:
        axes["y"] = parse_axis("y", plot.y_type, plot.y, context, watch_count=_refuse_many)
    setting = Setting(recipe, replace(request, batch=1))
    made = make_plot(setting, axes["x"], axes.get("y"), context=context, most=MOST_CELLS)
    return PlotRun(made, compare=plot.compare), estimate_plot(made, locator=session.locator)


def plan_check(session: Session, form: MergeForm, check: CheckForm, request: ImageRequest) -> tuple[CheckRun, Estimate]:
    """Read a check and look over its cells; nothing is merged or drawn.

    Raises:
        ElementalError: It cannot be made, or would show nothing.
    """
    recipe = identify_models(session.recipe(form), locator=session.locator)
    context = make_axis_context(session.host, recipe, locator=session.locator)
    setting = Setting(recipe, replace(request, batch=1))
    made = parse_check(setting, check.elements, float(check.ratio), context, watch_count=_refuse_many)
    return CheckRun(made), estimate_check(made, locator=session.locator)


def _refuse_many(count: int) -> None:
    refuse_many(count, MOST_CELLS)


def run_plot(session: Session, form: MergeForm, plot: PlotForm, request: ImageRequest) -> Job:
    """Make a plot in a folder of its own.

    Raises:
        ElementalError: It cannot be made, or a job is running.
    """
    run, estimate = plan_plot(session, form, plot, request)
    folder = _new_folder(session.host.output_folder() / "plots")
    extra = {"x_type": plot.x_type, "x": plot.x, "y_type": plot.y_type, "y": plot.y, "compare": plot.compare}
    return _start(session, "XY plot", run, estimate, folder, form=form, extra=extra)


def run_check(session: Session, form: MergeForm, check: CheckForm, request: ImageRequest) -> Job:
    """Make a check in the folder of its models.

    Raises:
        ElementalError: It cannot be made, or a job is running.
    """
    run, estimate = plan_check(session, form, check, request)
    folder = folder_of_check(session.host.output_folder() / "checks", run.check.base.recipe)
    extra = {"elements": check.elements, "ratio": check.ratio}
    return _start(session, "Element check", run, estimate, folder, form=form, extra=extra)


def unfinished_runs(session: Session) -> list[tuple[str, str]]:
    """List the runs whose images are not all made, as words and record file, the latest first."""
    found = []
    folder = session.host.output_folder()
    records = [*(folder / "plots").glob("*/run*.json"), *(folder / "checks").glob("*/diff/run*.json")]
    # files alone: to read anything else may never end
    dated = [(path.stat().st_mtime, path) for path in records if path.is_file()]
    for _, path in sorted(dated, reverse=True)[:50]:
        try:
            record = _read_run(path)
        except ElementalError:
            continue  # begun, and killed before anything was known of it; or another version's
        states = [facts.get("state") for facts in record.cells.values()]
        if states.count(DONE) < len(states):
            number = "" if record.files.number == 1 else f", run {record.files.number}"
            words = f"{record.data['kind']} {path.parent.relative_to(folder).as_posix()}{number}"
            found.append((f"{words}: {states.count(DONE)} of {len(states)} images", str(path)))
    return found


def resume(session: Session, choice: str) -> Job:
    """Go on with a run.

    Args:
        session: Of the host.
        choice: The words that :func:`unfinished_runs` had for it, however many images there were then; the latest
            if empty.

    Raises:
        ElementalError: It cannot go on, or a job is running.
    """
    runs = unfinished_runs(session)
    wanted = choice.partition(":")[0].strip()
    path = next((path for words, path in runs if not wanted or words.partition(":")[0] == wanted), None)
    if path is None:
        raise ImageError(
            "There is no unfinished run." if not runs else f'"{wanted}" is finished, or gone; choose another run.'
        )
    record = _read_run(Path(path))
    locator = session.locator
    run = open_run(session.host, record, locator=locator)

    def go_on(watcher: RunWatcher) -> RunResult:
        return continue_run(session.host, run, record, watcher=watcher, locator=locator)

    return _follow(session, "XY plot" if run.kind == PlotRun.kind else "Element check", run, go_on, lambda _: None)


def describe_estimate(estimate: Estimate) -> str:
    """Say what a run will cost, and what was probably not meant."""
    counts = f"{_count(estimate.cells)}, {estimate.merges:,} merge{'s' * (estimate.merges != 1)}."
    return "\n".join([counts, *estimate.warnings])


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

    def note(text: str) -> None:
        session.remember(run.kind, recipe, text, form, extra)

    return _follow(session, name, run, begin, note)


def _follow(
    session: Session,
    name: str,
    run: Run,
    go: Callable[[RunWatcher], RunResult],
    note: Callable[[str], None],
) -> Job:
    """Make a run a job: the user's model is put aside for it, and is back afterwards."""

    def work(job: Job) -> None:
        shown = _RunShow(job, run)
        job.show(text="planning ...", columns=shown.columns)
        count = sum(len(cells) for cells in run.rounds())
        result: RunResult | None = None
        try:
            with session.host_job(job, name, count), session.model.suspended():
                controls = session.controls()
                quiet = replace(controls, begin=lambda _: None, advance=lambda _: None, stage=lambda _: None)
                result = go(RunWatcher(on_begin=shown.begin, on_cell=shown.cell, controls=quiet))
                shown.end(result)
                note(job.view.text)
        except ElementalError as exc:
            if result is None:
                raise
            raise type(exc)(f"{job.view.text}\nWhat was in the live model could not be put back: {exc}") from exc
        if result.waiting:
            raise Stopped(job.view.text)
        if result.failed:
            job.show(state=JobState.FAILED)

    return session.board.start(name, work)


class _RunShow:
    """Shows a run as its images appear."""

    def __init__(self, job: Job, run: Run) -> None:
        self._job = job
        self._run = run
        self._record: RunRecord | None = None
        self._made: set[str] = set()
        self._order = {cell.name: (cell.y, cell.x) for cells in run.rounds() for cell in cells}
        # a check's images are as wide as a row, a plot's stand as in its grid
        columns = 1 + max((cell.x for cells in run.rounds() for cell in cells), default=0)
        self.columns = columns if run.kind == PlotRun.kind else 0

    def begin(self, record: RunRecord) -> None:
        self._record = record
        self._made = {name for name, facts in record.cells.items() if facts["state"] == DONE}
        self._show_made()

    def _show_made(self) -> None:
        """Show the cells row by row, as they stand in the grid."""
        assert self._record is not None
        made = sorted(self._made, key=lambda name: self._order.get(name, (0, 0)))
        self._job.show(
            images=tuple((self._record.files.cell(name), _caption(self._record.cells[name])) for name in made)
        )

    def cell(self, cell: Cell, image: Image.Image | None, progress: Progress) -> None:
        assert self._record is not None
        minutes, seconds = divmod(round(progress.seconds_left), 60)
        text = (
            f"{progress.done} of {progress.total} images, {progress.seconds_each:.1f} s each, "
            f"{minutes}:{seconds:02} left"
        )
        if image is not None:
            self._made.add(cell.name)
            self._show_made()
        self._job.show(text=text, done=progress.done / max(1, progress.total))

    def end(self, result: RunResult) -> None:
        assert self._record is not None
        products = tuple(path for path in result.products if path.suffix == ".png")
        lines = [f"{_count(result.made)} in {result.seconds['whole']:.0f} s. Folder: {shown_path(result.files.folder)}"]
        lines += [f"{name} failed: {error}" for name, error in result.failed.items()]
        if result.waiting:
            lines.append(f"Stopped; {_count(result.waiting)} to make: Resume goes on.")
        table = draw_effects(self._record) if self._run.kind == CheckRun.kind else ""
        self._job.show(text="\n".join(lines), products=products, table=table)


def draw_effects(record: RunRecord) -> str:
    """Draw the ranking of a check as a table whose rows show their GIF when they are clicked."""
    rows = []
    effects = list_effects(record)
    full = max((effect.difference.share for effect, _ in effects), default=0) or 1.0
    for rank, (effect, gif) in enumerate(effects, 1):
        figures = effect.difference
        similarity = "" if figures.similarity is None else f"{figures.similarity:.3f}"
        bar = f'<td class="bar" style="--v:{100 * figures.share / full:.0f}%">{describe_share(figures)}</td>'
        rows.append(
            f'<tr tabindex="0" role="button" data-gif="{escape(str(gif))}">'
            f"<td>{rank}</td><td>{escape(effect.elements)}</td>{bar}"
            f"<td>{figures.mean:.2f}</td><td>{figures.largest}</td><td>{similarity}</td></tr>"
        )
    head = "".join(f"<th>{name}</th>" for name in ("", "elements", "changed", "mean", "largest", "SSIM"))
    ratio = format_ratio(float(record.data["definition"]["ratio"]))
    return (
        f'<table class="elemental-ranking"><caption>Effect of each at {ratio};'
        f" click a row to see it change</caption><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _count(images: int) -> str:
    return f"{images:,} image{'s' * (images != 1)}"


def _new_folder(parent: Path) -> Path:
    """Name a folder that does not exist yet after the time."""
    name = time.strftime("%Y-%m-%d_%H-%M-%S")
    count = 1
    while (folder := parent / (name if count == 1 else f"{name}_{count}")).exists():
        count += 1
    return folder


def _read_run(path: Path) -> RunRecord:
    number = re.fullmatch(r"run(?:-(\d+))?\.json", path.name)
    return read_record(RunFiles(path.parent, int(number[1] or 1)) if number else latest_run(path.parent))


def _caption(facts: Mapping[str, Any]) -> str:
    words = [str(facts[name]) for name in ("x", "y", "elements") if facts.get(name)]
    return " / ".join(words)[:120] or "without"
