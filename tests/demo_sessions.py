"""Sessions of the standalone host with the demo's pair of models, ready for tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from elemental.demo.checkpoint_pair import copy_pair
from elemental.hosts.standalone.host import StandaloneHost
from elemental.session.session import Session, session_of
from elemental.workflows import CONFIG_VARIABLE


@pytest.fixture(scope="module", name="pair")
def demo_pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with the pair."""
    folder = tmp_path_factory.mktemp("pair")
    copy_pair(folder)
    return folder


@pytest.fixture(name="session")
def demo_session(pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    """Give a session whose images go to the test's own folder."""
    monkeypatch.setenv(CONFIG_VARIABLE, str(tmp_path / "config"))
    return session_of(StandaloneHost(models=pair, output=tmp_path / "out"))
