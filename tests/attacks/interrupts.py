"""Ctrl-C, twice and at any moment: what is raised between two steps of Python, wherever they are."""

from __future__ import annotations

import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from types import CodeType, FrameType
from typing import Any

import pytest

from elemental import ElementalError, live_merge
from elemental.merge import execute
from elemental.merge import live_merge as live_module
from elemental.merge.tensor_views import copy_piece
from elemental.session.merged_model import MergedModel

from .places import Place
from .scenes import recipes_of


def press(job: Callable[[], object], delays: Sequence[float]) -> int:
    """Do a job in the main thread, and press Ctrl-C some seconds after its start, and then after each press.

    Returns:
        How often it was pressed before the job had ended.
    """
    waiting, pressed = list(delays), 0

    def ring(_: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if _is_within(frame, run.__code__):
            pressed += 1
            if waiting:
                signal.setitimer(signal.ITIMER_REAL, waiting.pop(0))
            raise KeyboardInterrupt

    def run() -> None:
        job()

    before = signal.signal(signal.SIGALRM, ring)
    try:
        with _finalizers_heard_later():
            signal.setitimer(signal.ITIMER_REAL, waiting.pop(0))
            run()
    except KeyboardInterrupt:
        pass
    except Exception:  # C code that calls Python may make another error of an interrupt
        if not pressed:
            raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return pressed


@contextmanager
def _finalizers_heard_later() -> Iterator[None]:
    """Put off what Python reports of errors in finalizers, and leave out interrupts, which it only can report there.

    The report is code in Python, within the job: the second press would interrupt pytest's, and not the job.
    """
    report = sys.unraisablehook
    errors: list[Any] = []
    sys.unraisablehook = errors.append  # written in C: no signal is handled in it
    try:
        yield
    finally:
        sys.unraisablehook = report
        for error in errors:
            if not issubclass(error.exc_type, KeyboardInterrupt):
                report(error)
        errors.clear()


def _is_within(frame: FrameType | None, code: CodeType) -> bool:
    """Tell whether a frame is below a call of some code."""
    while frame is not None:
        frame = frame.f_back
        if frame is not None and frame.f_code is code:
            return True
    return False


@contextmanager
def with_threads(*, slow: float = 0.0) -> Iterator[None]:
    """Have small merges done by several threads, as large ones are, whose writes take some time."""
    write = copy_piece

    def write_slowly(*args: object) -> None:
        if threading.current_thread() is not threading.main_thread():
            time.sleep(slow)
        write(*args)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execute, "_THREAD_BYTES", 1)
        patch.setattr(live_module, "copy_piece", write_slowly)
        yield


def attack_with_interrupts(place: Place, rounds: int, draw: random.Random) -> tuple[dict[int, int], list[str]]:
    """Interrupt a live merge, and the merged model's, twice at random moments, and see that the model is back.

    Returns:
        In how many rounds Ctrl-C came so and so often in time, and what must not be.
    """
    counts: dict[int, int] = {0: 0, 1: 0, 2: 0}
    failures = []
    recipes = recipes_of(place)
    place.open("a")
    before = place.digest()

    def follow() -> None:
        with live_merge(place.open("a")) as merge:
            for recipe in recipes:
                merge.apply(recipe)

    def work(merged_model: MergedModel) -> None:
        for recipe in recipes:
            merged_model.merge(recipe)
        merged_model.restore()

    with with_threads(slow=0.002):
        started = time.perf_counter()
        follow()
        length = time.perf_counter() - started
        for number in range(rounds):
            merged_model = MergedModel(place.host)
            delays = draw.uniform(0.001, length), draw.choice([0.0001, 0.001, 0.01]) * draw.uniform(0.5, 1.5)
            pressed = press(follow if number % 2 else partial(work, merged_model), delays)
            counts[pressed] += 1
            if number % 2 == 0:
                with suppress(ElementalError):
                    merged_model.restore()
            time.sleep(0.005)  # for a thread that writes though it should not
            if place.digest() != before or not place.idle():
                failures.append(f"Ctrl-C in round {number}, after {delays}: the model is not what it was")
                place.reset()
                place.open("a")
            place.forget()
    if rounds and not counts[1] + counts[2]:
        failures.append("Ctrl-C never came in time")
    return counts, failures
