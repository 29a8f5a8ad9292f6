"""What a job is, and what pages show of it: it outlives the page that asked for it, and any page can show it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

from ..errors import ElementalError, Stopped
from .form import MergeForm

_log = logging.getLogger(__name__)


class JobState(Enum):
    """The state of a job."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True)
class JobView:
    """What the pages show of a job.

    Attributes:
        name: The name of the job.
        words: What it is about in a few words, for the list of those that wait.
        number: Tells it from all others.
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
        started: The start, in seconds since the epoch; until then, when it was asked for.
        took: How long it took, in seconds; 0 until it has ended.
        version: Grows with each change.
        headings: What each of the products is of, beside the name of its file, in their order; or none of them.
    """

    name: str
    words: str = ""
    number: int = 0
    state: JobState = JobState.RUNNING
    text: str = ""
    done: float = 0.0
    parts: bool = False
    steps: bool = False
    images: tuple[tuple[Path, str], ...] = ()
    products: tuple[Path, ...] = ()
    columns: int = 0
    table: str = ""
    details: str = ""
    form: MergeForm | None = None
    started: float = field(default_factory=time.time)
    took: float = 0.0
    version: int = 0
    headings: tuple[str, ...] = ()

    @property
    def ended(self) -> bool:
        """Whether the job has ended."""
        return self.state not in (JobState.WAITING, JobState.RUNNING)

    @property
    def has_images(self) -> bool:
        """Whether it has made images, or files of them."""
        return bool(self.images or self.products)

    @property
    def has_results(self) -> bool:
        """Whether there is anything of it to look at besides its text."""
        return bool(self.has_images or self.table or self.details)


class Job:
    """A merge, a save, a run: anything that takes long.

    Args:
        name: The name of the job.
        words: What it is about in a few words.
        number: Tells it from all others.

    Attributes:
        view: What the pages show of it now.
    """

    def __init__(self, name: str, words: str = "", number: int = 0) -> None:
        self.view = JobView(name, words, number)
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


def do(job: Job, work: Callable[[Job], None]) -> dict[str, Any]:
    """Do the work of a job.

    Args:
        job: The job.
        work: Does it; an error that it raises is an end like others.

    Returns:
        What is to be shown of its end, as :meth:`Job.show` takes it.
    """
    try:
        work(job)
        return {} if job.view.ended else {"state": JobState.DONE, "done": 1.0}
    except Stopped as exc:
        return {"state": JobState.STOPPED, "text": str(exc)}
    except ElementalError as exc:
        return {"state": JobState.FAILED, "text": str(exc)}
    except MemoryError:
        _log.exception("%s", job.view.name)
        return {"state": JobState.FAILED, "text": "Out of memory: ask for less, or close other programs."}
    except BaseException as exc:  # otherwise the user would not see it, and no other job could start
        _log.exception("%s", job.view.name)
        reason = f"{type(exc).__name__}: {exc}"
        return {"state": JobState.FAILED, "text": f"Unexpected error (a bug): {reason}\nThe console says where."}
