"""The attack on the reader of checkpoints, with few files."""

from __future__ import annotations

import sys

import pytest

if sys.platform != "linux":
    pytest.skip("the attack measures itself by /proc", allow_module_level=True)

from .attacks.checkpoint import attack

pytestmark = pytest.mark.slow


def test_mutated_files_are_refused_or_read_as_they_are() -> None:
    figures = attack(1500, seed=7)
    assert not figures.failures
    assert sum(figures.outcomes.values()) == 1500
    assert min(figures.outcomes["refused"], figures.outcomes["read"]) > 20  # the files are neither all good nor all bad
