"""Plots, checks and rounds of searches whose images the page asks a cluster for: the same results, by the same jobs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from elemental.cli.cluster_option import RayCluster
from elemental.images.image_request import ImageRequest
from elemental.merge.files.hashes import CACHE_VARIABLE
from elemental.session import merge_jobs, search_jobs
from elemental.session import plot_and_check_jobs as run_jobs
from elemental.session.form import MergeForm
from elemental.session.jobs import JobState
from elemental.session.run_devices import RunDevices
from elemental.session.run_plans import CheckForm, PlotForm, plan_plot
from elemental.session.run_times import describe_time
from elemental.session.search_jobs import SearchForm
from elemental.session.session import Session, session_of
from elemental.workflows import CONFIG_VARIABLE

from .fake_cluster import FakeCluster
from .fake_host import FakeHost
from .plotting import ended, load, stopped_after_one

FORM = MergeForm("a.safetensors", "b.safetensors", spec="OUT03:attn2:1")
REQUEST = ImageRequest("a cat", seed=3, steps=1, width=16, height=16)
PLOT = PlotForm(x_type="alpha", x="0,0.5", y_type="seed", y="1,2")
SEARCH = SearchForm("OUT03:attn2:0-1\nOUT05:attn2\nalpha:0.25-0.75", candidates=4)


@pytest.fixture(autouse=True)
def own_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No time of another test's images is known."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setenv(CONFIG_VARIABLE, str(tmp_path / "config"))


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster(load)


@pytest.fixture
def make_session(models: Mapping[str, Path], tmp_path: Path, cluster: FakeCluster) -> Callable[..., Session]:
    def make(own: str = "cpu", folder: str = "out") -> Session:
        session = session_of(FakeHost(load, output=tmp_path / folder, models=models["a"].parent))
        session.devices = RunDevices(own, cluster)
        return session

    return make


@pytest.fixture
def session(make_session: Callable[..., Session]) -> Session:
    return make_session()


def images_of(folder: Path) -> dict[str, bytes]:
    """Read all images of a run or search by their places in its folder."""
    (run,) = (path for path in folder.iterdir() if path.is_dir())
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in run.rglob("*.png")}


def record_of(session: Session, pattern: str) -> dict[str, Any]:
    (path,) = session.host.output_folder().glob(pattern)
    found = json.loads(path.read_text())
    assert isinstance(found, dict)
    return found


def made_here(session: Session) -> int:
    host = session.host
    assert isinstance(host, FakeHost)
    return sum(text == "generating" for _, _, text in host.reports)


def test_a_plot_made_elsewhere_is_that_of_the_host(
    session: Session, make_session: Callable[..., Session], cluster: FakeCluster
) -> None:
    ended(merge_jobs.merge(session, FORM, None, print_change=False))
    merged = session.model.live()
    job = run_jobs.run_plot(session, FORM, PLOT, REQUEST, elsewhere=True)
    view = ended(job)
    assert re.match(r"4 images in [\d.]+ m?s\. Folder: \S+$", view.text)
    assert (view.columns, len(view.images), len(view.products)) == (2, 4, 1)
    assert (cluster.asked, cluster.at_work, made_here(session)) == ([None], 0, 0)
    assert {Path(path).name for path in cluster.models} == {"a.safetensors", "b.safetensors"}
    assert session.model.live() == merged
    assert session.history.entries()[0].result == view.text
    assert record_of(session, "plots/*/run.json")["options"] == {"device": "cuda"}
    other = make_session(folder="other")
    ended(run_jobs.run_plot(other, FORM, PLOT, REQUEST))
    assert record_of(other, "plots/*/run.json")["options"] == {"device": "cpu"}
    assert cluster.asked == [None]
    assert images_of(session.host.output_folder() / "plots") == images_of(other.host.output_folder() / "plots")


def test_a_check_made_elsewhere_is_ranked(session: Session) -> None:
    view = ended(run_jobs.run_check(session, FORM, CheckForm("OUT03, OUT04:attn1", 1.0), REQUEST, elsewhere=True))
    assert view.text.startswith("3 images in ")
    assert view.table.count("<tr data-gif") == 2
    assert made_here(session) == 0
    assert "Element check of 2 elements" in (session.previewer.look(FORM).table or "")


def test_what_is_done_until_workers_have_begun_is_said(session: Session, cluster: FakeCluster) -> None:
    texts: list[str] = []

    def look() -> None:
        assert session.board.job is not None
        texts.append(session.board.job.view.text)

    cluster.on_begin = look
    ended(run_jobs.run_plot(session, FORM, PLOT, replace(REQUEST, batch=2), elsewhere=True))
    ended(search_jobs.start(session, FORM, SEARCH, REQUEST, elsewhere=True))
    first, second = texts
    assert first.splitlines()[0] == "starting 2 workers ..."
    assert "the batch of 2 images is not used" in first
    assert second == "round 1: starting 2 workers ..."


def test_what_a_cluster_lacks_is_said_and_nothing_is_left_behind(session: Session, cluster: FakeCluster) -> None:
    cluster.fails = "node7: Cannot open a.safetensors.\nnode8: the same."
    assert ended(run_jobs.run_plot(session, FORM, PLOT, REQUEST, elsewhere=True), JobState.FAILED).text == cluster.fails
    assert not (session.host.output_folder() / "plots").exists()
    view = ended(search_jobs.start(session, FORM, SEARCH, REQUEST, elsewhere=True), JobState.FAILED)
    assert view.text == cluster.fails
    cluster.fails = ""
    shown = search_jobs.shown_search(session)
    assert shown is not None
    ended(search_jobs.act(session, f"go-on {shown.key} 1", elsewhere=True) or pytest.fail("nothing is to be made"))


def test_a_search_without_an_image_can_go_on_anywhere(session: Session, cluster: FakeCluster) -> None:
    cluster.on_begin = session.stop
    ended(search_jobs.start(session, FORM, SEARCH, REQUEST, elsewhere=True), JobState.STOPPED)
    shown = search_jobs.shown_search(session)
    assert shown is not None
    assert session.search is not None
    session.search.search.keep(device="cuda")  # as if all workers had been lost at once
    ended(search_jobs.act(session, f"go-on {shown.key} 1") or pytest.fail("nothing is to be made"))
    assert record_of(session, "searches/*/search.json")["options"] == {"device": "cpu"}


def test_stop_while_workers_begin(session: Session, cluster: FakeCluster) -> None:
    cluster.on_begin = session.stop
    view = ended(run_jobs.run_plot(session, FORM, PLOT, REQUEST, elsewhere=True), JobState.STOPPED)
    assert view.text == "Stopped while workers were starting."
    cluster.on_begin = lambda: None
    ended(run_jobs.run_plot(session, FORM, PLOT, REQUEST, elsewhere=True))


def stop_elsewhere(session: Session, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a plot made elsewhere, and stopped after its first image."""
    make = cluster.host.make_images

    def make_and_stop(*args: Any, **options: Any) -> Any:
        made = make(*args, **options)
        session.stop()
        return made

    with monkeypatch.context() as patch:
        patch.setattr(cluster.host, "make_images", make_and_stop)
        view = ended(run_jobs.run_plot(session, FORM, PLOT, REQUEST, elsewhere=True), JobState.STOPPED)
    assert view.text.endswith("Stopped; 3 images left to make. Resume continues.")


