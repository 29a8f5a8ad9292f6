"""Jobs: one at a time, in a thread apart from the pages; any page can show a job, and a job outlives its page."""

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
from .form import MergeForm

_log = logging.getLogger(__name__)


class JobState(Enum):
    """The state of a job."""

    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True)
class JobView:
    """What the pages show of a job.

    Attributes:
        name: The name of the job.
        state: The state of the job.
        text: What it is doing, or its result.
        done: The share that is done, from 0 to 1.
        parts: Whether it has parts that ``done`` counts; otherwise the steps of its image tell how far it is.
        steps: Whether its text is about an image that is being made, whose steps are told with it.
        images: The images so far: file and caption.
        products: Files made from all images: grids and charts.
        columns: How many images make a row; 0 for any number.
        table: Figures, as an HTML table.
        details: More to read, as HTML.
        form: What was found, as a form that the page can take over; None for all jobs that find none.
        started: The start, in seconds since the epoch.
        version: Grows with each change.
    """

    name: str
    state: JobState = JobState.RUNNING
    text: str = ""
    done: float = 0.0
    parts: bool = False
    steps: bool = True
    images: tuple[tuple[Path, str], ...] = ()
    products: tuple[Path, ...] = ()
    columns: int = 0
    table: str = ""
    details: str = ""
    form: MergeForm | None = None
    started: float = field(default_factory=time.time)
    version: int = 0

    @property
    def ended(self) -> bool:
        """Whether the job has ended."""
        return self.state is not JobState.RUNNING


class Job:
    """A merge, a save, a run: anything that takes long.

    Args:
        name: The name of the job.

    Attributes:
        view: What the pages show of it now.
    """

    def __init__(self, name: str) -> None:
        self.view = JobView(name)
        self._changed = threading.Condition()
        self._stopped = threading.Event()

    def show(self, **parts: object) -> None:
        """Change what the pages show of the job.

        Args:
            **parts: New values of the attributes of :class:`JobView`.
        """
        with self._changed:
            self.view = replace(self.view, **parts, version=self.view.version + 1)  # type: ignore[arg-type]
            self._changed.notify_all()

    def stop(self) -> None:
        """Ask the job to stop."""
        self._stopped.set()

    def should_stop(self) -> bool:
        """Tell whether the job was asked to stop."""
        return self._stopped.is_set()

    def wait(self, version: int, timeout: float) -> JobView:
        """Wait until the view is newer than a version, or until the timeout in seconds, and give the view."""
        with self._changed:
            self._changed.wait_for(lambda: self.view.version > version, timeout)
            return self.view


class JobBoard:
    """Runs jobs, one at a time.

    Attributes:
        job: The running job, or the last one; None if there was none yet.
    """

    def __init__(self) -> None:
        self.job: Job | None = None
        self._lock = threading.Lock()
        self._worker = _start_worker()

    def refuse_another(self) -> None:
        """Make sure that no job is running.

        Raises:
            HostError: A job is running.
        """
        if self.job is not None and not self.job.view.ended:
            raise HostError(f'"{self.job.view.name}" is still running; wait for it, or stop it.')

    def start(self, name: str, work: Callable[[Job], None]) -> Job:
        """Start a job.

        Args:
            name: The name of the job.
            work: Does the work, in the thread of all jobs; an error that it raises is shown.

        Raises:
            HostError: Another job is running, or no thread can be started.
        """
        with self._lock:
            self.refuse_another()
            before, job = self.job, Job(name)
            self.job = job  # before it starts, because it finds itself here
            try:
                self._worker.submit(_run, job, work)
            except RuntimeError as exc:
                self.job, self._worker = before, _start_worker()  # the old worker would still run this job
                raise HostError(f"No thread can be started for this job: {exc}.") from exc
        return job


def _start_worker() -> ThreadPoolExecutor:
    """Make the thread of all jobs; the program ends only after its running job, which restores the user's model.

    All jobs use the same thread, because glibc gives each thread its own heap: with another thread, the next model
    would be loaded into another heap, and up to 64 MB of the first would be neither used nor freed.
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
        job.show(state=JobState.FAILED, text="Out of memory: ask for less, or close other programs.")
    except BaseException as exc:  # otherwise the user would not see it, and no other job could start
        _log.exception("%s", job.view.name)
        reason = f"{type(exc).__name__}: {exc}"
        job.show(state=JobState.FAILED, text=f"Unexpected error (a bug): {reason}\nThe console says where.")
