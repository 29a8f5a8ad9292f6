"""Make the images of a run: each recipe is merged once, each image saved at once, and a stopped run can go on.

A run can go on wherever it was killed: its record is written before the first image, each image appears under its name
when it is whole, and what exists is not made again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import ElementalError, ImageError, Stopped
from ..hosts.base import Host
from ..images.files import read_image, write_png
from ..images.image_request import GeneratedImage
from ..merge.files.checkpoint import Signature
from ..merge.files.model_locator import AS_RECORDED, ModelLocator
from ..merge.progress import Controls, Stopwatch
from .cells import Cell
from .estimate import Estimate, refuse_changed
from .image_maker import ImageMaker, OneHost, describe_failure
from .run_files import RunFiles, new_run
from .run_record import CellRecord, CellState, PageRecord, RunRecord, SessionRecord

if TYPE_CHECKING:
    from PIL import Image

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        done: Cells that are finished, including failed ones.
        total: All cells that this session makes.
        seconds_each: Mean time per cell, without the loading of models, whatever is made at the same time.
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
        outside: The share of this session's time in which the host was not generating, in percent; of many devices,
            the mean.
    """

    files: RunFiles
    products: tuple[Path, ...]
    made: int
    failed: Mapping[str, str]
    waiting: int
    seconds: Mapping[str, float]
    outside: float


def start_run(
    host: Host | ImageMaker,
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
        host: Makes the images: a host, one after another, or what makes them on many devices.
        run: The plot or element check.
        folder: Where the files go; a run that is there already stays, and the names of this one's files are numbered.
        estimate: The estimate of this run.
        watcher: Follows the run.
        locator: Finds the models, for a host.
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
    host: Host | ImageMaker,
    run: Run,
    record: RunRecord,
    *,
    watcher: RunWatcher | None = None,
    locator: ModelLocator = AS_RECORDED,
    planning: float = 0.0,
) -> RunResult:
    """Go on with a run: make the images that do not exist, and draw all grids again.

    Args:
        host: Makes the images: a host, one after another, or what makes them on many devices.
        run: The plot or element check, as it was begun.
        record: The record of the run.
        watcher: Follows the run.
        locator: Finds the models, for a host.
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
        maker = host if isinstance(host, ImageMaker) else OneHost(host, locator)
        inbox = _RunInbox(record, watcher, sum(map(len, rounds)), maker.at_once)
        products, error = _make_rounds(maker, inbox, run, rounds, watch)
    whole = {"planning": planning, "whole": watch.seconds["whole"] + planning}
    result = _result(inbox, products, {**inbox.watch.seconds, **watch.seconds, **whole}, maker.at_once)
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


def _result(inbox: _RunInbox, products: tuple[Path, ...], seconds: dict[str, float], at_once: int) -> RunResult:
    record = inbox.record
    failed = {name: cell.error or "" for name, cell in record.cells.items() if cell.state is CellState.FAILED}
    outside = 100 * (1 - seconds.get("generating", 0.0) / (seconds["whole"] * at_once))
    return RunResult(record.files, products, inbox.made, failed, record.count(CellState.WAITING), seconds, outside)


def _make_rounds(
    maker: ImageMaker, inbox: _RunInbox, run: Run, rounds: Iterable[Sequence[Cell]], watch: Stopwatch
) -> tuple[tuple[Path, ...], ElementalError | None]:
    """Make the cells of each round and draw what they give, until the run is stopped or cannot go on.

    Returns:
        The files that were drawn, and the error that ended the run.
    """
    products: Sequence[Path] = ()
    error: ElementalError | None = None
    for cells in rounds:
        try:
            maker.make(cells, inbox)
        except (Stopped, KeyboardInterrupt):
            inbox.stopped = True  # the cells that wait show it
        except ElementalError as exc:
            error = exc
        inbox.record.write()
        with watch("drawing"):
            products = run.finish(inbox.record)
        if inbox.stopped or error is not None:
            break
    return tuple(products), error


class _RunInbox:
    """Takes the images and errors of one session.

    Attributes:
        record: The record of the run.
        made: How many images were made.
        stopped: Whether the user asked to stop.
        watch: Time spent in each stage.

    Args:
        record: The record of the run.
        watcher: Follows the run.
        total: How many cells this session makes.
        at_once: How many of them are made at the same time.
    """

    def __init__(self, record: RunRecord, watcher: RunWatcher, total: int, at_once: int) -> None:
        self.record = record
        self.made = 0
        self.stopped = False
        self.watch = Stopwatch()
        self._watcher = watcher
        self._total = total
        self._at_once = at_once
        self._begun = 0
        self._ended = 0
        self._seconds = 0.0

    @property
    def models(self) -> Mapping[str, Signature]:
        """What each model file looked like when the run began."""
        return self.record.models

    @property
    def controls(self) -> Controls:
        """Progress and stop."""
        return self._watcher.controls

    def begin(self, cell: Cell) -> None:
        """Tell the watcher that a cell is made now."""
        self._begun = max(self._begun, self._ended) + 1
        self._watcher.on_start(cell, min(self._begun, self._total))

    def take(
        self, cell: Cell, generated: GeneratedImage, seconds: Mapping[str, float], device: str | None = None
    ) -> None:
        """Save the image of a cell, or note why it cannot be saved."""
        watch = Stopwatch()
        watch.seconds.update(seconds)
        try:
            with watch("saving"):
                write_png(self.record.files.cell(cell.name), generated, replace=True)
        except Exception as exc:  # an error of one cell must not cost the others
            _log.debug("%s was not saved", cell.name, exc_info=True)
            self.fail(cell, exc, watch.seconds)
            return
        self.made += 1
        self.record.cells[cell.name].set_done(_rounded(watch.seconds), device)
        self._end(cell, generated.image, watch.seconds)

    def fail(self, cell: Cell, error: Exception, seconds: Mapping[str, float] | None = None) -> None:
        """Note that a cell failed, unless the run is to stop, which may be why it failed."""
        if self.controls.should_stop():
            raise Stopped from error
        self.record.cells[cell.name].set_failed(describe_failure(error))
        self._end(cell, None, seconds or {})

    def _end(self, cell: Cell, image: Image.Image | None, seconds: Mapping[str, float]) -> None:
        self._ended += 1
        self._seconds += sum(seconds.values())
        watch = Stopwatch()
        watch.seconds.update(seconds)
        self.watch.add(watch)
        with self.watch("saving"):
            self.record.write_sometimes()
        each, left = self._seconds / self._ended, self._total - self._ended
        progress = Progress(self._ended, self._total, each, each * left / max(1, min(self._at_once, left)))
        self._watcher.on_cell(cell, image, progress)


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    return {stage: round(value, 5) for stage, value in seconds.items()}
