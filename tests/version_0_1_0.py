"""What tests of version 0.1.0's files share: the home of its user, put somewhere else, and a host that takes notes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from elemental.hosts.base import NO_FIELDS, CheckpointRef
from elemental.images.image_request import GeneratedImage, ImageRequest

from .fake_host import FakeHost, FakeModel

DATA = Path(__file__).parent / "data" / "version_0_1_0"
EXPECTED: dict[str, Any] = json.loads((DATA / "expected.json").read_text(encoding="utf-8"))
"""What version 0.1.0 made of its files."""

PLOT, SECOND, KILLED, CHECK = "plot/run.json", "plot/run-2.json", "killed/run.json", "checks/a-b/diff/run.json"
TAB = next(name for name in EXPECTED["models"] if name.startswith("outputs/plots/"))
"""A plot that was begun in the tab."""

WEIGHTS = "0.5,0.25,0,1,0.75," * 5 + "0.5"


def load(path: Path) -> Mapping[str, Sequence[Tensor]]:
    return {key: (tensor,) for key, tensor in load_file(path).items() if tensor.is_floating_point()}


def digest(tensors: Mapping[str, Sequence[Tensor]]) -> str:
    found = hashlib.sha256()
    for key in sorted(tensors):
        for part in tensors[key]:
            found.update(part.contiguous().numpy().tobytes())
    return found.hexdigest()


class Watched(FakeHost):
    """Notes what is in the live model, and what is asked for, at each image."""

    def __init__(self, home: Path) -> None:
        super().__init__(load, output=home / "outputs", models=home / "models")
        self.made: list[tuple[str, ImageRequest]] = []
        self.devices: list[str] = []  # that the command line asked for
        self._opened: FakeModel | None = None

    def open_model(self, checkpoint: CheckpointRef) -> FakeModel:
        self._opened = super().open_model(checkpoint)
        return self._opened

    def make_images(
        self, request: ImageRequest, *, model: Mapping[str, str], fields: Mapping[str, str] = NO_FIELDS
    ) -> Sequence[GeneratedImage]:
        images = super().make_images(request, model=model, fields=fields)
        assert self._opened is not None
        self.made.append((digest(self._opened.tensors()), request))
        return images


@pytest.fixture(name="home")
def home_of_0_1_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a copy of the user's home in which version 0.1.0 worked, as the current folder."""
    home = tmp_path / "home"
    shutil.copytree(DATA / "home", home)
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.setenv("ELEMENTAL_CONFIG", str(home / "config"))
    monkeypatch.setenv("ELEMENTAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(home)
    for path in home.rglob("run*.json"):
        move_record(path)
    return home


def move_record(path: Path) -> None:
    """Put this home for the ``~`` of a record's absolute paths, and give the models the times that it knows."""
    data = json.loads(path.read_text(encoding="utf-8"))
    models = {Path(name).expanduser(): signature for name, signature in data["models"].items()}
    for model, (_, modified) in models.items():
        os.utime(model, ns=(modified, modified))
    data["models"] = {str(model): signature for model, signature in models.items()}
    if data["options"].get("models"):
        data["options"]["models"] = str(Path(data["options"]["models"]).expanduser())
    path.write_text(json.dumps(data, indent=1), encoding="utf-8")
