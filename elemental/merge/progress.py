"""Progress, stopping and timing of long jobs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Controls:
    """Callbacks for progress and stopping.

    Attributes:
        begin: Called with the size of the result in bytes before the work starts, in a live merge once a device; and
            with that of a model before numbers are measured in it. Once more where a merge is begun anew.
        stage: Called with the name of each stage but the first: "hashing", "flushing"; around a measuring "measuring",
            "merging".
        advance: Called in the caller's thread with the number of bytes finished since the last call.
        should_stop: Called often, from any thread; the job ends when it gives True.
    """

    begin: Callable[[int], None] = lambda _: None
    stage: Callable[[str], None] = lambda _: None
    advance: Callable[[int], None] = lambda _: None
    should_stop: Callable[[], bool] = lambda: False


class Stopwatch:
    """Measures the seconds of each stage of a job."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the time of a ``with`` block to a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._count(stage, time.perf_counter() - started)

    def add(self, other: Stopwatch) -> None:
        """Add the times of another stopwatch."""
        for stage, seconds in other.seconds.items():
            self._count(stage, seconds)

    def _count(self, stage: str, seconds: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
