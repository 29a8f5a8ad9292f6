"""A search in a folder: its record, the images of each round, and what is said of them; it can go on at any time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import ImageError, RecipeError
from ..hosts.base import Host
from ..merge.files.model_locator import AS_RECORDED, ModelLocator
from ..runs.axes.context import AxisContext
from ..runs.cells import place_name
from ..runs.estimate import Estimate, estimate_cells, refuse_changed
from ..runs.image_maker import ImageMaker
from ..runs.run_files import RunFiles, runs_in
from ..runs.run_record import CellState, PageRecord, RunRecord, read_record
from ..runs.runner import RunResult, RunWatcher, continue_run, start_run
from .replay import Origin, replay
from .round_run import RoundRun, words_of
from .search import Round
from .search_order import SearchOrder
from .search_record import Said, SaidPick, SaidRestart, SearchRecord, read_search
from .space import Space


@dataclass(frozen=True)
class PastRound:
    """A round that was judged.

    Attributes:
        number: Its number, from 1 on.
        said: What was said of it.
        values: The numbers of the best after it.
        labels: These in words.
        images: The images of the best after it, one for each request; None where there is none.
        score: Its score, if a score decided.
    """

    number: int
    said: Said
    values: tuple[float, ...]
    labels: tuple[str, ...]
    images: tuple[Path | None, ...]
    score: float | None = None

    @property
    def order(self) -> tuple[int, ...]:
        """The numbers that were picked, the best first; none where the search went on from a candidate."""
        return self.said.order if isinstance(self.said, SaidPick) else ()


class Search:
    """A search in a folder of its own.

    Whatever is said is written at once. The record alone decides which candidates a round has: the same picks propose
    the same ones, and their images are not made again. Images of rounds that were taken back stay; they are used
    only if the same candidates are proposed again.

    Args:
        record: Its record.
        space: What varies.
    """

    def __init__(self, record: SearchRecord, space: Space) -> None:
        self._record = record
        self._space = space
        self._found: dict[int, RunFiles] = {}
        self._rounds = replay(space, record.order.settings, record.said)

    @classmethod
    def begin(
        cls,
        folder: Path,
        order: SearchOrder,
        context: AxisContext,
        *,
        options: Mapping[str, Any] | None = None,
        page: PageRecord | None = None,
    ) -> Search:
        """Begin a search; its record is written, and no image is made yet.

        Args:
            folder: Where its files go.
            order: What it is made of.
            context: What the texts of the order are read against.
            options: What the caller needs to go on with it, as plain data.
            page: What the record keeps of the page that it is begun on.

        Raises:
            ElementalError: What varies cannot be read.
            ImageError: There is a search in the folder, or it cannot be written to.
        """
        record = SearchRecord(folder, order, (), dict(options or {}), page or PageRecord())
        search = cls(record, order.space(context))
        record.write_first()
        return search

    @classmethod
    def open(cls, folder: Path, context: AxisContext) -> Search:
        """Go on with the search in a folder.

        Args:
            folder: The folder.
            context: What the texts of its order are read against; :func:`.search_record.read_search` gives the order.

        Raises:
            ElementalError: There is no search, or its record cannot be read.
        """
        record = read_search(folder)
        return cls(record, record.order.space(context))

    @property
    def folder(self) -> Path:
        """The folder of the search."""
        return self._record.folder

    @property
    def order(self) -> SearchOrder:
        """What it is made of."""
        return self._record.order

    @property
    def space(self) -> Space:
        """What varies."""
        return self._space

    @property
    def options(self) -> Mapping[str, Any]:
        """What its caller needs to go on with it."""
        return self._record.options

    def keep(self, **options: Any) -> None:
        """Keep more of what its caller needs to go on with it.

        Args:
            **options: As plain data.

        Raises:
            ImageError: The record cannot be written.
        """
        record = replace(self._record, options={**self._record.options, **options})
        record.write()
        self._record = record

    @property
    def page(self) -> PageRecord:
        """What is kept of the page that it was begun on."""
        return self._record.page

    @property
    def round(self) -> Round:
        """The round that is to be judged."""
        return self._rounds[-1].round

    @property
    def past(self) -> tuple[PastRound, ...]:
        """The rounds that were judged."""
        return tuple(self._past(number) for number in range(1, len(self._rounds)))

    @property
    def is_complete(self) -> bool:
        """Whether each image of this round was made, or failed."""
        record = self._run_record(self.round.number)
        return record is not None and all(
            cell.state is CellState.FAILED or record.files.cell(name).is_file() for name, cell in record.cells.items()
        )

    @property
    def sheet(self) -> Path | None:
        """The grid of this round; None if it was not drawn yet."""
        files = self._files(self.round.number)
        path = None if files is None else files.grid(0, 1)
        return path if path is not None and path.is_file() else None

    @property
    def failed(self) -> Mapping[int, str]:
        """Why candidates of this round have no image, by their numbers."""
        record = self._run_record(self.round.number)
        cells = record.cells if record is not None else {}
        return {int(name[1:3]): cell.error or "" for name, cell in cells.items() if cell.state is CellState.FAILED}

    def images(self, number: int) -> tuple[Path | None, ...]:
        """Give the images of a candidate of this round, one for each request; None where there is none.

        Args:
            number: Its number; 0 is the best so far.

        Raises:
            RecipeError: There is no such candidate.
        """
        return self._images(self._rounds[-1].origin(number))

    def labels(self, number: int) -> tuple[str, ...]:
        """Give the numbers of a candidate of this round in words; 0 is the best so far.

        Raises:
            RecipeError: There is no such candidate.
        """
        return words_of(self._names, self._rounds[-1].candidate(number))

    def estimate(self, *, locator: ModelLocator = AS_RECORDED) -> Estimate:
        """Plan every merge of this round.

        Raises:
            ElementalError: A model is missing or does not fit.
        """
        run = self._run(self.round.number)
        cells = [cell for cells in run.rounds() for cell in cells]
        return estimate_cells(cells, self.order.recipe, run.describe, locator=locator)

    def make_images(
        self,
        maker: Host | ImageMaker,
        *,
        watcher: RunWatcher | None = None,
        locator: ModelLocator = AS_RECORDED,
    ) -> RunResult:
        """Make the images of this round that do not exist, and draw its sheet.

        Stop and Ctrl-C end it early, as in :func:`..runs.runner.start_run`: what is done is kept.

        Args:
            maker: Makes them: a host, or what makes them on many devices.
            watcher: Follows it.
            locator: Finds the models.

        Raises:
            CheckpointError: A model has changed since the search began.
            ImageError: The folder cannot be written to.
            HostError: The host's model could not be restored.
        """
        number = self.round.number
        run, record = self._run(number), self._run_record(number)
        if record is not None:
            return continue_run(maker, run, record, watcher=watcher, locator=locator)
        if (first := self._run_record(1)) is not None:
            refuse_changed(first.models)
        return start_run(
            maker,
            run,
            self._round_folder(number),
            estimate=self.estimate(locator=locator),
            watcher=watcher,
            locator=locator,
            options=self.options,
            page=self.page,
        )

    def pick(self, order: Sequence[int], *, scores: Mapping[int, float] | None = None) -> None:
        """Say which candidates of this round are best, and go on to the next round.

        Args:
            order: Their numbers, the best first; 0 is the best so far, and alone says that none is better.
            scores: By candidate, if a score decided.

        Raises:
            RecipeError: Nothing is picked, there is no such candidate, or it has not all of its images.
            ImageError: The record cannot be written.
        """
        for number in order:
            self._require_images(self.round.number, number)
        self._say(*self._record.said, SaidPick(tuple(order), dict(scores or {})))

    def restart(self, round_number: int, number: int, step: float) -> None:
        """Go on from a candidate of any round, with new candidates around it; this round ends without a pick.

        Args:
            round_number: The round, from 1 to this one.
            number: The candidate's number; 0 is the best so far of that round.
            step: The standard deviation of the new candidates, as a share of each number's range.

        Raises:
            RecipeError: There is no such candidate, it has not all of its images, or the step is out of its range.
            ImageError: The record cannot be written.
        """
        self._require_images(round_number, number)
        self._say(*self._record.said, SaidRestart(round_number, number, step))

    def undo(self) -> None:
        """Take back what was said last, and return to the round that it was said of.

        Raises:
            RecipeError: Nothing was said yet.
            ImageError: The record cannot be written.
        """
        if not self._record.said:
            raise RecipeError("There is nothing to take back: no round was judged yet.")
        self._say(*self._record.said[:-1])

    def write_results(self) -> list[Path]:
        """Write the best so far as an image, a recipe and a spec, and the table of rounds; earlier ones are replaced.

        Raises:
            ImageError: A file cannot be written.
        """
        from .search_results import write_results

        return write_results(self)

    def _say(self, *said: Said) -> None:
        rounds = replay(self._space, self.order.settings, said)
        record = replace(self._record, said=said)
        record.write()
        self._record, self._rounds = record, rounds
        self._found = {number: files for number, files in self._found.items() if number < len(rounds)}

    def _require_images(self, round_number: int, number: int) -> None:
        if not 1 <= round_number <= len(self._rounds):
            raise RecipeError(f"There is no round {round_number}; there are 1 to {len(self._rounds)}.")
        images = self._images(self._rounds[round_number - 1].origin(number))
        if None in images:
            which = f"Candidate {number} of round {round_number}"
            raise RecipeError(f"{which} has no image, or not all of them: make these first, or name another one.")

    def _images(self, origin: Origin) -> tuple[Path | None, ...]:
        paths = self._paths(origin)
        return tuple(path if path is not None and path.is_file() else None for path in paths)

    def _paths(self, origin: Origin) -> tuple[Path | None, ...]:
        """Give where the images of a candidate are, or will be; None where their run has not begun."""
        files = self._files(origin.round)
        rows = range(len(self.order.requests))
        return tuple(None if files is None else files.cell(place_name(origin.number, row)) for row in rows)

    def _run(self, number: int) -> RoundRun:
        proposed = self._rounds[number - 1]
        origin = proposed.best_is_from
        earlier = self._paths(origin) if origin.round < number else ()
        return RoundRun(self.order, proposed, self._names, earlier)

    def _files(self, number: int) -> RunFiles | None:
        """Find the run that makes the images of a round, among those of candidates that were taken back."""
        if number not in self._found:
            wanted = self._run(number).to_dict()
            for files in _runs_in(self._round_folder(number)):
                if read_record(files).definition == wanted:
                    self._found[number] = files
        return self._found.get(number)

    def _run_record(self, number: int) -> RunRecord | None:
        files = self._files(number)
        return None if files is None else read_record(files)

    def _round_folder(self, number: int) -> Path:
        return self.folder / f"round-{number:02}"

    @property
    def _names(self) -> tuple[str, ...]:
        return tuple(number.name for number in self._space.numbers)

    def _past(self, number: int) -> PastRound:
        said, after = self._record.said[number - 1], self._rounds[number]
        best = after.round.best
        score = said.scores.get(said.order[0]) if isinstance(said, SaidPick) else None
        labels, images = words_of(self._names, best), self._images(after.best_is_from)
        return PastRound(number, said, best.values, labels, images, score)


def _runs_in(folder: Path) -> Sequence[RunFiles]:
    try:
        return tuple(runs_in(folder).values())
    except OSError as exc:
        raise ImageError(f"Cannot read the folder {folder}: {exc.strerror or exc}.") from exc