def test_a_run_goes_on_on_the_kind_of_device_that_it_began_on(
    session: Session, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_elsewhere(session, cluster, monkeypatch)
    view = ended(run_jobs.resume(session, ""), JobState.FAILED)
    assert view.text.startswith("This was begun on cuda; on cpu its images would not be the same.")
    assert made_here(session) == 0
    assert ended(run_jobs.resume(session, "", elsewhere=True)).text.startswith("3 images in ")
    assert cluster.asked == [None, "cuda"]


def test_a_run_of_a_gpu_goes_on_elsewhere_and_back(
    make_session: Callable[..., Session], cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = make_session("cuda:1")
    stop_elsewhere(session, cluster, monkeypatch)
    assert ended(run_jobs.resume(session, "")).text.startswith("3 images in ")
    with stopped_after_one(session):
        ended(run_jobs.run_plot(session, FORM, PLOT, REQUEST), JobState.STOPPED)
    ended(run_jobs.resume(session, "", elsewhere=True))
    assert cluster.asked == [None, "cuda"]


def test_workers_do_not_go_on_with_what_they_have_no_device_for(make_session: Callable[..., Session]) -> None:
    session = make_session("mps")
    with stopped_after_one(session):
        ended(run_jobs.run_plot(session, FORM, PLOT, REQUEST), JobState.STOPPED)
    view = ended(run_jobs.resume(session, "", elsewhere=True), JobState.FAILED)
    assert view.text.startswith("This was begun on mps; on workers its images would not be the same.")
    ended(run_jobs.resume(session, ""))


@pytest.mark.slow
def test_rounds_of_a_search_are_made_where_each_press_says(
    session: Session, make_session: Callable[..., Session], cluster: FakeCluster
) -> None:
    other = make_session(folder="other")
    for each, elsewhere in ((session, True), (other, False)):
        ended(search_jobs.start(each, FORM, SEARCH, REQUEST, elsewhere=elsewhere))
        shown = search_jobs.shown_search(each)
        assert shown is not None
        job = search_jobs.act(each, f"next {shown.key} 1 2", elsewhere=elsewhere)
        ended(job or pytest.fail("nothing is to be made"))
    found, expected = (images_of(each.host.output_folder() / "searches") for each in (session, other))
    assert found == expected
    assert (made_here(session), cluster.asked) == (0, [None, "cuda"])
    assert record_of(session, "searches/*/search.json")["options"] == {"device": "cuda"}
    assert record_of(other, "searches/*/search.json")["options"] == {"device": "cpu"}
    shown = search_jobs.shown_search(session)
    assert shown is not None
    job = search_jobs.act(session, f"none {shown.key} 2")
    assert ended(job or pytest.fail("nothing is to be made"), JobState.FAILED).text.startswith("This was begun on cuda")
    session.search = None
    (listed,) = search_jobs.searches(session)
    ended(search_jobs.go_on(session, listed, elsewhere=True) or pytest.fail("nothing is to be made"))
    assert search_jobs.shown_search(session) is not None


def test_times_of_one_place_say_nothing_of_the_other(session: Session) -> None:
    run, _ = plan_plot(session, FORM, PLOT, REQUEST)
    ended(run_jobs.run_plot(session, FORM, PLOT, REQUEST, elsewhere=True))
    assert describe_time(session, run, elsewhere=True).startswith("About ")
    assert describe_time(session, run).startswith("How long it takes is not known")
    ended(run_jobs.run_plot(session, FORM, PLOT, REQUEST))
    assert describe_time(session, run).startswith("About ")


def test_the_names_of_clusters() -> None:
    names = [RayCluster(on).name for on in ("ray", "ray:local", "ray:10.0.0.1:6379")]
    assert names == ["Ray", "Ray: this computer's devices", "Ray: 10.0.0.1:6379"]
