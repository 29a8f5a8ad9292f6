"""Make the images of a run: each recipe is merged once, each image saved at once, and a stopped run can go on.

A run can go on wherever it was killed: its record is written before the first image, each image appears under its name
when it is whole, and what exists is not made again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import ElementalError, ImageError, Stopped
from ..hosts.base import CheckpointRef, Host
from ..images.files import read_image, write_png
from ..merge.files.model_locator import AS_RECORDED, ModelLocator
from ..merge.progress import Controls, Stopwatch
from ..recipe.chains import base_file
from ..workflows import images_of_merge, live_merge
from .cells import Cell, order_cells
from .estimate import Estimate, refuse_changed
from .run_files import RunFiles, new_run
from .run_record import CellRecord, CellState, PageRecord, RunRecord, SessionRecord

if TYPE_CHECKING:
    from PIL import Image

    from ..merge.live_merge import LiveMerge

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        done: Cells that are finished, including failed ones.
        total: All cells that this session makes.
        seconds_each: Mean time per cell, without the loading of models.
        seconds_left: Estimated time for the cells that are left.
    """

    done: int
    total: int
    seconds_each: float
    seconds_left: float


@dataclass(frozen=True)
class RunWatcher:
    """What a caller does while a run goes on.

    Attributes:
        on_begin: Called with the run's record before the first cell is made, when it is known which images exist.
        on_start: Called before each cell with the cell and its number among those that this session makes, from 1 on.
        on_cell: Called after each cell with the cell, its image (None if it failed), and the progress of the run.
        controls: Progress and stop of each merge.
    """

    on_begin: Callable[[RunRecord], None] = lambda _record: None
    on_start: Callable[[Cell, int], None] = lambda _cell, _number: None
    on_cell: Callable[[Cell, Image.Image | None, Progress], None] = lambda _cell, _image, _progress: None
    controls: Controls = field(default_factory=Controls)


class Run(Protocol):
    """Something made of many images: an XY plot, an element check."""

    @property
    def kind(self) -> str:
        """What a record calls it."""

    def rounds(self) -> Iterable[Sequence[Cell]]:
        """Compute the cells; each round is finished before the next begins.

        Raises:
            ElementalError: A cell cannot be computed; the message says which.
        """

    def labels(self, cell: Cell) -> Mapping[str, str]:
        """Say what a cell shows, for the record."""

    def to_dict(self) -> dict[str, Any]:
        """Give the definition of the run as plain data."""

    def finish(self, record: RunRecord) -> Sequence[Path]:
        """Draw the grids and whatever else is made of the images that exist; earlier ones are replaced.

        Returns:
            The files.

        Raises:
            ImageError: A file cannot be written.
        """


@dataclass(frozen=True)
class RunResult:
    """The result of one session of a run.

    Attributes:
        files: The names of the run's files.
        products: Grids and whatever else was made of the images.
        made: How many images this session made.
        failed: The error of each cell that failed, by the cell's name.
        waiting: How many cells are still to be made.
        seconds: Time spent in each stage of this session, and in the "whole" session.
        outside: The share of this session's time in which the host was not generating, in percent.
    """

    files: RunFiles
    products: tuple[Path, ...]
    made: int
    failed: Mapping[str, str]
    waiting: int
    seconds: Mapping[str, float]
    outside: float


def start_run(
    host: Host,
    run: Run,
    folder: Path,
    *,
    estimate: Estimate,
    watcher: RunWatcher | None = None,
    locator: ModelLocator = AS_RECORDED,
    options: Mapping[str, Any] | None = None,
    page: PageRecord | None = None,
) -> RunResult:
    """Make the images of a run, and the grids.

    Stop, and Ctrl-C while an image is made, end the run early: what is done is kept and drawn, and the result counts
    the cells that wait.

    Args:
        host: Makes the images.
        run: The plot or element check.
        folder: Where the files go; a run that is there already stays, and the names of this one's files are numbered.
        estimate: The estimate of this run.
        watcher: Follows the run.
        locator: Finds the models.
        options: What the caller needs to go on with the run, as plain data.
        page: What the record keeps of the page that the run is begun on; None for the command line.

    Raises:
        CheckpointError: A model has changed since the estimate.
        ElementalError: A cell cannot be computed; the message says which.
        ImageError: The folder cannot be written to, or images that are compared differ in size.
        HostError: The host's model could not be restored.
        KeyboardInterrupt: The user pressed Ctrl-C while no image was made; what is done is kept.
    """
    cells = {
        cell.name: CellRecord(run.labels(cell), cell.recipe.to_dict(), cell.request.to_dict())
        for cells_of_round in run.rounds()
        for cell in cells_of_round
    }
    with new_run(folder) as files:
        page = page or PageRecord()
        record = RunRecord(files, run.kind, run.to_dict(), dict(options or {}), estimate.models, cells, page.settings)
        record.note(page.notes)
        record.write()
    return continue_run(host, run, record, watcher=watcher, locator=locator, planning=estimate.seconds)


