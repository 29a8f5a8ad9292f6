"""The port on the stand-in for the WebUI, ready for tests."""

from __future__ import annotations

import hashlib
import importlib
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from elemental import MergeRecipe, live_merge, model_source, parse_rules
from elemental.hosts.base import CheckpointRef
from elemental.images.image_request import GeneratedImage, ImageRequest
from elemental.session.merged_model import MergedModel

from .conftest import LAYOUTS, random_state, save
from .webui_standin import StandIn

_PORTS = tuple(f"elemental.hosts.{name}" for name in ("webui", "forge", "reforge"))
"""They import the host's modules."""

REQUEST = ImageRequest("a cat", seed=7, steps=2, cfg=4.0, width=64, height=64)


def mark(image: GeneratedImage) -> str:
    """Give what tells an image from others."""
    return hashlib.sha256(image.image.tobytes()).hexdigest()


@dataclass
class Rig:
    """The stand-in and the port on it.

    Attributes:
        webui: The stand-in.
        host: The port.
        hooks: The module that the WebUI calls.
        form: The txt2img tab as the form of the image.
        paths: The checkpoints.
        tab: What the txt2img tab says, as :func:`tab_values` gives it; None for the host's defaults.
    """

    webui: StandIn
    host: Any
    hooks: Any
    form: Any
    paths: Mapping[str, Path]
    tab: Sequence[Any] | None = None

    def job(self, name: str, images: int) -> Any:
        """Begin a job with what the txt2img tab says."""
        settings = None if self.tab is None else self.form.read(self.tab).settings
        return self.host.job(name, images, settings)

    def ref(self, name: str) -> CheckpointRef:
        return CheckpointRef(name, self.paths[name])

    def open(self, name: str = "a") -> Any:
        return self.host.open_model(self.ref(name))

    def recipe(self, rules: str = "", *, a: str = "a", b: str = "b", alpha: float = 0.5) -> MergeRecipe:
        return MergeRecipe(
            model_source(self.paths[a]), model_source(self.paths[b]), alpha=alpha, rules=parse_rules(rules)
        )

    def images(self, request: ImageRequest = REQUEST) -> list[str]:
        return [mark(image) for image in self.make(request)]

    def make(self, request: ImageRequest = REQUEST, model: Mapping[str, str] | None = None) -> Any:
        """Make images with what the txt2img tab says."""
        with self.job("images", request.batch):
            return self.host.make_images(request, model=model or {})


def _stub_gradio() -> Any:
    made: list[str] = []
    return SimpleNamespace(
        Blocks=lambda **_: nullcontext(made), HTML=made.append, Textbox=lambda text, **_: made.append(text)
    )


@pytest.fixture(name="rig")
def webui_rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: Mapping[str, Path]) -> Iterator[Rig]:
    """Give the port on a stand-in with three SD 1.x checkpoints, of which a is chosen and loaded."""
    with make_rig(tmp_path, monkeypatch, models) as rig:
        yield rig


@pytest.fixture(name="merged_model")
def webui_merged_model(rig: Rig) -> Iterator[MergedModel]:
    """Give the merged model of a port, which is restored after the test."""
    merged_model = MergedModel(rig.host)
    yield merged_model
    with rig.host.job("restore", 1):
        merged_model.restore()


def check_merge_shows_and_is_gone(rig: Rig) -> None:
    """Check that a merge shows in images while it is in the model, and that model and images are the same after it."""
    live, before = rig.open(), rig.webui.digest()
    (plain,) = rig.images()
    with live_merge(live) as merge:
        merge.apply(rig.recipe("IN03-OUT05:attn2:0.7,BASE:mlp:1"))
        assert rig.images() != [plain]
        assert merge.is_intact()
        assert rig.webui.digest() != before
    assert rig.webui.digest() == before
    assert rig.images() == [plain] == [rig.webui.generate().data]


class make_rig:  # noqa: N801 - a context manager
    """Put the stand-in's modules in place, and import the port on them; a second time in a folder, it is a restart.

    Args:
        folder: Holds the folder of checkpoints.
        monkeypatch: Puts the modules in place.
        models: The checkpoints, which are copied.
        prepare: Called with the stand-in before the port is imported.
        kind: The stand-in.
        loads: Whether it loads a model at once.
    """

    def __init__(
        self,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        models: Mapping[str, Path],
        prepare: Callable[[StandIn], None] = lambda _: None,
        kind: Callable[[Path], StandIn] = StandIn,
        loads: bool = True,
    ) -> None:
        self._kind, self._loads = kind, loads
        self._patch = monkeypatch
        self._prepare = prepare
        self._folder = folder / "models"
        self._models = models

    def __enter__(self) -> Rig:
        self._folder.mkdir(exist_ok=True)
        paths = {}
        for name, path in self._models.items():
            paths[name] = self._folder / path.name
            if not paths[name].exists():
                shutil.copy(path, paths[name])
        webui = self._kind(self._folder)
        self._prepare(webui)
        put_modules(webui, self._patch)
        hooks = importlib.import_module("elemental.hosts.webui.extension")
        forms: list[Any] = []
        hooks.register(lambda _host, form: forms.append(form), str)
        webui.fire("ui_tabs")
        webui.make_page()
        webui.scripts.scripts_txt2img.scripts = [hooks.ElementalScript()]
        if self._loads:
            webui.reload()
        self.rig = Rig(webui, hooks.webui_host(), hooks, forms[0], paths)
        return self.rig

    def __exit__(self, *_: object) -> None:
        _forget_port()
        assert self.rig.webui.lock.owner is None, "the queue lock was not released"


def put_modules(webui: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the modules of a stand-in in place; the port is imported anew after it."""
    for name, module in webui.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "gradio", _stub_gradio())
    _forget_port()


def _forget_port() -> None:
    for name in [name for name in sys.modules if name.startswith(_PORTS)]:
        del sys.modules[name]


def other_models(folder: Path, kind: str) -> dict[str, Path]:
    """Write two checkpoints of a kind."""
    folder.mkdir()
    return {
        name: save(folder / f"{name}.safetensors", random_state(LAYOUTS[kind], seed, torch.float16))
        for seed, name in enumerate("ab", 1)
    }
