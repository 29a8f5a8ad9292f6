"""A thread that ends after its work holds nothing of it: what it freed at the process's exit would abort that."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from _thread import start_new_thread
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from elemental import MergeMode, merge_to_file
from elemental.merge.computation import _Memory
from elemental.merge.interrupts import Crew, Worker, raise_error_of, uninterrupted

from .conftest import LAYOUTS, random_state, save
from .refusing import inputs, recipe


class _Job:
    """Stands for what holds tensors; it may fail."""

    def __init__(self, fails: bool) -> None:
        self._fails = fails

    def work(self, _crew: Crew | None = None) -> None:
        if self._fails:
            raise ValueError


@pytest.fixture
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


@pytest.mark.usefixtures("lingering")
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


class _Witness:
    """Tells which thread frees it."""

    freed_by: ClassVar[list[int]] = []

    def __del__(self) -> None:
        self.freed_by.append(threading.get_ident())


class _Watched(_Memory):
    """The memory of a thread, with a witness in it."""

    def __init__(self) -> None:
        super().__init__()
        self.witness = _Witness()


@pytest.mark.parametrize("mode", ["weight-sum", "slerp"])
def test_threads_free_no_memory_that_they_computed_in(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait_and_raise(worker: Worker) -> None:
        time.sleep(0.2)  # by now the threads have ended, and the merge has not
        raise_error_of(worker)

    monkeypatch.setattr("elemental.merge.execute._THREAD_BYTES", 1)  # small models, too, are worth threads
    monkeypatch.setattr("elemental.merge.interrupts.raise_error_of", wait_and_raise)
    monkeypatch.setattr("elemental.merge.computation._Memory", _Watched)
    for number, path in enumerate(inputs(tmp_path)):
        save(path, random_state(LAYOUTS["sd1"], seed=number))
    _Witness.freed_by.clear()
    merged = replace(recipe(tmp_path), mode=MergeMode(mode), alpha=0.5)
    merge_to_file(merged, tmp_path / "out.safetensors", with_hashes=False)
    gc.collect()
    assert set(_Witness.freed_by) == {threading.get_ident()}
