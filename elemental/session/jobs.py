"""One job at a time, in a thread beside the pages', which any number of them may follow, and none keeps alive."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

from ..errors import ElementalError, HostError, Stopped

_log = logging.getLogger(__name__)


class JobState(Enum):
    """How far a job is."""

    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True)
class JobView:
    """What can be seen of a job.

    Attributes:
        name: What it does, in some words.
        state: How far it is.
        text: What it does now, or what came of it.
        done: The part of it that is done, from 0 to 1.
        images: Files that it made, each with words about it.
        products: What was drawn of all of them: grids and charts.
        columns: How many of them belong into a row; 0 if that does not matter.
        table: Figures, as an HTML table.
        details: What else there is to read, as HTML.
        started: When, in seconds since the epoch.
        version: Counts what was changed.
    """

    name: str
    state: JobState = JobState.RUNNING
    text: str = ""
    done: float = 0.0
    images: tuple[tuple[Path, str], ...] = ()
    products: tuple[Path, ...] = ()
    columns: int = 0
    table: str = ""
    details: str = ""
    started: float = field(default_factory=time.time)
    version: int = 0

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.state is not JobState.RUNNING


class Job:
    """Something that takes its time.

    Args:
        name: What it does, in some words.

    Attributes:
        view: What can be seen of it now.
    """

    def __init__(self, name: str) -> None:
        self.view = JobView(name)
        self._changed = threading.Condition()
        self._stopped = threading.Event()

    def show(self, **parts: object) -> None:
        """Change what can be seen of the job; names and meanings are those of :class:`JobView`."""
        with self._changed:
            self.view = replace(self.view, **parts, version=self.view.version + 1)  # type: ignore[arg-type]
            self._changed.notify_all()

    def stop(self) -> None:
        """Ask the job to end."""
        self._stopped.set()

    def should_stop(self) -> bool:
        """Tell whether the job was asked to end."""
        return self._stopped.is_set()

    def wait(self, version: int, timeout: float) -> JobView:
        """Wait until there is more to see than a version, for some seconds at the most."""
        with self._changed:
            self._changed.wait_for(lambda: self.view.version > version, timeout)
            return self.view


class JobBoard:
    """Where the one job is that runs, or that ran last.

    Attributes:
        job: That job, if there was any.
    """

    def __init__(self) -> None:
        self.job: Job | None = None
        self._lock = threading.Lock()
        self._worker = _start_worker()

    def refuse_another(self) -> None:
        """Make sure that a job could begin now.

        Raises:
            HostError: Another one is running.
        """
        if self.job is not None and not self.job.view.ended:
            raise HostError(f'"{self.job.view.name}" is still running; wait for it, or stop it.')

    def start(self, name: str, work: Callable[[Job], None]) -> Job:
        """Begin a job.

        Args:
            name: What it does, in some words.
            work: Does it, in the thread of all jobs; what it raises is shown.

        Raises:
            HostError: Another one is running, or the system has no thread left.
        """
        with self._lock:
            self.refuse_another()
            before, job = self.job, Job(name)
            self.job = job  # before it begins, for it looks itself up here
            try:
                self._worker.submit(_run, job, work)
            except RuntimeError as exc:
                self.job, self._worker = before, _start_worker()  # the old one would do this job before its next
                raise HostError(f"No thread can be started for it: {exc}.") from exc
        return job


def _start_worker() -> ThreadPoolExecutor:
    """Prepare the thread of all jobs; the program does not end before its job does, which gives back the user's model.

    It is the same for each, since glibc gives each thread memory of its own: in other threads, the next model would be
    loaded elsewhere, and up to 64 MB where the last one was be neither used nor given back.
    """
    return ThreadPoolExecutor(1, thread_name_prefix="elemental")


def _run(job: Job, work: Callable[[Job], None]) -> None:
    try:
        work(job)
        if not job.view.ended:
            job.show(state=JobState.DONE, done=1.0)
    except Stopped as exc:
        job.show(state=JobState.STOPPED, text=str(exc))
    except ElementalError as exc:
        job.show(state=JobState.FAILED, text=str(exc))
    except MemoryError:
        _log.exception("%s", job.view.name)
        job.show(state=JobState.FAILED, text="Out of memory. Ask for less, or close other programs.")
    except BaseException as exc:  # nobody else would ever tell of it, and no other job could begin
        _log.exception("%s", job.view.name)
        reason = f"{type(exc).__name__}: {exc}"
        job.show(state=JobState.FAILED, text=f"Unexpected error (a bug): {reason}\nThe console says where.")
