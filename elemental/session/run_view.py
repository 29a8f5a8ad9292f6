"""What the pages show of a run: its images as they are made, its progress, its result."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from ..images.ranking import describe_share
from ..recipe.rules import format_ratio
from ..runs.element_check_run import CheckRun
from ..runs.run_record import CellRecord, CellState, RunRecord
from ..runs.runner import Progress, Run, RunResult
from ..runs.xy_plot_run import PlotRun
from .form import shown_path
from .job_texts import count_images, format_duration
from .jobs import Job

if TYPE_CHECKING:
    from PIL import Image

    from ..images.ranking import ElementEffect
    from ..runs.cells import Cell

_COLUMNS = ("", "elements", "changed", "mean", "largest", "SSIM")


class RunView:
    """Shows a run on its job.

    Args:
        job: The job.
        run: The run.
        notes: What the user is told about it from its beginning to its end.

    Attributes:
        count: How many images the run has.
    """

    def __init__(self, job: Job, run: Run, notes: Sequence[str] = ()) -> None:
        self._job = job
        self._notes = notes
        self._run = run
        self._record: RunRecord | None = None
        self._made: set[str] = set()
        cells = [cell for cells_of_round in run.rounds() for cell in cells_of_round]
        self.count = len(cells)
        self._order = {cell.name: (cell.y, cell.x) for cell in cells}
        self._columns = 1 + max((cell.x for cell in cells), default=0) if run.kind == PlotRun.kind else 0

    def show_planning(self) -> None:
        """Show that the run is being planned; the images of a plot will have the columns of its grid."""
        self._show("planning ...", columns=self._columns, parts=True)

    def _show(self, text: str, **parts: object) -> None:
        self._job.show(text="\n".join([text, *self._notes]), **parts)

    def show_begin(self, record: RunRecord) -> None:
        """Show the images that were made before, as a resumed run has them."""
        self._record = record
        self._made = {name for name, cell in record.cells.items() if cell.state is CellState.DONE}
        self._show_images()

    def show_cell(self, cell: Cell, image: Image.Image | None, progress: Progress) -> None:
        """Show a finished cell and the progress of the run."""
        if image is not None:
            self._made.add(cell.name)
            self._show_images()
        minutes, seconds = divmod(round(progress.seconds_left), 60)
        text = (
            f"{progress.done} of {progress.total} images, {progress.seconds_each:.1f} s each, "
            f"{minutes}:{seconds:02} left"
        )
        self._show(text, done=progress.done / max(1, progress.total))

    def _show_images(self) -> None:
        """Show the images row by row, in the order of the grid."""
        assert self._record is not None
        names = sorted(self._made, key=lambda name: self._order.get(name, (0, 0)))
        self._job.show(
            images=tuple((self._record.files.cell(name), _caption(self._record.cells[name])) for name in names)
        )

    def show_result(self, result: RunResult) -> None:
        """Show the result: the folder, errors, grids, and the ranking of an element check."""
        assert self._record is not None
        duration, folder = format_duration(result.seconds["whole"]), shown_path(result.files.folder)
        lines = [f"{count_images(result.made)} in {duration}. Folder: {folder}"]
        lines += [f"{name} failed: {error}" for name, error in result.failed.items()]
        if result.waiting:
            lines.append(f"Stopped; {count_images(result.waiting)} left to make. Resume continues.")
        self._show(
            "\n".join(lines),
            products=tuple(path for path in result.products if path.suffix == ".png"),
            table=draw_effects(self._run, self._record) if isinstance(self._run, CheckRun) else "",
        )


def draw_effects(run: CheckRun, record: RunRecord) -> str:
    """Draw the ranking of an element check as an HTML table; a click on a row shows its GIF."""
    effects = run.list_effects(record)
    full = max((effect.difference.share for effect, _ in effects), default=0) or 1.0
    rows = [_draw_row(rank, effect, str(gif), full) for rank, (effect, gif) in enumerate(effects, 1)]
    head = "".join(f"<th>{name}</th>" for name in _COLUMNS)
    caption = f"Effect of each element at ratio {format_ratio(run.check.ratio)}. Click a row to see the change."
    return (
        f'<table class="elemental-ranking"><caption>{caption}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _draw_row(rank: int, effect: ElementEffect, gif: str, full: float) -> str:
    """Draw an effect; its bar is as long as its share of the largest one, ``full``."""
    figures = effect.difference
    similarity = "" if figures.similarity is None else f"{figures.similarity:.3f}"
    bar = f'<td class="bar" style="--v:{100 * figures.share / full:.0f}%">{describe_share(figures)}</td>'
    return (
        f'<tr tabindex="0" role="button" data-gif="{escape(gif)}">'
        f"<td>{rank}</td><td>{escape(effect.elements)}</td>{bar}"
        f"<td>{figures.mean:.2f}</td><td>{figures.largest}</td><td>{similarity}</td></tr>"
    )


def _caption(cell: CellRecord) -> str:
    return " / ".join(filter(None, cell.labels.values()))[:120] or "without"
