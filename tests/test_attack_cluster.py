"""A short run of the attack on runs of a cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .attacks.cluster import NO_RAY

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs fork, and processes as Linux lists them")


@pytest.mark.slow
def test_short_attack(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    pytest.importorskip("ray", reason="runs on a cluster need Ray, which is not installed")
    command = [sys.executable, "-m", "tests.attacks.cluster", "--rounds", "2", "--nodes", "2", "--only", "short plot"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400, check=False)
    if done.returncode == NO_RAY:
        pytest.skip(done.stdout.strip().splitlines()[-1])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\nfailures: 0 " in done.stdout
