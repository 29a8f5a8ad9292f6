"""Runs of many images: each recipe merged once, each image saved at once, and on from where a run stopped.

A run is killed at no point at which it could not go on: its record is written before the first image, each image
appears under its name when it is whole, and what exists is not made again.
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
from ..workflows import images_of_merge, live_merge
from .cells import Cell, order_cells
from .estimate import Estimate, refuse_changed
from .record import VERSION, RunFiles, RunRecord, new_run

if TYPE_CHECKING:
    from PIL import Image

    from ..merge.live import LiveMerge

_log = logging.getLogger(__name__)

DONE, FAILED, WAITING = "done", "failed", "waiting"
"""The states of a cell in a record."""


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        done: Cells that are finished, failed ones too.
        total: All cells.
        seconds_each: What a cell takes, without the loading of models.
        seconds_left: An estimate of what the others will take.
    """

    done: int
    total: int
    seconds_each: float
    seconds_left: float


@dataclass(frozen=True)
class RunWatcher:
    """What a caller does while a run goes on.

    Attributes:
        on_begin: Called with the run's record before the first cell, when it is known which of them exist.
        on_cell: Called after each cell with it, its image (None if it failed), and how far the run is.
        controls: Progress and stop of each merge.
    """

    on_begin: Callable[[RunRecord], None] = lambda _record: None
    on_cell: Callable[[Cell, Image.Image | None, Progress], None] = lambda _cell, _image, _progress: None
    controls: Controls = field(default_factory=Controls)


class Run(Protocol):
    """What is made of many images: a plot, a check."""

    @property
    def kind(self) -> str:
        """What it is called in a record."""

    def rounds(self) -> Iterable[Sequence[Cell]]:
        """Compute its images' recipes and requests; each round is finished before the next begins.

        Raises:
            ElementalError: One of them cannot be; the message says which.
        """

    def labels(self, cell: Cell) -> Mapping[str, str]:
        """Say what a cell shows, for the record."""

    def to_dict(self) -> dict[str, Any]:
        """Give it as plain data, from which it can be made again."""

    def finish(self, record: RunRecord) -> Sequence[Path]:
        """Draw what is drawn of the images that there are, and give the files; what was there before is replaced.

        Raises:
            ImageError: A file cannot be written.
        """


