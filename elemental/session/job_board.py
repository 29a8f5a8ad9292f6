"""Runs jobs one after another in a thread apart from the pages; those that wait can be moved and dropped."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

from ..errors import HostError
from .jobs import Job, JobState, JobView, do

MOST_WAITING = 20
_ONE_PRESS = 1.0
"""Seconds within which the same, asked for again, is a second click or a key that is held, and not another wish."""

Work = Callable[[Job], None]


class _Turn(NamedTuple):
    job: Job
    work: Work


class _Asked(NamedTuple):
    """What was asked for last: the job, by what it is told from others, and when."""

    job: Job
    what: object
    at: float


class JobBoard:
    """Runs jobs, one at a time; a job that is asked for meanwhile waits for its turn.

    Attributes:
        job: The running job, or the last one; None if there was none yet.
    """

    def __init__(self) -> None:
        self.job: Job | None = None
        self._earlier: list[JobView] = []
        self._ended: list[JobView] = []
        self._waiting: list[_Turn] = []
        self._busy = False
        self._asked: _Asked | None = None
        self._numbers = itertools.count(time.time_ns() // 1000)  # larger than those of a server before
        self._lock = threading.Lock()
        self._worker = _start_worker()

    @property
    def busy(self) -> bool:
        """Whether a job runs; what is asked for now would wait."""
        return self._busy

    def refuse_many(self) -> None:
        """Make sure that another job can wait.

        Raises:
            HostError: As many wait as can.
        """
        if len(self._waiting) >= MOST_WAITING:
            raise HostError(f"{MOST_WAITING} jobs are waiting already. Drop some of them, or wait until one has ended.")

    def start(self, name: str, work: Work, *, words: str = "", inputs: object = None) -> Job:
        """Start a job, or have it wait until those before it have ended.

        Args:
            name: The name of the job.
            work: Does the work, in the thread of all jobs; an error that it raises is shown.
            words: What it is about in a few words.
            inputs: What it was asked with, compared by ``==``: the same twice in a moment is one job.

        Returns:
            The job, or the one that was asked for a moment ago with the same inputs and has not ended.

        Raises:
            HostError: Too many wait, or no thread can be started.
        """
        with self._lock:
            what = None if inputs is None else (name, inputs)
            job = self._asked_just_now(what)
            if job is None:
                self.refuse_many()
                job = Job(name, words, next(self._numbers))
                self._line_up(_Turn(job, work))
            self._asked = _Asked(job, what, time.monotonic())
        return job

    def _asked_just_now(self, what: object) -> Job | None:
        asked = self._asked
        if what is None or asked is None or asked.job.view.ended or asked.what != what:
            return None
        return asked.job if time.monotonic() - asked.at < _ONE_PRESS else None

    def _line_up(self, turn: _Turn) -> None:
        if self._busy:
            turn.job.show(state=JobState.WAITING)
            self._waiting.append(turn)
            return
        try:
            self._begin(turn)
        except RuntimeError as exc:
            self._worker = _start_worker()  # the old worker would still run this job
            raise HostError(f"No thread can be started for this job: {exc}.") from exc
        self._ended = []

    def _begin(self, turn: _Turn) -> None:
        """Have the worker do a job.

        Raises:
            RuntimeError: It cannot.
        """
        before, self.job = self.job, turn.job  # before it starts, because it finds itself here
        turn.job.show(state=JobState.RUNNING, started=time.time())
        try:
            self._worker.submit(self._do, turn)
        except RuntimeError:
            self.job = before
            raise
        self._busy = True
        if before is not None:
            self._earlier = _still_shown([*self._earlier, before.view])
            self._ended = [*self._ended, _without_results(before.view)][-MOST_WAITING:]

    def _do(self, turn: _Turn) -> None:
        job = turn.job
        end = do(job, turn.work)
        with self._lock:
            job.show(**end, took=time.time() - job.view.started)
            self._busy = False
            if self._waiting:
                self._begin_next()

    def _begin_next(self) -> None:
        turns = self._waiting
        try:
            self._begin(turns[0])
            self._waiting = turns[1:]
        except RuntimeError:  # the program ends, and waits for no job that has not begun
            self._waiting = []
            _drop(turns)

    def stop(self, number: int = 0, then: Callable[[], None] = lambda: None) -> None:
        """Ask the running job to stop; those that wait go on.

        Args:
            number: Of the job that is meant: another one may run by now. 0 for whichever runs.
            then: Called if it was asked, before another one can begin.
        """
        with self._lock:
            if self.job is not None and self._busy and number in (0, self.job.view.number):
                self.job.stop()
                then()

    def move(self, number: int, places: int) -> None:
        """Have a job wait so many places later, or earlier if it is less than 0; unless it does not wait any more."""
        with self._lock:
            at = self._find(number)
            if at is not None:
                turn = self._waiting.pop(at)
                self._waiting.insert(max(0, at + places), turn)

    def drop(self, number: int) -> bool:
        """Drop a job that waits, and tell whether it did."""
        with self._lock:
            at = self._find(number)
            if at is not None:
                _drop([self._waiting.pop(at)])
            return at is not None

    def drop_all(self) -> None:
        """Drop all jobs that wait."""
        with self._lock:
            dropped, self._waiting = self._waiting, []
            _drop(dropped)

    def _find(self, number: int) -> int | None:
        return next((at for at, turn in enumerate(self._waiting) if turn.job.view.number == number), None)

    def waiting(self) -> list[JobView]:
        """Give the jobs that wait, in their order."""
        with self._lock:
            return [turn.job.view for turn in self._waiting]

    def ended(self) -> list[JobView]:
        """Give those that have ended since nothing was running, but the job on the board; without what they made."""
        return list(self._ended)

    def latest_images(self) -> JobView | None:
        """Give what to show images of: the job on the board if it has any yet, or else the last that made some."""
        return next((view for view in self._views() if view.has_images), None)

    def latest_results(self) -> JobView | None:
        """Give what to show figures of, in the same way; those of an earlier job do not stand beside newer images."""
        return next((view for view in self._views() if view.has_results), None)

    def _views(self) -> list[JobView]:
        """Give what can be shown, the newest first."""
        return [*([] if self.job is None else [self.job.view]), *reversed(self._earlier)]

    def clear(self) -> None:
        """Forget the jobs that have ended, and what they have made."""
        self.job, self._earlier, self._ended, self._asked = None, [], [], None


def _drop(turns: list[_Turn]) -> None:
    for turn in turns:
        turn.job.show(state=JobState.STOPPED, text="Dropped.")


def _without_results(view: JobView) -> JobView:
    return replace(view, images=(), products=(), table="", details="", form=None)


def _still_shown(views: list[JobView]) -> list[JobView]:
    """Leave of some views, the oldest first, the last that has images, and the last that has anything."""
    images = [view for view in views if view.has_images][-1:]
    results = [view for view in views if view.has_results][-1:]  # the same one, or newer
    return images if images == results else [*images, *results]


def _start_worker() -> ThreadPoolExecutor:
    """Make the thread of all jobs; the program ends only after its running job, which restores the user's model.

    All jobs use the same thread, because glibc gives each thread its own heap: with another thread, the next model
    would be loaded into another heap, and up to 64 MB of the first would be neither used nor freed.
    """
    return ThreadPoolExecutor(1, thread_name_prefix="elemental")
