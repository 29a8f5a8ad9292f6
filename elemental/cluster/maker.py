"""Makes the images of a run on many workers: hands out cells, takes images, and goes on without lost workers."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

from ..errors import HostError, Stopped
from ..images.image_request import GeneratedImage
from ..merge.files.metadata import RECIPE_FIELD, recipe_as_json
from ..merge.files.open_models import OpenModels
from ..merge.models import all_models
from ..merge.progress import Stopwatch
from ..recipe.recipe import MergeRecipe
from ..runs.cells import Cell, order_cells
from ..runs.estimate import refuse_changed
from ..runs.image_maker import ImageMaker, Inbox
from .shares import Shares
from .worker import Outcome, WorkerFacts

_log = logging.getLogger(__name__)

_MOST_LOSSES = 2
"""A cell that has cost so many workers is not tried again."""


@dataclass(frozen=True)
class Lost:
    """A worker ended in the middle of its work.

    Attributes:
        reason: What is known of why.
        for_good: Whether it will not begin again.
    """

    reason: str
    for_good: bool


Event: TypeAlias = WorkerFacts | Outcome | Lost
"""What is heard of a worker: it has begun, or begun again; it has ended with a cell; it is lost."""


class Workers(Protocol):
    """The workers of a cluster; each makes one cell at a time."""

    @property
    def count(self) -> int:
        """How many there are; they have numbers from 0."""

    @property
    def facts(self) -> dict[int, WorkerFacts]:
        """What those that have begun said of themselves, by number."""

    def make(self, worker: int, cell: Cell) -> None:
        """Have a worker that waits make a cell."""

    def wait(self) -> Sequence[tuple[int, Event]]:
        """Wait a moment for news; gives what has come, which may be nothing."""


class ClusterMaker(ImageMaker):
    """Makes the images of cells on workers.

    Args:
        workers: The workers, of which at least one has begun.
        open_models: The models as this machine sees them; the texts in images are made from these.
    """

    def __init__(self, workers: Workers, open_models: OpenModels) -> None:
        self._workers = workers
        self._open_models = open_models
        self._idle = deque(workers.facts)
        self._gone: set[int] = set()
        self._devices = {number: facts.device for number, facts in workers.facts.items()}

    @property
    def at_once(self) -> int:
        """The number of workers."""
        return self._workers.count

    def make(self, cells: Sequence[Cell], inbox: Inbox) -> None:
        """Make the images of cells, in the order in which they are done.

        Raises:
            HostError: All workers are gone.
            Stopped: The inbox's controls asked for it; what is being made is lost.
        """
        round_ = _Round(Shares(order_cells(cells), self._workers.count), inbox)
        self._hand_out(round_)
        while round_.in_work or len(round_.shares):
            if inbox.controls.should_stop():
                raise Stopped
            if len(self._gone) == self._workers.count:
                raise HostError(f"All workers are gone. {round_.last_loss}".rstrip())
            news = self._workers.wait()
            done = [
                (cell, event, self._devices.get(worker))
                for worker, event in news
                if (cell := self._hear(worker, event, round_)) is not None and isinstance(event, Outcome)
            ]
            self._hand_out(round_)  # first: a worker need not wait until its image is written
            for cell, outcome, device in done:
                self._deliver(cell, outcome, device, inbox)

    def _hand_out(self, round_: _Round) -> None:
        for worker in list(self._idle):
            cell = round_.shares.next(worker)
            if cell is None:
                return
            self._idle.remove(worker)
            round_.in_work[worker] = cell
            round_.inbox.begin(cell)
            self._workers.make(worker, cell)

    def _hear(self, worker: int, event: Event, round_: _Round) -> Cell | None:
        """Note what is heard of a worker; gives the cell that it has ended with, if any."""
        if isinstance(event, WorkerFacts):
            self._welcome(worker, event)
            return None
        cell = round_.in_work.pop(worker, None)
        if isinstance(event, Outcome):
            self._idle.append(worker)
            return cell
        _log.warning("A worker was lost: %s", event.reason)
        if event.for_good:
            self._gone.add(worker)
        if cell is not None:
            round_.lose(worker, cell, event.reason)
        return None

    def _welcome(self, worker: int, facts: WorkerFacts) -> None:
        """Have a worker that has begun, or begun again, wait for cells; one that lacks something is not used."""
        self._devices[worker] = facts.device
        if facts.lacks:
            _log.warning("A worker is not used. %s", " ".join(facts.lacks))
            self._gone.add(worker)
        else:
            self._idle.append(worker)

    def _deliver(self, cell: Cell, outcome: Outcome, device: str | None, inbox: Inbox) -> None:
        seconds = dict(outcome.seconds)
        loading = Stopwatch()
        loading.seconds = {"loading": seconds.pop("loading", 0.0)}
        inbox.watch.add(loading)
        try:
            if outcome.generated is None or outcome.recipe is None:
                raise HostError(outcome.error)
            refuse_changed(inbox.models)
            generated = self._with_known_hashes(outcome.generated, outcome.recipe)
        except Exception as exc:  # an error of one cell must not cost the others
            inbox.fail(cell, exc, seconds)
        else:
            inbox.take(cell, generated, seconds, device)

    def _with_known_hashes(self, generated: GeneratedImage, recipe: MergeRecipe) -> GeneratedImage:
        """Write the recipe in an image with the hashes that this machine knows: each node may know others."""
        models = all_models(self._open_models.open(recipe), self._open_models.loras(recipe))
        return replace(generated, fields={**generated.fields, RECIPE_FIELD: recipe_as_json(recipe, models)})


class _Round:
    """The cells of one round: those to be begun, and those in work.

    Attributes:
        shares: The cells that are to be begun.
        inbox: Takes what becomes of them.
        in_work: The cell that each worker makes now.
        last_loss: Why the last worker was lost.
    """

    def __init__(self, shares: Shares, inbox: Inbox) -> None:
        self.shares = shares
        self.inbox = inbox
        self.in_work: dict[int, Cell] = {}
        self.last_loss = ""
        self._losses: Counter[str] = Counter()

    def lose(self, worker: int, cell: Cell, reason: str) -> None:
        """Put the cell of a lost worker back, unless it has cost others."""
        self.last_loss = reason
        self._losses[cell.name] += 1
        if self._losses[cell.name] < _MOST_LOSSES:
            self.shares.give_back(worker, cell)
        else:
            self.inbox.fail(cell, HostError(f"{_MOST_LOSSES} workers ended while they made it. {reason}"))
