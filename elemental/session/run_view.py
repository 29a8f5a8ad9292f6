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
    from pathlib import Path

    from PIL import Image

    from ..images.diff import Difference
    from ..images.ranking import ElementEffect
    from ..runs.cells import Cell

_COLUMNS = ("rank", "elements", "changed", "mean", "largest", "SSIM")


class RunView:
    """Shows a run on its job.

    Args:
        job: The job.
        run: The run.
        notes: What the user is told about it from its beginning to its end.

    Attributes:
        count: How many images the run has.
        effects: Of a check that has ended: what each element did, the largest first.
    """

    def __init__(self, job: Job, run: Run, notes: Sequence[str] = ()) -> None:
        self._job = job
        self._notes = notes
        self._run = run
        self.effects: Sequence[ElementEffect] = ()
        self._record: RunRecord | None = None
        self._made: set[str] = set()
        self._pace = ""
        cells = [cell for cells_of_round in run.rounds() for cell in cells_of_round]
        self.count = self._left = len(cells)
        self._order = {cell.name: (cell.z or 0, cell.y, cell.x) for cell in cells}
        self._columns = 1 + max((cell.x for cell in cells), default=0) if run.kind == PlotRun.kind else 0

    def show_planning(self) -> None:
        """Show that the run is being planned; the images of a plot will have the columns of its grid."""
        self._show("planning ...", columns=self._columns, parts=True)

    def show_stage(self, stage: str) -> None:
        """Show what is being done until the first image can be made."""
        self._show(f"{stage} ...")

    def _show(self, text: str, **parts: object) -> None:
        self._job.show(text="\n".join([text, *self._notes]), **parts)

    def show_begin(self, record: RunRecord) -> None:
        """Show the images that were made before, as a resumed run has them."""
        self._record = record
        self._made = {name for name, cell in record.cells.items() if cell.state is CellState.DONE}
        self._left = len(record.cells) - len(self._made)
        self._show("loading the model ...", steps=False)
        self._show_images()

    def show_start(self, cell: Cell, number: int) -> None:
        """Show which image is made now; the page adds its steps to the first line."""
        assert self._record is not None
        label = _label(self._record.cells[cell.name])
        self._show(f"image {number} of {self._left}: {label} ...{self._pace}", steps=True)

    def show_cell(self, cell: Cell, image: Image.Image | None, progress: Progress) -> None:
        """Show a finished cell and the progress of the run."""
        if image is not None:
            self._made.add(cell.name)
            self._show_images()
        minutes, seconds = divmod(round(progress.seconds_left), 60)
        self._pace = f"\n{progress.seconds_each:.1f} s each, {minutes}:{seconds:02} left"
        text = f"{progress.done} of {progress.total} images"
        self._show(text + self._pace, done=progress.done / max(1, progress.total), steps=False)

    def _show_images(self) -> None:
        """Show the images row by row, in the order of the grid."""
        assert self._record is not None
        names = sorted(self._made, key=lambda name: self._order.get(name, (0, 0, 0)))
        cells = [(self._record.files.cell(name), self._record.cells[name]) for name in names]
        self._job.show(images=tuple((path, self._caption(cell)) for path, cell in cells))

    def _caption(self, cell: CellRecord) -> str:
        """Say what an image shows: its values, or its elements with the ratio and what they do; and its seed."""
        ratio = f" at ratio {format_ratio(self._run.check.ratio)}" if isinstance(self._run, CheckRun) else ""
        what = f"{_label(cell)}{ratio}" if any(cell.labels.values()) else _label(cell)
        figures = "" if cell.figures is None else f"; {_figures(cell.figures)}"
        return f"{what}{figures}; seed {cell.request.get('seed')}"

    def show_result(self, result: RunResult) -> None:
        """Show the result: the folder, errors, grids, and the ranking of an element check."""
        assert self._record is not None
        duration, folder = format_duration(result.seconds["whole"]), shown_path(result.files.folder)
        lines = [f"{count_images(result.made)} in {duration}. Folder: {folder}"]
        lines += [f"{name} failed: {error}" for name, error in result.failed.items()]
        if result.waiting:
            lines.append(f"Stopped; {count_images(result.waiting)} left to make. Resume continues.")
        self._show_images()  # by now there are figures for their captions
        self._show(
            "\n".join(lines),
            products=tuple(path for path in result.products if path.suffix == ".png"),
            headings=self._run.headings() if isinstance(self._run, PlotRun) else (),
            table=self._rank_effects(self._run, self._record) if isinstance(self._run, CheckRun) else "",
        )

    def _rank_effects(self, run: CheckRun, record: RunRecord) -> str:
        effects = run.list_effects(record)
        self.effects = [effect for effect, _ in effects]
        return draw_effects(effects, record.files.folder, run.check.ratio)


def draw_effects(effects: Sequence[tuple[ElementEffect, Path]], folder: Path, ratio: float) -> str:
    """Draw the ranking of an element check as an HTML table; a click on a row shows its GIF.

    Args:
        effects: The effects, the largest first, each with its GIF.
        folder: The folder that their images are named from.
        ratio: The ratio of the elements.
    """
    full = max((effect.difference.share for effect, _ in effects), default=0) or 1.0
    rows = [
        _draw_row(rank, effect, gif=str(gif), image=str(folder / effect.image), full=full)
        for rank, (effect, gif) in enumerate(effects, 1)
    ]
    names = (f'<th><button type="button" data-sort="{at}">{name}</button></th>' for at, name in enumerate(_COLUMNS))
    head = "".join([*names, "<th></th>"])
    caption = f"Effect of each element at ratio {format_ratio(ratio)}. Click a row to see the change."
    return (
        f'<table class="elemental-ranking"><caption>{caption}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _draw_row(rank: int, effect: ElementEffect, *, gif: str, image: str, full: float) -> str:
    """Draw an effect; its bar is as long as its share of the largest one, ``full``."""
    elements = escape(effect.elements)
    figures = effect.difference
    similarity = "" if figures.similarity is None else f"{figures.similarity:.3f}"
    bar = f'<td class="bar" style="--v:{100 * figures.share / full:.0f}%">{describe_share(figures)}</td>'
    return (
        f'<tr data-gif="{escape(gif)}"><td>{rank}</td><td><button type="button">{elements}</button></td>{bar}'
        f"<td>{figures.mean:.2f}</td><td>{figures.largest}</td><td>{similarity}</td>"
        f'<td><button type="button" data-use="{escape(image)}" title="Add the rule of {elements} to the form">Use'
        "</button></td></tr>"
    )


def _label(cell: CellRecord) -> str:
    return " / ".join(filter(None, cell.labels.values()))[:120] or "without"


def _figures(difference: Difference) -> str:
    similarity = "" if difference.similarity is None else f", SSIM {difference.similarity:.3f}"
    return f"changed {describe_share(difference)}, mean {difference.mean:.2f}{similarity}"
