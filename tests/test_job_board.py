"""The queue: jobs that wait run in their order, can be moved and dropped, and go on when another one fails."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from elemental import HostError, MergeError, Stopped
from elemental.session.job_board import MOST_WAITING, JobBoard
from elemental.session.jobs import Job, JobState


class Held(JobBoard):
    """A board whose first job runs until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[str] = []
        self._gate = threading.Event()
        self.first = self.start("first", self._hold)

    def _hold(self, job: Job) -> None:
        while not self._gate.wait(0.01):
            if job.should_stop():
                raise Stopped("Stopped.")
        self.done.append("first")

    def put(self, name: str, error: Exception | None = None) -> Job:
        def work(job: Job) -> None:
            self.done.append(job.view.name)
            if error is not None:
                raise error

        return self.start(name, work)

    def let_go(self) -> None:
        self._gate.set()

    def finish(self) -> list[str]:
        """Let all jobs end, and give those that ran, in their order."""
        self.let_go()
        idle(self)
        return self.done


def idle(board: JobBoard) -> None:
    end = time.monotonic() + 60
    while board.busy:
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.fixture
def board() -> Iterator[Held]:
    made = Held()
    yield made
    made.drop_all()
    made.finish()


def names(board: JobBoard) -> list[str]:
    return [view.name for view in board.waiting()]


def test_jobs_wait_for_their_turn_and_run_in_order(board: Held) -> None:
    jobs = [board.put(name) for name in "abc"]
    assert [job.view.state for job in jobs] == [JobState.WAITING] * 3
    assert names(board) == ["a", "b", "c"]
    assert board.job is board.first
    assert board.finish() == ["first", "a", "b", "c"]
    assert board.job is jobs[-1]
    assert names(board) == []
    assert [view.name for view in board.ended()] == ["first", "a", "b"]
    starts = [job.view.started for job in (board.first, *jobs)]
    assert starts == sorted(starts)
    alone = board.put("alone")
    idle(board)
    assert (board.job, board.ended()) == (alone, [])


def test_waiting_jobs_are_moved(board: Held) -> None:
    a, b, c = (board.put(name).view.number for name in "abc")
    for number, places, expected in (
        (c, -1, "acb"), (c, -1, "cab"), (c, -1, "cab"), (a, 1, "cba"), (a, 1, "cba"), (b, -9, "bca"), (0, 1, "bca"),
    ):  # fmt: skip
        board.move(number, places)
        assert "".join(names(board)) == expected
    board.move(board.first.view.number, 1)
    assert board.finish() == ["first", "b", "c", "a"]


def test_waiting_jobs_are_dropped(board: Held) -> None:
    a, b, _ = (board.put(name) for name in "abc")
    assert board.drop(b.view.number)
    assert (b.view.state, b.view.text) == (JobState.STOPPED, "Dropped.")
    assert not board.drop(b.view.number)
    assert not board.drop(board.first.view.number)
    assert not board.drop(0)
    assert names(board) == ["a", "c"]
    board.drop_all()
    assert a.view.ended
    assert board.finish() == ["first"]


@pytest.mark.parametrize("error", [MergeError("no"), Stopped("no"), MemoryError(), ZeroDivisionError("no")])
def test_a_job_that_fails_does_not_end_the_queue(board: Held, error: Exception) -> None:
    failing, other = board.put("failing", error), board.put("other")
    assert board.finish() == ["first", "failing", "other"]
    assert failing.view.state is (JobState.STOPPED if isinstance(error, Stopped) else JobState.FAILED)
    assert other.view.state is JobState.DONE
    assert [view.state for view in board.ended()] == [JobState.DONE, failing.view.state]


def test_stop_ends_the_running_job_only_and_the_one_that_is_meant(board: Held) -> None:
    told: list[str] = []
    other = board.put("other")
    board.stop(other.view.number, lambda: told.append("other"))  # it does not run yet
    assert not other.should_stop()
    assert not board.first.should_stop()
    board.stop(board.first.view.number, lambda: told.append("first"))
    idle(board)
    assert (board.first.view.state, other.view.state) == (JobState.STOPPED, JobState.DONE)
    assert (board.done, told) == (["other"], ["first"])
    board.stop(0, lambda: told.append("nothing"))
    assert told == ["first"]


def test_the_queue_is_bounded(board: Held) -> None:
    jobs = [board.put(str(number)) for number in range(MOST_WAITING)]
    for refused in (board.refuse_many, lambda: board.put("one more")):
        with pytest.raises(HostError, match="20 jobs are waiting already"):
            refused()
    board.drop(jobs[0].view.number)
    board.refuse_many()
    board.put("one more")
    assert names(board)[-1] == "one more"


def test_the_same_twice_in_a_moment_is_one_job(board: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("elemental.session.job_board.time.monotonic", lambda: now[0])

    def ask(inputs: object) -> Job:
        now[0] += 0.5
        return board.start("merge", lambda _: board.done.append(str(inputs)), inputs=inputs)

    first = ask("x")
    assert ask("x") is first
    assert ask("x") is first  # a key that is held
    other = ask("y")
    assert other is not first
    assert ask("x") is not first  # it is asked for again, after another
    now[0] += 2
    again = ask("x")
    assert ask(None) is not ask(None)
    assert names(board) == ["merge"] * 6
    board.drop(again.view.number)
    monkeypatch.undo()
    assert board.finish() == ["first", "x", "y", "x", "None", "None"]


def test_the_same_is_done_again_once_it_has_ended() -> None:
    board, done = JobBoard(), []
    for _ in range(3):
        board.start("merge", lambda _: done.append("merge"), inputs="x")
        idle(board)
    assert len(done) == 3


def test_a_job_is_dropped_or_runs_but_never_both() -> None:
    board, ran = JobBoard(), set()

    def work(job: Job) -> None:
        ran.add(job.view.number)

    for _ in range(200):
        jobs = [board.start("it", work) for _ in range(3)]
        dropped = {job.view.number for job in jobs if board.drop(job.view.number)}
        idle(board)
        assert not dropped & ran
        assert all(job.view.state is JobState.STOPPED for job in jobs if job.view.number in dropped)
        assert {job.view.number for job in jobs} <= dropped | ran


def test_many_pages_at_once_lose_no_job() -> None:
    board, lock, done = JobBoard(), threading.Lock(), []

    def work(job: Job) -> None:
        with lock:
            done.append(job.view.number)

    asked: list[int] = []

    def page(act: Callable[[int, int], None]) -> None:
        for turn in range(60):
            try:
                number = board.start("it", work).view.number
            except HostError:
                continue
            act(number, turn % 5 - 2)
            with lock:
                asked.append(number)

    threads = [threading.Thread(target=page, args=(board.move,)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    idle(board)
    assert sorted(done) == sorted(asked)
    assert len(set(done)) == len(done)


_PROGRAM = """
import threading, time
from elemental.session.job_board import JobBoard
board, begun = JobBoard(), threading.Event()
def work(job):
    begun.set()
    time.sleep(0.3)
    print(job.view.name, flush=True)
jobs = [board.start(name, work) for name in ("running", "waiting", "another")]
begun.wait()
"""


def test_a_program_that_ends_waits_for_the_running_job_alone() -> None:
    ended = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    assert (ended.stdout.split(), ended.stderr) == (["running"], "")
