"""How the caller of a long job follows it and ends it."""

from __future__ import annotations

from collections.abc import Callable
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