def continue_run(
    host: Host,
    run: Run,
    record: RunRecord,
    *,
    watcher: RunWatcher | None = None,
    locator: ModelLocator = AS_RECORDED,
    planning: float = 0.0,
) -> RunResult:
    """Go on with a run: make the images that do not exist, and draw all grids again.

    Args:
        host: Makes the images.
        run: The plot or element check, as it was begun.
        record: The record of the run.
        watcher: Follows the run.
        locator: Finds the models.
        planning: Seconds spent on the estimate, which count as part of this session.

    Raises:
        CheckpointError: A model has changed since the run began.
        ElementalError: A cell cannot be computed; the message says which.
        ImageError: The folder cannot be written to, or images that are compared differ in size.
        HostError: The host's model could not be restored.
        KeyboardInterrupt: The user pressed Ctrl-C while no image was made; what is done is kept.
    """
    refuse_changed(record.models)
    watch = Stopwatch()
    with watch("whole"):
        rounds = [[cell for cell in cells if not _is_made(record, cell)] for cells in run.rounds()]
        watcher = watcher or RunWatcher()
        watcher.on_begin(record)
        maker = _CellMaker(host, record, watcher, sum(map(len, rounds)))
        products, error = _make_rounds(maker, run, rounds, locator, watch)
    whole = {"planning": planning, "whole": watch.seconds["whole"] + planning}
    result = _result(record, maker.made, products, {**maker.watch.seconds, **watch.seconds, **whole})
    if result.made:
        record.sessions.append(SessionRecord(result.made, round(result.outside, 2), _rounded(result.seconds)))
    record.write()
    if error is not None:
        raise error
    return result


def _is_made(record: RunRecord, cell: Cell) -> bool:
    """Tell whether the image of a cell exists, and note it; the record may be older than the image."""
    noted = record.cells[cell.name]
    try:
        read_image(record.files.cell(cell.name))
    except ImageError:
        noted.state = CellState.WAITING
        return False
    noted.set_done()
    return True


def _result(record: RunRecord, made: int, products: tuple[Path, ...], seconds: dict[str, float]) -> RunResult:
    failed = {name: cell.error or "" for name, cell in record.cells.items() if cell.state is CellState.FAILED}
    outside = 100 * (1 - seconds.get("generating", 0.0) / seconds["whole"])
    return RunResult(record.files, products, made, failed, record.count(CellState.WAITING), seconds, outside)


def _make_rounds(
    maker: _CellMaker, run: Run, rounds: Iterable[Sequence[Cell]], locator: ModelLocator, watch: Stopwatch
) -> tuple[tuple[Path, ...], ElementalError | None]:
    """Make the cells of each round and draw what they give, until the run is stopped or cannot go on.

    Returns:
        The files that were drawn, and the error that ended the run.
    """
    products: Sequence[Path] = ()
    error: ElementalError | None = None
    for cells in rounds:
        try:
            _make_cells(maker, cells, locator)
        except (Stopped, KeyboardInterrupt):
            maker.stopped = True  # the cells that wait show it
        except ElementalError as exc:
            error = exc
        maker.record.write()
        with watch("drawing"):
            products = run.finish(maker.record)
        if maker.stopped or error is not None:
            break
    return tuple(products), error


def _make_cells(maker: _CellMaker, cells: Sequence[Cell], locator: ModelLocator) -> None:
    """Make images in the cheapest order; each live model is restored afterwards."""
    for source, group in groupby(order_cells(cells), key=lambda cell: base_file(cell.recipe.model_a)):
        with ExitStack() as stack:
            try:
                with maker.watch("loading"):
                    path = locator.locate(source)
                    live = maker.host.open_model(CheckpointRef(path.stem, path))
                merge = stack.enter_context(live_merge(live, locator))
            except Stopped:
                raise
            except Exception as exc:  # an error of one model must not cost the images of others
                for cell in group:
                    maker.fail(cell, exc)
                continue
            for cell in group:
                maker.make(merge, cell)


class _CellMaker:
    """Makes the cells of one session.

    Attributes:
        host: Makes the images.
        record: The record of the run.
        made: How many images were made.
        stopped: Whether the user asked to stop.
        watch: Time spent in each stage.
    """

    def __init__(self, host: Host, record: RunRecord, watcher: RunWatcher, total: int) -> None:
        self.host = host
        self.record = record
        self.made = 0
        self.stopped = False
        self.watch = Stopwatch()
        self._watcher = watcher
        self._total = total
        self._ended = 0
        self._seconds = 0.0

    def make(self, merge: LiveMerge, cell: Cell) -> None:
        """Make and save one image, or note why it failed."""
        watch = Stopwatch()
        self._watcher.on_start(cell, self._ended + 1)
        started = time.perf_counter()
        try:
            image = self._make_image(merge, cell, watch)
        except Stopped:
            raise
        except Exception as exc:  # any error of one cell must not cost the others
            _log.debug("%s failed", cell.name, exc_info=True)
            self.fail(cell, exc)
            return
        finally:
            self._seconds += time.perf_counter() - started
            self.watch.add(watch)
        self.made += 1
        self.record.cells[cell.name].set_done(_rounded(watch.seconds))
        self._end(cell, image)

    def _make_image(self, merge: LiveMerge, cell: Cell, watch: Stopwatch) -> Image.Image:
        refuse_changed(self.record.models)
        controls = self._watcher.controls
        (generated,) = images_of_merge(self.host, cell.request, merge, cell.recipe, controls=controls, watch=watch)
        with watch("saving"):
            write_png(self.record.files.cell(cell.name), generated, replace=True)
        return generated.image

    def fail(self, cell: Cell, error: Exception) -> None:
        """Note that a cell failed, unless the run is to stop, which may be why it failed."""
        if self._watcher.controls.should_stop():
            raise Stopped from error
        text = str(error) if isinstance(error, ElementalError) else f"{type(error).__name__}: {error}"
        self.record.cells[cell.name].set_failed(text)
        self._end(cell, None)

    def _end(self, cell: Cell, image: Image.Image | None) -> None:
        self._ended += 1
        with self.watch("saving"):
            self.record.write_sometimes()
        each = self._seconds / self._ended
        self._watcher.on_cell(cell, image, Progress(self._ended, self._total, each, each * (self._total - self._ended)))


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    return {stage: round(value, 5) for stage, value in seconds.items()}
