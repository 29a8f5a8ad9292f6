"""Work that Ctrl-C must not cut short, and errors of other threads."""

from __future__ import annotations

import sys
import threading
from _thread import start_new_thread
from collections.abc import Callable
from typing import Protocol


def uninterrupted(job: Callable[[], None]) -> None:
    """Finish a job though the user presses Ctrl-C meanwhile; the interrupt is raised afterwards.

    Raises:
        KeyboardInterrupt: The user pressed Ctrl-C, and the job is done.
        Exception: Whatever the job raises, in place of an interrupt.
    """
    task: _Once | None = None
    interrupted = False
    while task is None or not task.ended:
        try:
            task = task or _Once(job)
            task.wait()
        except KeyboardInterrupt:
            interrupted = True
    raise_error_of(task)
    if interrupted:
        raise KeyboardInterrupt


class Worker(Protocol):
    """What is done in another thread than the one that waits for it.

    Attributes:
        error: What was raised there, and not yet here.
    """

    error: BaseException | None


def raise_error_of(worker: Worker) -> None:
    """Raise what was raised in another thread, if anything was; nobody holds it afterwards but who catches it."""
    error, worker.error = worker.error, None
    try:
        if error is not None:
            raise error
    finally:
        del error  # it holds this frame, which must not hold it


class _Once:
    """A job that is done once, by whichever thread comes to it first.

    An interrupt in the midst of what ``threading`` does in Python leaves its locks locked; what the waiting thread
    calls here is written in C, and is done or not done.
    """

    def __init__(self, job: Callable[[], None]) -> None:
        self.ended = False
        self.error: BaseException | None = None
        self._job = job
        self._begun, self._over = threading.Lock(), threading.Lock()
        self._over.acquire()

    def wait(self) -> None:
        """Have a thread do the job, which Ctrl-C does not reach, and wait for it; may be called again."""
        if sys.is_finalizing():  # threads cannot be started any more
            self._run()
            return
        try:
            # an interrupt may leave in doubt whether a thread was started: another one does no harm
            start_new_thread(self._run, ())
        except RuntimeError:  # the system has no thread left
            self._run()
        self._over.acquire()

    def _run(self) -> None:
        if not self._begun.acquire(blocking=False):
            return
        try:
            self._job()
        except BaseException as exc:  # raised again in the thread that waits
            self.error = exc
        finally:
            self.ended = True
            self._over.release()
