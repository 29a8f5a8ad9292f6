"""The list of where plots, checks and searches are made, in a browser: what it says counts for each press."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from elemental.merge.files.checkpoint import Checkpoint
from elemental.session.run_devices import RunDevices
from elemental.session.session import session_of

from .browser import Page
from .fake_cluster import FakeCluster
from .noise_tab import fresh_site, noise_tab, one_browser  # noqa: F401
from .serving import Site, served

pytest.importorskip("gradio")

pytestmark = pytest.mark.slow

HERE, ELSEWHERE = "this device (cpu)", "Ray: elsewhere"


def load(path: Any) -> dict[str, Any]:
    with Checkpoint(path) as file:
        tensors = {key: file.tensor(key).clone() for key in file.tensors}
    return {key: (tensor,) for key, tensor in tensors.items() if tensor.is_floating_point()}


@pytest.fixture(scope="module", name="served_site")
def site_with_a_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Serve the tab with a cluster beside its host."""
    devices = RunDevices("cpu", FakeCluster(load), cluster_first=True)
    with served(tmp_path_factory.mktemp("site"), noise=True, devices=devices) as site:
        yield site


@pytest.fixture
def cluster(site: Site) -> FakeCluster:
    found = session_of(site.host).devices.cluster
    assert isinstance(found, FakeCluster)
    found.asked.clear()
    return found


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """No time of another test's images is known."""
    monkeypatch.setenv("ELEMENTAL_CACHE", str(tmp_path / "cache"))


def test_each_press_takes_what_the_list_says(tab: Page, cluster: FakeCluster) -> None:
    assert tab.read("made_on") == ELSEWHERE
    tab.panel("XY plot")
    tab.choose("x_type", "alpha")
    tab.write("x_values", "0, 0.5")
    assert "2 images in" in tab.job("run_plot")
    tab.panel("Element check")
    tab.write("elements", "OUT03")
    assert "2 images in" in tab.job("run_check")
    assert cluster.asked == [None, None]
    tab.press("estimate_check")
    tab.wait(lambda: "About" in tab.text("check_answer"), "the time")
    tab.screenshot("devices")
    tab.choose("made_on", HERE)
    tab.wait(lambda: "About" not in tab.text("check_answer"), "the time of the other place to go away")
    tab.press("estimate_check")
    tab.wait(lambda: "not known" in tab.text("check_answer"), "no time that is known")
    tab.job("run_check")
    assert cluster.asked == [None, None]
