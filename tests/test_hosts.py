"""The contract of every host, and the standalone host."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from elemental import (
    CheckpointError,
    Controls,
    HostError,
    ImageError,
    MergeRecipe,
    Stopped,
    live_merge,
    make_images,
    merge_to_file,
    model_source,
    parse_rules,
)
from elemental.effects.samples import IMAGE, UNET, Pass
from elemental.hosts.base import CheckpointRef, Host
from elemental.images.files import free_names, read_texts, write_png
from elemental.images.image_request import ImageRequest
from elemental.merge.files.metadata import recipe_from_json
from elemental.session.merged_model import LiveState, MergedModel

from .conftest import DRAWABLE, random_state
from .fake_host import FakeHost
from .forge_standin import ForgeStandIn, NeoStandIn
from .reforge_standin import ReForgeStandIn
from .traced_images import pass_maker
from .webui_standin import StandIn
from .webui_standin_fixtures import make_rig
from .webui_standin_models import LORA

pytest.importorskip("diffusers")

from elemental.hosts.standalone import sampling
from elemental.hosts.standalone.host import StandaloneHost
from elemental.hosts.standalone.samplers import SAMPLERS

pytestmark = pytest.mark.slow

REQUEST = ImageRequest('a red circle, "on blue"', negative="blurred: all", seed=5, steps=2, width=64, height=64)


@dataclass
class Rig:
    """A host, and a way to press its Stop button.

    Attributes:
        host: The host.
        press_stop: Presses its Stop.
        webui: The stand-in that it runs in, if it runs in one.
    """

    host: Host
    press_stop: Callable[[], None]
    webui: Any = None


def load(path: Path) -> Mapping[str, Sequence[Tensor]]:
    return {key: (tensor,) for key, tensor in load_file(path).items() if tensor.is_floating_point()}


def fake_rig(folder: Path) -> Rig:
    host = FakeHost(load, output=folder)
    return Rig(host, lambda: setattr(host, "stopped", True))


def standalone_rig(folder: Path) -> Rig:
    pressed: list[bool] = []
    host = StandaloneHost(output=folder, should_stop=lambda: bool(pressed))
    return Rig(host, lambda: pressed.append(True))


STAND_INS = (StandIn, ReForgeStandIn, ForgeStandIn, NeoStandIn)


@pytest.fixture
def drawable(
    request: pytest.FixtureRequest, drawable: Mapping[str, Path], models: Mapping[str, Path]
) -> Mapping[str, Path]:
    """Give smaller checkpoints to hosts that draw noise."""
    spec = getattr(request.node, "callspec", None)
    return models if spec is not None and spec.params.get("rig") in STAND_INS else drawable


@pytest.fixture(params=[fake_rig, standalone_rig, *STAND_INS])
def rig(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawable: Mapping[str, Path]
) -> Iterator[Rig]:
    if request.param not in STAND_INS:
        yield request.param(tmp_path)
        return

    def find_models(webui: Any) -> None:
        webui.folders += [drawable["a"].parent, tmp_path]
        webui.list_models()
        webui.opts.data["sd_model_checkpoint"] = "a.safetensors"

    with make_rig(tmp_path, monkeypatch, {}, prepare=find_models, kind=request.param, loads=False) as made:
        press = lambda: setattr(made.webui, "on_step", lambda _: made.webui.state.interrupt())  # noqa: E731
        yield Rig(made.host, press, made.webui)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a host went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def ref(path: Path) -> CheckpointRef:
    return CheckpointRef(path.stem, path)


@pytest.fixture
def recipe(drawable: Mapping[str, Path]) -> MergeRecipe:
    rules = parse_rules("IN03-OUT05:attn2:0.7,BASE:mlp:1")
    return MergeRecipe(model_source(drawable["a"]), model_source(drawable["b"]), alpha=0.3, rules=rules)


def bytes_of(host: Host, request: ImageRequest = REQUEST) -> list[bytes]:
    return [image.image.tobytes() for image in host.make_images(request, model={"Model": "x"})]


def test_the_live_model_holds_the_file(rig: Rig, drawable: Mapping[str, Path]) -> None:
    model = rig.host.open_model(ref(drawable["a"]))
    assert model.checkpoint is not None
    assert model.checkpoint.path == drawable["a"]
    file = load_file(drawable["a"])
    tensors = model.tensors()
    assert {key for key in file if key.startswith("model.")} <= set(tensors) <= set(file)
    for key, parts in tensors.items():
        live = torch.cat([part.reshape(-1) for part in parts])
        assert torch.equal(live, file[key].reshape(-1).to(live.dtype)), key
    assert rig.host.open_model(ref(drawable["a"])) is model
    assert rig.host.open_model(ref(drawable["b"])) is not model


def test_the_same_request_gives_the_same_image(rig: Rig, drawable: Mapping[str, Path]) -> None:
    rig.host.open_model(ref(drawable["a"]))
    first = bytes_of(rig.host)
    assert bytes_of(rig.host) == first
    assert bytes_of(rig.host, replace(REQUEST, seed=6)) != first
    if rig.webui is None:  # stand-ins draw by the weights alone
        assert bytes_of(rig.host, replace(REQUEST, prompt="a green star")) != first
    images = rig.host.make_images(replace(REQUEST, batch=2, height=72), model={})
    assert [(image.seed, image.image.size) for image in images] == [(5, (64, 72)), (6, (64, 72))]


def test_a_traced_image_is_the_hosts_and_its_gradients_change_nothing(rig: Rig, drawable: Mapping[str, Path]) -> None:
    for host_or_stand_in, switch in ((rig.host, "differentiates"), (rig.webui, "computes")):
        if hasattr(host_or_stand_in, switch):
            setattr(host_or_stand_in, switch, True)
    live = rig.host.open_model(ref(drawable["a"]))
    plain = bytes_of(rig.host)
    before = {key: [part.clone() for part in parts] for key, parts in live.tensors().items()}
    with rig.host.job("effects", 1):
        differentiator = rig.host.differentiator()
        assert differentiator is not None
        networks = differentiator.networks()
        parameters = [parameter for network in networks for parameter in network.parameters()]
        required = [parameter.requires_grad for parameter in parameters]
        passes = pass_maker(drawable, networks, live.tensors(), lambda: False)
        trace = differentiator.trace(REQUEST, model={"Model": "x"})
        assert trace.image.image.tobytes() == plain[0]
        assert trace.steps >= 1
        sample = passes.sample(trace, Pass(0, 0, IMAGE if trace.whole else UNET))
    assert sample.isfinite().all()
    assert sample.count_nonzero() > 0
    assert [each.requires_grad for each in parameters] == required
    assert all(each.grad is None for each in parameters)
    assert all(torch.equal(p, q) for key, now in live.tensors().items() for p, q in zip(now, before[key], strict=True))
    assert bytes_of(rig.host) == plain


def test_a_merge_shows_in_images_and_is_gone_afterwards(
    rig: Rig, recipe: MergeRecipe, drawable: Mapping[str, Path]
) -> None:
    model = rig.host.open_model(ref(drawable["a"]))
    plain = bytes_of(rig.host)
    with live_merge(model) as merge:
        merge.apply(recipe)
        merged = bytes_of(rig.host)
        assert merge.is_intact()
    assert merged != plain
    assert bytes_of(rig.host) == plain


def test_the_saved_merge_gives_the_image_that_was_seen(rig: Rig, recipe: MergeRecipe, tmp_path: Path) -> None:
    (seen,) = make_images(rig.host, REQUEST, recipe)
    saved = merge_to_file(recipe, tmp_path / "merged.safetensors").path
    (again,) = make_images(rig.host, REQUEST, model_source(saved))
    assert seen.image.tobytes() == again.image.tobytes()


def test_images_carry_the_recipe_and_the_request(rig: Rig, recipe: MergeRecipe, tmp_path: Path) -> None:
    (image,) = make_images(rig.host, REQUEST, recipe)
    (path,) = free_names(tmp_path, [image.seed])
    write_png(path, image)
    texts = read_texts(path)
    stored = recipe_from_json(texts["elemental_recipe"], name="x")
    assert (stored.model_a.path, stored.model_b.path) == (recipe.model_a.name, recipe.model_b.name)
    assert replace(stored, model_a=recipe.model_a, model_b=recipe.model_b) == recipe  # the stored one has hashes too
    (again,) = make_images(rig.host, REQUEST, stored)
    assert again.image.tobytes() == image.image.tobytes()
    prompt, negative, pairs = texts["parameters"].split("\n")
    assert (prompt, negative) == (REQUEST.prompt, f"Negative prompt: {REQUEST.negative}")
    pairs_by_name = dict(re.findall(r'(\w[\w ]*): ("(?:\\.|[^"\\])*"|[^,]*)(?:, |$)', pairs))
    assert pairs_by_name["Steps"] == "2"
    assert pairs_by_name["Seed"] == "5"
    assert pairs_by_name["Size"] == "64x64"
    assert "IN03-OUT05:attn2:0.7" in json.loads(pairs_by_name["Elemental"])
    with pytest.raises(ImageError, match="exists"):
        write_png(path, image)


def test_stop_while_merging_and_while_making_images(
    rig: Rig, recipe: MergeRecipe, drawable: Mapping[str, Path]
) -> None:
    model = rig.host.open_model(ref(drawable["a"]))
    before = {key: [part.clone() for part in parts] for key, parts in model.tensors().items()}
    with pytest.raises(Stopped):
        make_images(rig.host, REQUEST, recipe, controls=Controls(should_stop=lambda: True))
    rig.press_stop()
    with pytest.raises(Stopped):
        make_images(rig.host, REQUEST, recipe)
    for key, parts in model.tensors().items():
        assert all(torch.equal(*pair) for pair in zip(parts, before[key], strict=True)), key


def test_a_kept_merge_is_what_images_are_made_of(rig: Rig, recipe: MergeRecipe, drawable: Mapping[str, Path]) -> None:
    with live_merge(rig.host.open_model(ref(drawable["a"]))) as merge:
        merge.apply(recipe)
        merged = bytes_of(rig.host)
        merge.keep("mine")
    assert bytes_of(rig.host) == merged
    (plain,) = make_images(rig.host, REQUEST, recipe.model_a)  # model A can still be opened
    assert plain.image.tobytes() not in merged
    assert [part.image.tobytes() for part in make_images(rig.host, REQUEST, recipe)] == merged


def test_two_merges_at_once(rig: Rig, recipe: MergeRecipe, drawable: Mapping[str, Path]) -> None:
    with live_merge(rig.host.open_model(ref(drawable["a"]))) as merge:
        merge.apply(recipe)
        with pytest.raises(HostError, match="Another merge"):
            make_images(rig.host, REQUEST, recipe)
        with pytest.raises(HostError, match="Another merge"):
            rig.host.open_model(ref(drawable["b"]))
        assert merge.is_intact()


def test_no_model(rig: Rig) -> None:
    with pytest.raises(HostError, match="No model"):
        rig.host.make_images(REQUEST, model={})


def test_a_file_that_cannot_be_loaded_leaves_the_model_before(
    rig: Rig, drawable: Mapping[str, Path], tmp_path: Path
) -> None:
    if isinstance(rig.host, FakeHost):
        pytest.skip("it believes in its files")
    rig.host.open_model(ref(drawable["a"]))
    plain = bytes_of(rig.host)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(drawable["b"].read_bytes()[:100])
    with pytest.raises(CheckpointError):
        rig.host.open_model(ref(broken))
    assert bytes_of(rig.host) == plain


def test_a_lora_stays_what_it_is_before_during_and_after_a_merge(
    rig: Rig, recipe: MergeRecipe, drawable: Mapping[str, Path]
) -> None:
    if rig.webui is None:
        pytest.skip("this host has no LoRAs")
    with_lora = replace(REQUEST, prompt=f"a cat {LORA}")
    model = rig.host.open_model(ref(drawable["a"]))
    plain, lora = bytes_of(rig.host), bytes_of(rig.host, with_lora)
    with live_merge(model) as merge:  # while the LoRA is in the weights
        merge.apply(recipe)
        merged, both = bytes_of(rig.host), bytes_of(rig.host, with_lora)
        assert merge.is_intact()
        assert bytes_of(rig.host, with_lora) == both
    assert bytes_of(rig.host, with_lora) == lora
    assert bytes_of(rig.host) == plain
    assert len({*plain, *lora, *merged, *both}) == 4


def test_a_request_that_overrides_the_checkpoint_ends_in_time(
    rig: Rig, recipe: MergeRecipe, drawable: Mapping[str, Path]
) -> None:
    if rig.webui is None:
        pytest.skip("this host makes images of nobody else")
    merged_model = MergedModel(rig.host)
    with rig.host.job("merge", 1):
        rig.host.open_model(ref(drawable["a"]))
        before = rig.webui.digest()
        merged_model.merge(recipe)
    settings = {"sd_model_checkpoint": "b.safetensors"}
    done: list[Any] = []
    ask = threading.Thread(target=lambda: done.append(rig.webui.generate(override_settings=settings)), daemon=True)
    ask.start()
    ask.join(30)
    assert done, "the request hangs"
    rig.webui.generate()
    assert (rig.webui.digest(), merged_model.live().kind) == (before, LiveState.FILE)


@pytest.mark.parametrize("kind", DRAWABLE)
def test_standalone_makes_images_with_every_architecture(tmp_path: Path, kind: str) -> None:
    paths = [tmp_path / f"{seed}.safetensors" for seed in (1, 2)]
    for seed, path in enumerate(paths):
        save_file(random_state(DRAWABLE[kind], seed), path)
    host = StandaloneHost(models=tmp_path)
    assert [checkpoint.title for checkpoint in host.checkpoints()] == ["1.safetensors", "2.safetensors"]
    a, b = map(model_source, paths)
    long = replace(REQUEST, prompt="a red circle " * 40, negative="")
    (plain,) = make_images(host, long, a)
    merge = MergeRecipe(a, b, alpha=0.5)
    (seen,) = make_images(host, long, merge)
    assert seen.image.tobytes() != plain.image.tobytes()
    (saved,) = make_images(host, long, model_source(merge_to_file(merge, tmp_path / "m.safetensors").path))
    assert saved.image.tobytes() == seen.image.tobytes()
    (back,) = make_images(host, long, a)
    assert back.image.tobytes() == plain.image.tobytes()


def test_standalone_detects_models_that_predict_v(tmp_path: Path) -> None:
    state = random_state(DRAWABLE["sd2"], 1)
    images = {}
    for name, marks, beside in (
        ("noise", [], ""),
        ("marked", ["v_pred"], ""),
        ("ztsnr", ["v_pred", "ztsnr"], ""),
        ("beside", [], 'model:\n  params:\n    parameterization: "v"\n'),
    ):
        path = tmp_path / f"{name}.safetensors"
        save_file({**state, **{mark: torch.ones(1) for mark in marks}}, path)
        path.with_suffix(".yaml").write_text(beside)
        images[name] = make_images(StandaloneHost(), REQUEST, model_source(path))[0].image.tobytes()
    assert images["marked"] == images["beside"]
    assert len(set(images.values())) == 3


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_standalone_samplers(drawable: Mapping[str, Path], sampler: str) -> None:
    host = StandaloneHost()
    host.open_model(ref(drawable["a"]))
    request = replace(REQUEST, sampler=sampler.upper(), steps=3)
    first = bytes_of(host, request)
    assert bytes_of(host, request) == first
    (image,) = host.make_images(request, model={})
    assert f"Sampler: {sampler.removesuffix(' Karras')}," in image.infotext  # spelled as in the list


def test_standalone_refusals(tmp_path: Path, drawable: Mapping[str, Path]) -> None:
    host = StandaloneHost()
    host.open_model(ref(drawable["a"]))
    with pytest.raises(HostError, match='no sampler "Eular"; there are Euler, Euler a'):
        host.make_images(replace(REQUEST, sampler="Eular"), model={})
    with pytest.raises(HostError, match='device "gpu"'):
        StandaloneHost(device="gpu")
    state = load_file(drawable["a"])
    for missing, message in (
        ("first_stage_model.", "no VAE"),
        ("cond_stage_model.", "no text encoder"),
        ("model.diffusion_model.output_blocks.5.1.proj_out.bias", "lacks a tensor"),
        ("model.diffusion_model.input_blocks.4.0.out_layers.3.weight", "need its tensor model.diffusion_model.input"),
    ):
        broken = tmp_path / "broken.safetensors"
        save_file({key: value for key, value in state.items() if not key.startswith(missing)}, broken)
        with pytest.raises(HostError, match=message):
            host.open_model(ref(broken))
    with pytest.raises(CheckpointError, match="Cannot open"):
        host.open_model(ref(tmp_path / "none.safetensors"))


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_standalone_out_of_memory(
    drawable: Mapping[str, Path], recipe: MergeRecipe, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    host = StandaloneHost()
    model = host.open_model(ref(drawable["a"]))
    before = bytes_of(host)

    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(sampling, "decode_latents", fail)
        with pytest.raises(HostError, match="Out of memory: make smaller images"):
            make_images(host, REQUEST, recipe)
    assert host.open_model(ref(drawable["a"])) is model
    assert bytes_of(host) == before


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("width", 100, "multiple of 8"),
        ("height", 0, "multiple of 8"),
        ("steps", 0, "1 or more"),
        ("batch", 0, "1 or more"),
        ("seed", -1, "0 or more"),
        ("seed", 2**32, "below"),
        ("steps", 1000, "999"),
        ("cfg", float("nan"), "from 1 to 100"),
        ("cfg", 0.5, "from 1 to 100"),
    ],
)
def test_requests_that_are_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        replace(REQUEST, **{name: value})
