"""The attack on busy hosts, with few requests: each is answered, and the model is the user's after it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from .attacks.busy import HOSTS, busy

pytestmark = pytest.mark.slow

LIMIT = 120.0
"""Seconds; a request that hangs does so for ever."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", HOSTS)
def test_each_request_is_answered_while_jobs_run(name: str, tmp_path: Path) -> None:
    with busy(name, tmp_path, seed=5, limit=LIMIT) as host:
        report = host.attack(iter([30]))
        assert not report.failures, "\n".join(report.failures)
    assert set(report.requests.values()) == {30}
    assert len(report.requests) >= 18
    assert report.compared > 100
    assert sum(report.jobs.values()) > 5


def test_a_request_that_hangs_is_told_with_all_stacks(tmp_path: Path) -> None:
    with busy("webui", tmp_path, seed=5, limit=0.5) as host:
        with host.rig.webui.lock:
            report = host.attack(iter([1]))
        (failure,) = report.failures
        assert failure.startswith("no answer in 0 s: ")
        assert "webui_standin.py" in failure
        host.limit = LIMIT
        assert host.wait_for_threads()
