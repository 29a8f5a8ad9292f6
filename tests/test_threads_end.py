"""A thread that ends after its work holds nothing of it: what it freed at the process's exit would abort that."""

from __future__ import annotations

import gc
import threading
import weakref
from _thread import start_new_thread
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from elemental.merge.interrupts import Crew, raise_error_of, uninterrupted


class _Job:
    """Stands for what holds tensors; it may fail."""

    def __init__(self, fails: bool) -> None:
        self._fails = fails

    def work(self, _crew: Crew | None = None) -> None:
        if self._fails:
            raise ValueError


@pytest.fixture(autouse=True)
def lingering(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let no thread end before the test; until then each holds the function that it ran, as Python does."""
    end_of_test = threading.Event()

    def start_and_linger(function: Callable[..., None], arguments: tuple[()]) -> None:
        def run() -> None:
            function(*arguments)
            end_of_test.wait(60)

        start_new_thread(run, ())

    monkeypatch.setattr("elemental.merge.interrupts.start_new_thread", start_and_linger)
    yield
    end_of_test.set()


def _work_together(job: _Job, threads: int) -> None:
    crew = Crew(job.work)
    for _ in range(threads):
        crew.start()
    while threads and not crew.wait(0.1):
        pass
    uninterrupted(crew.close)
    crew.start()  # a thread that begins too late
    raise_error_of(crew)


def _work_uninterrupted(job: _Job, _threads: int) -> None:
    uninterrupted(job.work)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(
    ("work", "threads"), [(_work_together, 0), (_work_together, 1), (_work_together, 3), (_work_uninterrupted, 1)]
)
def test_threads_hold_nothing_of_work_that_has_ended(
    work: Callable[[_Job, int], None], threads: int, fails: bool
) -> None:
    job = _Job(fails)
    watched = weakref.ref(job)
    with suppress(ValueError):
        work(job, threads)
    del job
    gc.collect()
    assert watched() is None
