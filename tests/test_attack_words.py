"""The words by which attacks know a bug of the program, and a job that runs, are those that the program uses."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from elemental.cli import main as cli
from elemental.session.job_board import JobBoard
from elemental.session.jobs import Job

from .refusing import UNEXPECTED


def fail(*_: object) -> None:
    raise ZeroDivisionError("nobody expects this")


def test_a_bug_in_a_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("elemental.merge.files.checkpoint.Checkpoint.__init__", fail)
    assert cli.main(["inspect", str(tmp_path / "a.safetensors")]) == cli.FAILED
    assert UNEXPECTED.search(capsys.readouterr().err)


def test_a_bug_in_a_job(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "elemental")
    job: Job = JobBoard().start("a job", fail)
    while not (view := job.view).ended:
        job.wait(view.version, 5)
    assert UNEXPECTED.search(view.text)


@pytest.mark.slow
def test_a_bug_in_an_event_of_the_page_and_a_job_that_runs(caplog: pytest.LogCaptureFixture) -> None:
    gradio = pytest.importorskip("gradio")
    from elemental.ui import gradio_compat as compat
    from elemental.ui.results_panel import draw_message

    with pytest.raises(gradio.Error) as raised:
        compat._explained(fail, [], [])()
    assert UNEXPECTED.search(str(raised.value))
    assert "an event of the tab failed" in caplog.text
    assert "elemental-message running" in draw_message("running", "")
