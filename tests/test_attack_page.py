"""The attack on the page served by itself, with few rounds: names of files, forged requests, other sites, a crowd."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from .attacks.page_client import Client, Watch, read_log
from .attacks.page_crowd import attack_with_crowd
from .attacks.page_forged import attack_forged
from .attacks.page_paths import attack_paths
from .attacks.page_site import RESOLVER, SITE, attack_from_site
from .browser import browser
from .serving import Apart

pytest.importorskip("diffusers")
pytest.importorskip("gradio")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="its traps are links and pipes"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apart]:
    with Apart(tmp_path_factory.mktemp("attacked"), noise=True) as started:
        yield started


@pytest.fixture(scope="module")
def client(server: Apart) -> Client:
    return Client(server.site.url)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser(RESOLVER) as started:
        yield started


@pytest.fixture
def watch(server: Apart) -> Iterator[Watch]:
    watch = Watch()
    yield watch
    read_log(server.log, watch)
    assert server.runs()
    assert watch.failures == []


def test_another_site_gets_and_does_nothing(server: Apart, client: Client, watch: Watch, chromium: Any) -> None:
    attack_from_site(server, client, watch, chromium, hosts=(SITE,))


def test_a_crowd_sees_its_own_and_leaves_nothing(server: Apart, client: Client, watch: Watch, chromium: Any) -> None:
    attack_with_crowd(server, client, watch, chromium, browsers=2, seconds=3, seed=1, pause=0.3)


def test_forged_requests_are_answered(server: Apart, client: Client, watch: Watch) -> None:
    attack_forged(server, client, watch, rounds=40, seed=1)


def test_names_of_files_lead_nowhere_else(server: Apart, client: Client, watch: Watch) -> None:
    attack_paths(server, client, watch, rounds=3, seed=1)
