"""Jobs, one at a time, and the history, which survives a damaged line."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from elemental import HostError, MergeError, Stopped
from elemental.session.history import MOST, History, HistoryEntry
from elemental.session.job_board import JobBoard
from elemental.session.jobs import Job, JobState


def ended(job: Job) -> JobState:
    view = job.view
    while not view.ended:
        view = job.wait(view.version, 5)
    return view.state


def test_a_job_and_its_view() -> None:
    board = JobBoard()

    def work(job: Job) -> None:
        job.show(text="begun", done=0.5)
        job.show(text="over")

    job = board.start("first", work)
    assert ended(job) is JobState.DONE
    assert (job.view.text, job.view.done) == ("over", 1.0)
    assert job.view.took > 0


@pytest.mark.parametrize(
    ("error", "state", "words"),
    [
        (Stopped("Stopped here."), JobState.STOPPED, "Stopped here."),
        (MergeError("cannot"), JobState.FAILED, "cannot"),
        (MemoryError(), JobState.FAILED, "Out of memory: ask for less"),
        (ZeroDivisionError("by zero"), JobState.FAILED, "Unexpected error (a bug): ZeroDivisionError: by zero"),
    ],
)
def test_errors_are_shown(error: Exception, state: JobState, words: str) -> None:
    def work(_: Job) -> None:
        raise error

    job = JobBoard().start("it", work)
    assert ended(job) is state
    assert words in job.view.text


def test_all_jobs_have_one_thread() -> None:
    board = JobBoard()
    threads: list[threading.Thread] = []
    for _ in range(3):
        assert ended(board.start("it", lambda _: threads.append(threading.current_thread()))) is JobState.DONE
    assert len(set(threads)) == 1
    assert not threads[0].daemon


def test_a_job_that_could_not_start_never_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    board, begun = JobBoard(), []

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(HostError, match="can't start new thread"):
            board.start("first", lambda _: begun.append("first"))
    assert board.job is None
    assert ended(board.start("second", lambda _: begun.append("second"))) is JobState.DONE
    assert begun == ["second"]


def entry(name: str) -> HistoryEntry:
    return HistoryEntry("merge", name, "Merged.", {"spec": "OUT03::1\nIN00::0.5"}, {"version": 1})


def test_history_survives_damaged_lines_and_two_writers(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "history.jsonl"
    assert History(path).entries() == []
    first, second = History(path), History(path)
    first.add(entry("one"))
    with path.open("ab") as file:
        file.write(b'{"kind": "merge", "na\n[1]\n\xff\xfe\n{"kind": 3}\n')
    second.add(entry("two"))
    assert [read.name for read in first.entries()] == ["two", "one"]
    newest = first.entries()[0]
    assert first.find(newest.number) == newest
    assert newest.form["spec"] == "OUT03::1\nIN00::0.5"
    assert first.find(1) is None


def test_the_history_is_trimmed_to_what_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    history = History(path)
    history.add(entry("first"))
    line = path.read_bytes()
    path.write_bytes(line * 3000)  # version 0.1.0 kept them all
    assert len(history.entries()) == MOST
    for name in ("one", "two"):
        history.add(entry(name))
    assert [read.name for read in history.entries()[:3]] == ["two", "one", "first"]
    assert len(path.read_bytes().splitlines()) == len(history.entries()) == MOST
    assert [kept.name for kept in tmp_path.iterdir()] == ["history.jsonl"]


def test_a_short_history_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    history = History(path)
    for name in ("one", "two"):
        history.add(entry(name))
    before = path.stat().st_ino
    path.write_bytes(path.read_bytes() + b"damaged\n")
    history.add(entry("three"))
    assert path.stat().st_ino == before
    assert path.read_bytes().count(b"\n") == 4


def test_a_history_of_large_entries_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    history = History(path)
    for number in range(6):
        history.add(HistoryEntry("merge", str(number), "x" * 2_000_000, {}, {}))
    assert path.stat().st_size < 8_100_000
    assert [read.name for read in history.entries()] == ["5", "4", "3"]


def test_writers_that_trim_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_bytes((json.dumps({"x": 1}) + "\n").encode() * MOST)

    def write(name: str) -> None:
        history = History(path)  # as other processes have them
        for number in range(20):
            history.add(entry(f"{name}{number}"))

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = {f"{name}{number}" for name in "abcd" for number in range(20)}
    assert {read.name for read in History(path).entries()} == expected


def test_a_history_that_cannot_be_written_raises_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    history = History(tmp_path / "file" / "history.jsonl")
    history.add(entry("one"))
    assert history.entries() == []
