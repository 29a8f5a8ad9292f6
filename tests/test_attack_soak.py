"""The soak, with few rounds: nothing that is counted grows."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("it measures itself by /proc", allow_module_level=True)
pytest.importorskip("diffusers")
pytest.importorskip("gradio")

from elemental import MergeMode

from .attacks import soak

pytestmark = pytest.mark.slow

SUMS = [mode for mode in MergeMode if mode.record.weighted_sum]
"""Modes that hold a few pieces. Of what others hold for a moment, whole tensors, glibc keeps 10 to 40 MB when a thread
first needs it; in so few rounds that would look like growth."""


def test_files_threads_maps_and_tensors_do_not_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "EVERY", 6)
    monkeypatch.setattr(soak, "MOST_MB", 16)  # it gains up to 1 in so few rounds, up to 8 in twice as many
    monkeypatch.setattr(soak, "MOST_USED_MB", 1)  # it gains up to 0.1
    user, samples = soak.soak(tmp_path, 12, modes=SUMS)
    assert len(samples) == 2
    assert not soak.judge(samples)
    assert user.done["merge and image"] == 12
    assert len(user.done) == 6
    for name in (*soak.COUNTED, "anon", "used"):  # what is measured is there, and what is more would be seen
        assert getattr(samples[0], name) > 0 or name == "maps"
        more = getattr(samples[0], name) + (17 << 10)
        assert soak.judge([samples[0], replace(samples[1], **{name: more})])
