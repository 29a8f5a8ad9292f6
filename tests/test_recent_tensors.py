"""Tensors that are kept for the next cell: read once, never more than there is room for, and not of a changed file."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from elemental import Checkpoint, CheckpointError
from elemental.merge import recent_tensors
from elemental.merge.recent_tensors import RecentTensors

KEYS = [f"model.diffusion_model.{name}" for name in ("out.2.weight", "out.2.bias", "time_embed.0.bias")]


def test_a_tensor_is_read_once(models: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    recent, reads = RecentTensors(), list[str]()
    with Checkpoint(models["a"]) as model:
        wanted = {key: model.tensor(key) for key in KEYS}

        def read(_: Checkpoint, key: str) -> torch.Tensor:
            reads.append(key)
            return wanted[key]

        monkeypatch.setattr(Checkpoint, "tensor", read)
        for _ in range(2):
            assert all(torch.equal(recent.data(model, key).tensor(), wanted[key]) for key in KEYS)
    assert reads == KEYS


def test_what_was_used_longest_ago_makes_room(models: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    recent = RecentTensors()
    with Checkpoint(models["a"]) as model:
        sizes = [recent.data(model, key).nbytes for key in KEYS]
        monkeypatch.setattr(recent_tensors, "MOST_BYTES", sum(sizes) - 1)
        first = recent.data(model, KEYS[0])
        recent.data(model, "model.diffusion_model.out.0.bias")
        assert recent.data(model, KEYS[0]) is first
        assert recent._nbytes <= sum(sizes) - 1


def test_a_file_that_was_written_to_is_refused(models: Mapping[str, Path], tmp_path: Path) -> None:
    path = Path(shutil.copy(models["a"], tmp_path))
    recent = RecentTensors()
    with Checkpoint(path) as model:
        recent.data(model, KEYS[0])
        path.write_bytes(b"something else")
        with pytest.raises(CheckpointError, match="changed"):
            recent.data(model, KEYS[0])
