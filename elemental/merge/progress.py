"""How the caller of a long job follows, times and ends it, and how a job is kept from being ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Controls:
    """Progress of a job, and its Stop button.

    Attributes:
        begin: Called with the bytes that a result will have, before the first of them is made; of a live merge once
            for each device that holds tensors.
        stage: Called with what is done after the merging itself, in a word: hashing, flushing.
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