@dataclass(frozen=True)
class RunResult:
    """What came of a run.

    Attributes:
        files: Where it is.
        products: Grids and whatever else was made of the images.
        made: How many images were made now.
        failed: Each cell that failed, with its error.
        waiting: How many cells were not come to.
        seconds: Spent in each stage of this session, and as a "whole".
        outside: The share of this session's time that was not the host's generating, in percent.
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
) -> RunResult:
    """Make the images of a run, and what is drawn of them.

    Stop, and Ctrl-C while an image is made, end it early: what is done is kept and drawn, and the result tells of
    cells that wait.

    Args:
        host: What makes the images.
        run: What to make.
        folder: Where; a run that is there already stays, and this one's files are numbered.
        estimate: What was found before.
        watcher: Follows the run.
        locator: Finds the models.
        options: What else the caller wants to know when the run goes on, as plain data.

    Raises:
        CheckpointError: A model has changed since the estimate.
        ElementalError: A cell cannot be computed; the message says which.
        ImageError: The folder cannot be written to, or images that are compared differ in size.
        HostError: The host's model could not be restored.
        KeyboardInterrupt: The user pressed Ctrl-C while no image was made; what is done is kept.
    """
    cells = {
        cell.name: {
            **run.labels(cell),
            "state": WAITING,
            "recipe": cell.recipe.to_dict(),
            "request": cell.request.to_dict(),
        }
        for cells_of_round in run.rounds()
        for cell in cells_of_round
    }
    data = {
        "version": VERSION,
        "kind": run.kind,
        "definition": run.to_dict(),
        "options": dict(options or {}),
        "models": {path: list(signature) for path, signature in estimate.models.items()},
        "cells": cells,
    }
    with new_run(folder) as files:
        record = RunRecord(files, data)
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
    """Go on with a run: make the images that are not there, and draw everything anew.

    Args:
        host: What makes the images.
        run: As it was begun.
        record: Of the run.
        watcher: Follows the run.
        locator: Finds the models.
        planning: Seconds that were spent before, and are counted in.

    Raises:
        CheckpointError: A model has changed since the run began.
        ElementalError: A cell cannot be computed; the message says which.
        ImageError: The folder cannot be written to, or images that are compared differ in size.
        HostError: The host's model could not be restored.
        KeyboardInterrupt: The user pressed Ctrl-C while no image was made; what is done is kept.
    """
    refuse_changed(record.data["models"])
    watch = Stopwatch()
    error: Exception | None = None
    products: Sequence[Path] = ()
    with watch("whole"):
        rounds = [[cell for cell in cells if not _is_made(record, cell)] for cells in run.rounds()]
        watcher = watcher or RunWatcher()
        watcher.on_begin(record)
        maker = _CellMaker(host, record, watcher, sum(map(len, rounds)))
        for cells in rounds:
            try:
                _make_cells(maker, cells, locator)
            except (Stopped, KeyboardInterrupt):
                maker.stopped = True  # the cells that wait tell of it
            except ElementalError as exc:
                error = exc
            record.write()
            with watch("drawing"):
                products = run.finish(record)
            if maker.stopped or error is not None:
                break
    whole = {"planning": planning, "whole": watch.seconds["whole"] + planning}
    result = _result(record, maker, tuple(products), {**maker.watch.seconds, **watch.seconds, **whole})
    if maker.made:
        session = {"made": maker.made, "outside_generating_percent": round(result.outside, 2)}
        record.data.setdefault("sessions", []).append({**session, "seconds": _rounded(result.seconds)})
    record.write()
    if error is not None:
        raise error
    return result


def _is_made(record: RunRecord, cell: Cell) -> bool:
    """Tell whether there is the image of a cell, and note it; the note may be older than the image."""
    facts = record.cells[cell.name]
    try:
        read_image(record.files.cell(cell.name))
    except ImageError:
        facts["state"] = WAITING
        return False
    facts.update(state=DONE, error=None)
    return True


def _result(record: RunRecord, maker: _CellMaker, products: tuple[Path, ...], seconds: dict[str, float]) -> RunResult:
    states = [facts["state"] for facts in record.cells.values()]
    failed = {name: facts["error"] for name, facts in record.cells.items() if facts["state"] == FAILED}
    outside = 100 * (1 - seconds.get("generating", 0.0) / seconds["whole"])
    return RunResult(record.files, products, maker.made, failed, states.count(WAITING), seconds, outside)


def _make_cells(maker: _CellMaker, cells: Sequence[Cell], locator: ModelLocator) -> None:
    """Make images in the order that is cheapest; each live model is afterwards what it was."""
    for source, group in groupby(order_cells(cells), key=lambda cell: cell.recipe.model_a):
        with ExitStack() as stack:
            try:
                with maker.watch("loading"):
                    path = locator.locate(source)
                    live = maker.host.open_model(CheckpointRef(path.stem, path))
                merge = stack.enter_context(live_merge(live, locator))
            except Stopped:
                raise
            except Exception as exc:  # what befell this model is no reason to lose the images of others
                for cell in group:
                    maker.fail(cell, exc)
                continue
            for cell in group:
                maker.make(merge, cell)


class _CellMaker:
    """What the cells of a session have in common.

    Attributes:
        host: What makes the images.
        made: How many are made.
        stopped: Whether the user asked for it.
        watch: The seconds of each stage.
    """

    def __init__(self, host: Host, record: RunRecord, watcher: RunWatcher, total: int) -> None:
        self.host = host
        self.made = 0
        self.stopped = False
        self.watch = Stopwatch()
        self._record = record
        self._watcher = watcher
        self._total = total
        self._ended = 0
        self._seconds = 0.0

    def make(self, merge: LiveMerge, cell: Cell) -> None:
        """Make and save one image, or note why not."""
        watch = Stopwatch()
        started = time.perf_counter()
        try:
            (generated,) = images_of_merge(
                self.host, cell.request, merge, cell.recipe, controls=self._watcher.controls, watch=watch
            )
            with watch("saving"):
                write_png(self._record.files.cell(cell.name), generated, replace=True)
        except Stopped:
            raise
        except Exception as exc:  # one cell, whatever befell it, is no reason to lose the others
            _log.debug("%s failed", cell.name, exc_info=True)
            self.fail(cell, exc)
            return
        finally:
            self._seconds += time.perf_counter() - started
            self.watch.add(watch)
        self.made += 1
        self._end(cell, generated.image, {"state": DONE, "error": None, "seconds": _rounded(watch.seconds)})

    def fail(self, cell: Cell, error: Exception) -> None:
        """Note that a cell could not be made, unless the run is to stop, which may be what befell the cell."""
        if self._watcher.controls.should_stop():
            raise Stopped from error
        text = str(error) if isinstance(error, ElementalError) else f"{type(error).__name__}: {error}"
        self._end(cell, None, {"state": FAILED, "error": text})

    def _end(self, cell: Cell, image: Image.Image | None, facts: dict[str, Any]) -> None:
        self._ended += 1
        with self.watch("saving"):
            self._record.note(cell.name, facts)
        each = self._seconds / self._ended
        self._watcher.on_cell(cell, image, Progress(self._ended, self._total, each, each * (self._total - self._ended)))


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    return {stage: round(value, 5) for stage, value in seconds.items()}
