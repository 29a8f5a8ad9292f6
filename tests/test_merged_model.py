"""The live model with the user's merge in it: merges follow one another, survive runs, and are taken out whole."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor

from elemental import CheckpointError, Controls, HostError, MergeRecipe, Stopped, model_source, parse_rules
from elemental.hosts.base import CheckpointRef
from elemental.images.image_request import ImageRequest
from elemental.session.merged_model import LiveState, MergedModel

from .fake_host import FakeHost, FakeModel

REQUEST = ImageRequest("a cat", steps=1, width=16, height=16)


def load(path: Path) -> Mapping[str, Sequence[Tensor]]:
    return {key: (tensor,) for key, tensor in load_file(path).items() if tensor.is_floating_point()}


ROOT = Path(__file__).parents[1]


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(load, output=tmp_path)


@pytest.fixture
def recipe(models: dict[str, Path]) -> MergeRecipe:
    return MergeRecipe(model_source(models["a"]), model_source(models["b"]), rules=parse_rules("OUT03:attn2:1"))


def opened(host: FakeHost, path: Path) -> FakeModel:
    return host.open_model(CheckpointRef(path.stem, path))


def test_a_merge_stays_until_it_is_restored(host: FakeHost, recipe: MergeRecipe, models: dict[str, Path]) -> None:
    before = opened(host, models["c"]).digest()
    merged_model = MergedModel(host)
    assert merged_model.live().kind is LiveState.FILE
    merged_model.merge(recipe)
    live = opened(host, models["a"])
    assert merged_model.live().kind is LiveState.ACTIVE
    assert merged_model.live().recipe == recipe
    assert "rules OUT03:attn2:1" in live.described["Elemental"]
    assert '"rules"' in live.described["elemental_recipe"]
    (image,) = merged_model.images(REQUEST)
    assert "elemental_recipe" in image.fields
    merged_model.restore()
    assert live.described == {}
    assert merged_model.live().kind is LiveState.FILE
    loaded = host.loaded()
    assert loaded is not None
    assert loaded.path == models["c"]  # what the user had before
    assert opened(host, models["c"]).digest() == before


def test_the_next_merge_writes_only_what_differs(host: FakeHost, recipe: MergeRecipe, models: dict[str, Path]) -> None:
    merged_model = MergedModel(host)
    merged_model.merge(recipe)
    live = opened(host, models["a"])
    first = len(live.moved[-1])
    merged_model.merge(replace(recipe, rules=parse_rules("OUT03:attn2:0.9")))
    assert len(live.moved) == 2
    assert len(live.moved[-1]) < first / 20
    merged_model.restore()
    assert live.digest() == FakeModel(None, load(models["a"])).digest()


def test_a_stopped_merge_leaves_the_model_unchanged(
    host: FakeHost, recipe: MergeRecipe, models: dict[str, Path]
) -> None:
    live = opened(host, models["a"])
    before = live.digest()
    merged_model = MergedModel(host)
    stop = Controls(should_stop=lambda: True)
    with pytest.raises(Stopped):
        merged_model.merge(recipe, controls=stop)
    assert (live.digest(), merged_model.live().kind) == (before, LiveState.FILE)
    merged_model.merge(recipe)
    merged = live.digest()
    with pytest.raises(Stopped):
        merged_model.merge(replace(recipe, alpha=0.1), controls=stop)
    assert (live.digest(), merged_model.live().recipe) == (merged, recipe)  # the first merge is back
    merged_model.restore()
    assert live.digest() == before


def test_a_merge_that_the_host_refuses_is_taken_out(
    host: FakeHost, recipe: MergeRecipe, models: dict[str, Path]
) -> None:
    live = opened(host, models["a"])
    before = live.digest()
    merged_model = MergedModel(host)
    merged_model.merge(recipe)
    live.refuses = frozenset({min(live.tensors())})
    with pytest.raises(HostError, match=r"refuses[\s\S]*could not be put back[\s\S]*Load the checkpoint again"):
        merged_model.merge(replace(recipe, alpha=0.1))
    live.refuses = frozenset()
    assert (live.digest(), merged_model.live().kind) == (before, LiveState.NOTHING)  # the host refused them
    merged_model.restore()
    assert merged_model.live().kind is LiveState.FILE
    assert opened(host, models["a"]) is not live
    merged_model.merge(recipe)  # and the next one works
    merged_model.restore()
    assert live.digest() == before


def test_models_that_cannot_be_merged_leave_the_live_model_alone(
    host: FakeHost, recipe: MergeRecipe, models: dict[str, Path], tmp_path: Path
) -> None:
    merged_model = MergedModel(host)
    merged_model.merge(recipe)
    live = opened(host, models["a"])
    merged = live.digest()
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(models["b"].read_bytes()[:1000])
    with pytest.raises(CheckpointError):
        merged_model.merge(replace(recipe, model_a=model_source(damaged)))
    assert opened(host, models["a"]) is live
    assert (live.digest(), merged_model.live().recipe) == (merged, recipe)


def test_a_file_that_was_replaced_is_seen(
    host: FakeHost, recipe: MergeRecipe, models: dict[str, Path], tmp_path: Path
) -> None:
    b = tmp_path / "b.safetensors"
    b.write_bytes(models["b"].read_bytes())
    changing = replace(recipe, model_b=model_source(b), alpha=1.0)
    merged_model = MergedModel(host)
    merged_model.merge(changing)
    first = opened(host, models["a"]).digest()
    other = tmp_path / "other"
    other.write_bytes(models["c"].read_bytes())
    other.replace(b)
    merged_model.merge(changing)
    assert opened(host, models["a"]).digest() != first


def test_a_merge_that_was_loaded_over_is_lost(host: FakeHost, recipe: MergeRecipe, models: dict[str, Path]) -> None:
    merged_model = MergedModel(host)
    merged_model.merge(recipe)
    live = opened(host, models["a"])
    live.is_replaced = True
    loaded_over = live.digest()
    assert merged_model.live().kind is LiveState.LOST
    with pytest.raises(HostError, match="lost"):
        merged_model.images(REQUEST)
    merged_model.restore()
    assert live.digest() == loaded_over  # what the user loaded is not written to
    assert merged_model.live().kind is LiveState.FILE


def test_loading_a_checkpoint_ends_the_merge(host: FakeHost, recipe: MergeRecipe, models: dict[str, Path]) -> None:
    live = opened(host, models["a"])
    before = live.digest()
    merged_model = MergedModel(host)
    merged_model.merge(recipe)
    assert live.digest() != before
    for call in host.load_calls:
        call()
    assert live.digest() == before
    assert merged_model.live().kind is LiveState.FILE


def test_after_a_run_the_merge_is_back_in_the_model(
    host: FakeHost, recipe: MergeRecipe, models: dict[str, Path]
) -> None:
    opened(host, models["c"])
    merged_model = MergedModel(host)
    merged_model.merge(recipe)
    merged = opened(host, models["a"]).digest()

    def run() -> None:
        with merged_model.suspended():
            opened(host, models["b"])
            raise HostError("the run failed")

    with pytest.raises(HostError, match="the run failed"):
        run()
    assert merged_model.live().recipe == recipe
    assert opened(host, models["a"]).digest() == merged
    merged_model.restore()
    loaded = host.loaded()
    assert loaded is not None
    assert loaded.path == models["c"]


def test_images_without_a_merge(host: FakeHost, models: dict[str, Path]) -> None:
    merged_model = MergedModel(host)
    with pytest.raises(HostError, match="No model is loaded"):
        merged_model.images(REQUEST)
    (image,) = merged_model.images(REQUEST, fallback=model_source(models["a"]))
    assert "Model: a" in image.infotext
    assert image.fields == {}


@pytest.mark.slow
def test_a_process_ends_with_a_merge_in_the_model(models: dict[str, Path], tmp_path: Path) -> None:
    script = f"""
from pathlib import Path
from safetensors.torch import load_file
from elemental import MergeRecipe, model_source
from tests.fake_host import FakeHost
from elemental.session.merged_model import MergedModel

host = FakeHost(lambda path: {{key: (value,) for key, value in load_file(path).items() if value.is_floating_point()}},
                output=Path({str(tmp_path)!r}))
merged_model = MergedModel(host)
merged_model.merge(MergeRecipe(model_source({str(models["a"])!r}), model_source({str(models["b"])!r})))
print("merged")
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, "merged\n"), ended.stderr
