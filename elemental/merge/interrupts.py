"""Finish work in spite of Ctrl-C, work in several threads, and raise errors of other threads.

A thread counts as ended a moment before it has. So none of these holds a part of a job then: tensors that were freed by
a thread while the process exits would abort it.
"""

from __future__ import annotations

import sys
import threading
from _thread import start_new_thread
from collections.abc import Callable
from typing import Protocol

_POLL_SECONDS = 0.1


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
            del self._job  # see above
            self.ended = True
            self._finished.release()


class Crew:
    """Threads that do the same work, until one of them has no more to do, or fails.

    Args:
        work: What each thread does; it is given the crew, and looks at ``ended`` from time to time.

    Attributes:
        ended: Whether there is nothing more to do.
        error: What the first thread that failed raised.
    """

    def __init__(self, work: Callable[[Crew], None]) -> None:
        self.ended = False
        self.error: BaseException | None = None
        self._work: Callable[[Crew], None] | None = work
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._end_signal = threading.Lock()  # released when the work ends
        self._end_signal.acquire()
        self._active = 0

    def start(self) -> None:
        """Start one more thread."""
        start_new_thread(self._run, ())

    def wait(self, seconds: float) -> bool:
        """Wait up to some seconds, and tell whether the work has ended; threads may still do the last of it."""
        return self.ended or self._end_signal.acquire(timeout=seconds)

    def close(self) -> None:
        """End the work, and wait until no thread does any, nor holds a part of it."""
        self._end()
        with self._idle:
            self._idle.wait_for(lambda: not self._active)
            self._work = None

    def _run(self) -> None:
        with self._lock:
            if self.ended or self._work is None:
                return
            work = self._work
            self._active += 1
        error: BaseException | None = None
        try:
            work(self)
        except BaseException as exc:  # raised again in the thread that waits
            error = exc
        self._end(error)
        del work, error  # see above
        with self._idle:
            self._active -= 1
            self._idle.notify_all()

    def _end(self, error: BaseException | None = None) -> None:
        with self._lock:
            self.error = self.error or error
            if not self.ended:
                self.ended = True
                self._end_signal.release()


def work_together(work: Callable[[Crew], None], count: int, report: Callable[[], None]) -> None:
    """Work in several threads, and wait until all of them have ended, even after an error or interrupt.

    Args:
        work: What each thread does, as in :class:`Crew`.
        count: How many threads there are.
        report: Called from time to time in the caller's thread.

    Raises:
        Exception: What the first thread that failed raised.
    """
    crew = Crew(work)
    try:
        for _ in range(count):
            crew.start()
        while not crew.wait(_POLL_SECONDS):
            report()
    finally:  # after this nothing is written any more, so that a caller can safely undo the merge
        uninterrupted(crew.close)
    raise_error_of(crew)
