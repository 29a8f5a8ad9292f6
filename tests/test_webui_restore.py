"""What is loaded after a merge, on a stand-in for each WebUI: the checkpoint that its user has chosen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from elemental import Stopped
from elemental.merge.progress import Controls
from elemental.session.merged_model import MergedModel

from .forge_standin import ForgeStandIn, NeoStandIn
from .reforge_standin import ReForgeStandIn
from .webui_standin import StandIn
from .webui_standin_fixtures import make_rig, webui_merged_model  # noqa: F401

pytestmark = pytest.mark.slow

OVERRIDE = {"sd_model_checkpoint": "b.safetensors"}


@pytest.fixture(name="rig", params=[StandIn, ReForgeStandIn, ForgeStandIn, NeoStandIn])
def any_rig(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: Mapping[str, Path]
) -> Iterator[Any]:
    """Give the port on a stand-in where a is chosen, and an image of b was just made by an overridden setting."""
    with make_rig(tmp_path, monkeypatch, models, kind=request.param) as rig:
        rig.webui.opts.data["sd_model_checkpoint"] = "a.safetensors"
        rig.webui.generate()
        rig.webui.generate(override_settings=dict(OVERRIDE))
        assert rig.host.loaded().path == rig.paths["b"]  # until the next image
        assert rig.host.selected().path == rig.paths["a"]
        yield rig


@pytest.mark.parametrize("model_a", ["a", "b", "c"])
def test_restore_does_not_load_what_a_request_had_asked_for(rig: Any, merged_model: MergedModel, model_a: str) -> None:
    with rig.host.job("merge", 1):
        merged_model.merge(rig.recipe("BASE:mlp:1", a=model_a, b="c" if model_a == "b" else "b"))
        before = len(rig.webui.loads)
        merged_model.restore()
    assert rig.host.loaded().path == rig.paths["a"]
    rig.webui.generate()
    assert [Path(path).stem for path in rig.webui.loads[before:]] == ([] if model_a == "a" else ["a"])


def test_nor_do_a_run_and_a_merge_that_was_stopped(rig: Any, merged_model: MergedModel) -> None:
    with rig.host.job("plot", 1), merged_model.suspended():
        rig.open("a")
    assert rig.host.loaded().path == rig.paths["a"]
    rig.webui.generate(override_settings=dict(OVERRIDE))
    with rig.host.job("merge", 1), pytest.raises(Stopped):
        merged_model.merge(rig.recipe(a="c"), controls=Controls(should_stop=lambda: True))
    assert rig.host.loaded().path == rig.paths["a"]
