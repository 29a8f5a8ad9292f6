"""Hands tasks out to the workers of a cluster, hears what became of them, and goes on without lost workers."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeAlias, TypeVar

from ..errors import HostError, Stopped
from .shares import Shares
from .worker import Outcome, Task, WorkerFacts

_log = logging.getLogger(__name__)

_MOST_LOSSES = 2
"""A task that has cost so many workers is not tried again."""


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
"""What is heard of a worker: it has begun, or begun again; it has ended with a task; it is lost."""


class Workers(Protocol):
    """The workers of a cluster; each does one task at a time."""

    @property
    def count(self) -> int:
        """How many there are; they have numbers from 0."""

    @property
    def facts(self) -> dict[int, WorkerFacts]:
        """What those that have begun said of themselves, by number."""

    @property
    def gone(self) -> set[int]:
        """Those that could not begin."""

    def make(self, worker: int, task: Task) -> None:
        """Have a worker that waits do a task."""

    def wait(self) -> Sequence[tuple[int, Event]]:
        """Wait a moment for news; gives what has come, which may be nothing."""


T = TypeVar("T", bound=Task)


class TaskInbox(ABC, Generic[T]):
    """Takes what becomes of tasks.

    Attributes:
        ended: Whether no more tasks are to be begun.
    """

    ended = False

    @abstractmethod
    def should_stop(self) -> bool:
        """Tell whether the user asked to stop."""

    @abstractmethod
    def begin(self, task: T) -> None:
        """Hear that a task is begun."""

    @abstractmethod
    def take(self, task: T, outcome: Outcome, device: str | None) -> None:
        """Take what became of a task, and the name of the device that it was done on."""

    @abstractmethod
    def give_up(self, task: T, error: HostError) -> None:
        """Hear why a task is not tried again."""


@dataclass(frozen=True)
class _Done(Generic[T]):
    task: T
    outcome: Outcome
    device: str | None


class Crew:
    """Workers, and what is known of each: whether it waits, has made something, or is gone.

    A device that cannot make anything, since it is too old or another program fills it, fails sooner than others are
    done, and would take over what these could make. So a worker that has made nothing yet, and fails, is set aside
    while there are others, one of which tries its task; if that one fails, too, it was not the worker's fault.

    Args:
        workers: The workers, of which at least one has begun.
    """

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._idle = deque(workers.facts)
        self._gone = set(workers.gone)
        self._proved: set[int] = set()  # they have made something
        self._aside: dict[int, Task] = {}  # and the task that each of them has failed in
        self._devices = {number: facts.device for number, facts in workers.facts.items()}

    @property
    def count(self) -> int:
        """The number of workers."""
        return self._workers.count

    def do(self, tasks: Sequence[T], inbox: TaskInbox[T]) -> None:
        """Have tasks done; what becomes of them comes in the order in which they are done.

        Args:
            tasks: The tasks, in the order that one worker would use: neighbours have most in common.
            inbox: Takes what becomes of them.

        Raises:
            HostError: All workers are gone.
            Stopped: The inbox asked for it; what is being done is lost.
        """
        round_ = _Round(Shares(tasks, self.count), inbox)
        self._hand_out(round_)
        while round_.is_on():
            if inbox.should_stop():
                raise Stopped
            if self._aside and not round_.in_work and not self._idle:
                self._take_back(*self._aside)  # nobody else is left
            if len(self._gone) == self.count:
                raise HostError(f"All workers are gone. {round_.last_loss}".rstrip())
            news = self._workers.wait()
            done = [heard for worker, event in news if (heard := self._hear(worker, event, round_)) is not None]
            self._hand_out(round_)  # first: a worker need not wait until its image is written
            for each in done:
                inbox.take(each.task, each.outcome, each.device)

    def _hand_out(self, round_: _Round[T]) -> None:
        for worker in list(self._idle):
            task = None if round_.inbox.ended else round_.shares.next(worker)
            if task is None:
                return
            self._idle.remove(worker)
            round_.in_work[worker] = task
            round_.inbox.begin(task)
            self._workers.make(worker, task)

    def _hear(self, worker: int, event: Event, round_: _Round[T]) -> _Done[T] | None:
        """Note what is heard of a worker; gives what it has done, if anything."""
        if isinstance(event, WorkerFacts):
            self._welcome(worker, event)
            return None
        task = round_.in_work.pop(worker, None)
        if isinstance(event, Outcome):
            if event.made is not None:
                self._proved.add(worker)
            elif task is not None and self._is_doubtful(worker, round_):
                _log.warning("Another worker tries %s: %s", task.name, event.error)
                self._aside[worker] = task
                round_.shares.give_back(worker, task)
                return None
            self._take_back(worker, *(number for number, tried in self._aside.items() if tried == task))
            return None if task is None else _Done(task, event, self._devices.get(worker))
        _log.warning("A worker was lost: %s", event.reason)
        if event.for_good:
            self._gone.add(worker)
        if task is not None:
            round_.lose(worker, task, event.reason)
        return None

    def _is_doubtful(self, worker: int, round_: _Round[T]) -> bool:
        """Tell whether a failure can be the worker's, and others may do better."""
        return worker not in self._proved and bool(self._proved - self._gone or round_.in_work)

    def _take_back(self, *workers: int) -> None:
        """Have workers wait for tasks."""
        for worker in workers:
            self._aside.pop(worker, None)
            self._idle.append(worker)

    def _welcome(self, worker: int, facts: WorkerFacts) -> None:
        """Have a worker that has begun, or begun again, wait for tasks; one that lacks something is not used."""
        self._devices[worker] = facts.device
        if facts.lacks:
            _log.warning("A worker is not used. %s", " ".join(facts.lacks))
            self._gone.add(worker)
        else:
            self._idle.append(worker)


class _Round(Generic[T]):
    """The tasks of one round: those to be begun, and those in work.

    Attributes:
        shares: The tasks that are to be begun.
        inbox: Takes what becomes of them.
        in_work: The task that each worker does now.
        last_loss: Why the last worker was lost.
    """

    def __init__(self, shares: Shares[T], inbox: TaskInbox[T]) -> None:
        self.shares = shares
        self.inbox = inbox
        self.in_work: dict[int, T] = {}
        self.last_loss = ""
        self._losses: Counter[T] = Counter()

    def is_on(self) -> bool:
        """Tell whether something is in work, or to be begun."""
        return bool(self.in_work) or (bool(len(self.shares)) and not self.inbox.ended)

    def lose(self, worker: int, task: T, reason: str) -> None:
        """Put the task of a lost worker back, unless it has cost others."""
        self.last_loss = reason
        self._losses[task] += 1
        if self._losses[task] < _MOST_LOSSES:
            self.shares.give_back(worker, task)
        else:
            self.inbox.give_up(task, HostError(f"{_MOST_LOSSES} workers ended while they made it. {reason}"))
