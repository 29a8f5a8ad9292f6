"""Finish work in spite of Ctrl-C, and raise errors of other threads."""

from __future__ import annotations

import sys
import threading
from _thread import start_new_thread
from collections.abc import Callable
from typing import Protocol


def uninterrupted(job: Callable[[], None]) -> None:
    """Finish a job even if the user presses Ctrl-C; the interrupt is raised afterwards.

    Raises:
        KeyboardInterrupt: The user pressed Ctrl-C; the job is done.
        Exception: Whatever the job raises; it replaces an interrupt.
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
    """A job in another thread.

    Attributes:
        error: What the job raised, until it is raised again in the thread that waits.
    """

    error: BaseException | None


def raise_error_of(worker: Worker) -> None:
    """Raise the error of another thread, if there is one; no reference to it is kept."""
    error, worker.error = worker.error, None
    try:
        if error is not None:
            raise error
    finally:
        del error  # its traceback refers to this frame


class _Once:
    """A job that runs once, in the first thread that reaches it.

    An interrupt inside the Python code of ``threading`` can leave locks locked. So the waiting thread calls only
    functions written in C, which Ctrl-C does not interrupt halfway.
    """

    def __init__(self, job: Callable[[], None]) -> None:
        self.ended = False
        self.error: BaseException | None = None
        self._job = job
        self._started, self._finished = threading.Lock(), threading.Lock()
        self._finished.acquire()

    def wait(self) -> None:
        """Run the job in a thread, which Ctrl-C does not reach, and wait for it; can be called again."""
        if sys.is_finalizing():  # no threads can be started any more
            self._run()
            return
        try:
            # after an interrupt a thread may or may not have been started; a second one does no harm
            start_new_thread(self._run, ())
        except RuntimeError:  # the system has no more threads
            self._run()
        self._finished.acquire()

    def _run(self) -> None:
        if not self._started.acquire(blocking=False):
            return
        try:
            self._job()
        except BaseException as exc:  # raised again in the thread that waits
            self.error = exc
        finally:
            self.ended = True
            self._finished.release()
