"""How the caller of a long job follows, times and ends it, and how a job is kept from being ended."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Controls:
    """Progress of a job, and its Stop button.

    Attributes:
        begin: Called once with the bytes that the result will have, before the first of them is made.
        stage: Called with what is done now, in a word: merging, hashing, flushing.
        advance: Called from the calling thread with the bytes finished since the last call.
        should_stop: Asked often, from any thread.
    """

    begin: Callable[[int], None] = lambda _: None
    stage: Callable[[str], None] = lambda _: None
    advance: Callable[[int], None] = lambda _: None
    should_stop: Callable[[], bool] = lambda: False


class Stopwatch:
    """Seconds spent in each stage of a job."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Count the time of a ``with`` block for a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._count(stage, time.perf_counter() - started)

    def add(self, other: Stopwatch) -> None:
        """Count what another watch counted, too."""
        for stage, seconds in other.seconds.items():
            self._count(stage, seconds)

    def _count(self, stage: str, seconds: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds


def uninterrupted(job: Callable[[], None]) -> None:
    """Finish a job though the user presses Ctrl-C meanwhile; the interrupt is raised afterwards."""
    if sys.is_finalizing():  # threads cannot be started any more
        job()
        return
    errors: list[BaseException] = []

    def run() -> None:
        try:
            job()
        except BaseException as exc:  # raised again in the thread that waits
            errors.append(exc)

    thread = threading.Thread(target=run, name="uninterrupted")
    interrupted = started = False
    while True:
        try:
            if not started:
                started = True
                thread.start()
            thread.join()
            break
        except KeyboardInterrupt:
            interrupted = True
    if errors:
        raise errors[0]
    if interrupted:
        raise KeyboardInterrupt
