"""What the right side shows of jobs: images stay until a job makes others, and a run says which image is made."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from elemental.images.image_request import GeneratedImage, ImageRequest
from elemental.session import merge_jobs
from elemental.session import plot_and_check_jobs as run_jobs
from elemental.session.form import MergeForm
from elemental.session.job_board import JobBoard
from elemental.session.jobs import Job, JobView
from elemental.session.run_plans import CheckForm, PlotForm
from elemental.session.session import Session, session_of
from elemental.workflows import CONFIG_VARIABLE

from .demo_sessions import demo_pair  # noqa: F401
from .serving import make_host
from .test_jobs import ended as end

FORM = MergeForm("a.safetensors", "b.safetensors", spec="OUT09::2")
REQUEST = ImageRequest("a red circle on blue", seed=3, steps=2, cfg=4.0, width=64, height=64)


@pytest.fixture
def session(pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    """Give a session whose images are noise, which takes no time."""
    monkeypatch.setenv(CONFIG_VARIABLE, str(tmp_path / "config"))
    return session_of(make_host(pair, tmp_path / "out", noise=True))


def ended(job: Job) -> JobView:
    end(job)
    return job.view


def put(board: JobBoard, name: str, **parts: object) -> JobView:
    """Run a job that shows something."""
    return ended(board.start(name, lambda job: job.show(**parts)))


IMAGES = ((Path("0.png"), "seed 3"),)


def test_images_stay_until_a_job_makes_others() -> None:
    board = JobBoard()
    assert (board.latest_images(), board.latest_results()) == (None, None)
    first = put(board, "Generate", images=IMAGES)
    assert board.latest_images() == first
    for name in ("Save", "Restore", "Merge"):
        put(board, name, text="done")
    assert (board.latest_images(), board.latest_results()) == (first, first)
    second = put(board, "XY plot", products=(Path("grid.png"),))
    put(board, "Save")
    assert (board.latest_images(), board.latest_results()) == (second, second)


def test_figures_of_an_earlier_job_do_not_stand_beside_newer_images() -> None:
    board = JobBoard()
    check = put(board, "Element check", images=IMAGES, table="<table>")
    effects = put(board, "Effect map", table="<table>")
    put(board, "Merge")
    assert (board.latest_images(), board.latest_results()) == (check, effects)
    newer = put(board, "Generate", images=IMAGES)
    put(board, "Merge")
    assert (board.latest_images(), board.latest_results()) == (newer, newer)
    board.clear()
    assert (board.job, board.latest_images(), board.latest_results()) == (None, None, None)


@pytest.mark.slow
def test_a_run_says_which_image_is_made(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    make, said = session.host.make_images, []

    def note(request: ImageRequest, **options: Any) -> Sequence[GeneratedImage]:
        assert session.board.job is not None
        said.append(session.board.job.view.text)
        return make(request, **options)

    monkeypatch.setattr(session.host, "make_images", note)
    plot = PlotForm("alpha", "0, 1", "seed", "5, 6", compare=False)
    view = ended(run_jobs.run_plot(session, FORM, plot, REQUEST))
    assert said[0] == "image 1 of 4: alpha 0 / seed 5 ..."
    assert re.fullmatch(r"image 4 of 4: alpha 1 / seed 6 \.\.\.\n[\d.]+ s each, 0:\d\d left", said[3])
    assert [caption for _, caption in view.images][1] == "alpha 1 / seed 5; seed 5"


@pytest.mark.slow
def test_captions_say_what_an_image_shows(session: Session) -> None:
    made = ended(merge_jobs.merge(session, FORM, REQUEST, print_change=False))
    assert made.images[0][1] == "weight-sum of a, b; alpha 0.5; rules OUT09::2; seed 3"
    check = ended(run_jobs.run_check(session, FORM, CheckForm("OUT03, OUT04:attn1", 0.25), REQUEST))
    captions = [caption for _, caption in check.images]
    assert captions[0] == "without; seed 3"
    assert re.fullmatch(r"OUT03 at ratio 0\.25; changed [<\d. ]+ %, mean [\d.]+, SSIM [\d.]+; seed 3", captions[1])
    ended(merge_jobs.restore(session))
    assert ended(merge_jobs.generate(session, FORM, REQUEST)).images[0][1] == "a; seed 3"
