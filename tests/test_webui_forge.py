"""Forge and Forge Neo, on stand-ins: the live model and the images, whatever these hosts do meanwhile."""

from __future__ import annotations

import concurrent.futures
import gc
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from elemental import HostError, live_merge, merge_to_file
from elemental.hosts.base import CheckpointRef
from elemental.session.merged_model import LiveState, MergedModel
from elemental.workflows import images_of_merge

from .forge_standin import ForgeStandIn, NeoStandIn
from .webui_standin_fixtures import (  # noqa: F401
    REQUEST,
    Rig,
    check_merge_shows_and_is_gone,
    make_rig,
    mark,
    other_models,
    put_modules,
    webui_merged_model,
)
from .webui_standin_models import LORA
from .webui_standin_parts import FIELDS, SCRIPT_FIELDS, tab_values

pytestmark = pytest.mark.slow

SECONDS = 20.0
"""A request that hangs does so for ever."""

WITH_LORA = replace(REQUEST, prompt=f"a cat {LORA}")
VAE = "first_stage_model."


@pytest.fixture(name="kind", params=[ForgeStandIn, NeoStandIn])
def kind_fixture(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(name="rig")
def forge_rig(kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: Mapping[str, Path]) -> Iterator[Any]:
    """Give the port on a stand-in with three SD 1.x checkpoints, of which a is chosen and loaded."""
    with make_rig(tmp_path, monkeypatch, models, kind=kind) as rig:
        yield rig


def merged(rig: Any, recipe: Any, request: Any = REQUEST) -> str:
    with live_merge(rig.open()) as merge:
        (image,) = images_of_merge(rig.host, request, merge, recipe)
    return mark(image)


def put_merge(rig: Any, merged_model: MergedModel, a: str = "a", b: str = "b") -> str:
    """Put a merge into the model, and give the digest of its image."""
    with rig.host.job("merge", 1):
        merged_model.merge(rig.recipe("BASE:mlp:1", a=a, b=b))
        (image,) = merged_model.images(REQUEST)
    return mark(image)


def in_time(call: Callable[[], Any]) -> Any:
    """Give what a call gives, or its error; it must not wait for ever."""
    done = concurrent.futures.Future[Any]()

    def run() -> None:
        try:
            done.set_result(call())
        except Exception as exc:
            done.set_exception(exc)

    threading.Thread(target=run, daemon=True).start()
    return done.result(SECONDS)


def loaded_name(rig: Any) -> str:
    return str(rig.webui.model.sd_checkpoint_info.name_for_extra)


def check_tensors(rig: Any) -> None:
    tensors, file = rig.open().tensors(), load_file(rig.paths["a"])
    floats = {key for key, tensor in file.items() if tensor.is_floating_point() and not key.endswith("logit_scale")}
    assert set(tensors) == floats
    for key, parts in tensors.items():
        live = torch.cat([part.reshape(-1) for part in parts])
        assert torch.equal(live, file[key].reshape(-1).to(live.dtype)), key


@pytest.mark.parametrize("architecture", ["sd1", "sd2", "sdxl"])
def test_the_live_model_holds_the_file(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    (tmp_path / "other").mkdir()
    with make_rig(tmp_path / "other", monkeypatch, other_models(tmp_path / "files", architecture), kind=kind) as rig:
        check_tensors(rig)
        before, recipe = rig.webui.digest(), rig.recipe(alpha=0.5)
        seen = merged(rig, recipe)
        assert rig.webui.digest() == before
        path = merge_to_file(recipe, rig.paths["a"].with_name("saved.safetensors")).path
        rig.host.open_model(CheckpointRef("saved", path))  # which the host has not listed yet
        assert rig.images() == [seen]


def test_what_the_port_lists(rig: Any, kind: Any, tmp_path: Path) -> None:
    assert [checkpoint.title for checkpoint in rig.host.checkpoints()] == [f"{name}.safetensors" for name in "abc"]
    assert rig.host.models_folder() == tmp_path / "models"
    if kind is NeoStandIn:
        sys.modules["modules"].shared.cmd_opts.ckpt_dirs.append(str(tmp_path))
        assert rig.host.models_folder() == tmp_path
    assert rig.host.loaded() == rig.host.selected() == CheckpointRef("a.safetensors", rig.paths["a"])
    rig.host.refresh()
    assert rig.open().checkpoint == rig.host.loaded()
    assert len(rig.webui.loads) == 1


def test_a_merge_shows_and_is_gone_afterwards(rig: Any) -> None:
    check_merge_shows_and_is_gone(rig)


def test_inference_tensors_are_written(rig: Any) -> None:
    (tensor,) = rig.open().tensors()["model.diffusion_model.out.2.weight"]
    assert tensor.is_inference()
    with pytest.raises(RuntimeError, match=r"[Ii]nference"):
        tensor.add_(1)
    merged(rig, rig.recipe())


def test_loras_before_during_and_after_a_merge(rig: Any) -> None:
    recipe = rig.recipe()
    plain, lora = rig.webui.generate().data, rig.webui.generate(LORA).data
    seen, seen_with_lora = merged(rig, recipe), merged(rig, recipe, WITH_LORA)
    assert len({plain, lora, seen, seen_with_lora}) == 4
    assert [rig.webui.generate(prompt).data for prompt in (LORA, LORA, "a cat", LORA)] == [lora, lora, plain, lora]
    with live_merge(rig.open()) as merge:  # while the LoRA is in the weights
        for request, expected in ((WITH_LORA, seen_with_lora), (REQUEST, seen), (WITH_LORA, seen_with_lora)):
            (image,) = images_of_merge(rig.host, request, merge, recipe)
            assert mark(image) == expected
            merge.is_intact()
    assert [rig.webui.generate(prompt).data for prompt in (LORA, "a cat")] == [lora, plain]
    rig.open().tensors()
    check_tensors(rig)


def test_the_lora_is_in_the_next_image_after_it_was_taken_out(rig: Any) -> None:
    lora = rig.webui.generate(LORA).data
    rig.open().tensors()  # takes it out; the model counts as loaded, and the prompt is the same
    assert rig.webui.generate(LORA).data == lora


def test_loras_that_are_added_while_a_layer_computes_stay(rig: Any) -> None:
    rig.webui.opts.data["forge_unet_storage_dtype"] = "Automatic (fp16 LoRA)"
    rig.webui.open_page()
    lora = rig.webui.generate(LORA).data
    check_tensors(rig)
    assert rig.webui.generate(LORA).data == lora
    assert merged(rig, rig.recipe(), WITH_LORA) != lora
    assert rig.webui.generate(LORA).data == lora


@pytest.mark.parametrize("keeps", [True, False])
def test_encoded_prompts_are_forgotten_in_all_their_places(
    rig: Any, monkeypatch: pytest.MonkeyPatch, keeps: bool
) -> None:
    request = type(rig.webui).request
    monkeypatch.setattr(request, "keeps_prompts", keeps)
    plain = rig.webui.generate().data
    text_only = rig.recipe("IN00-OUT11::0,BASE:mlp:1", alpha=0)
    request.cached_hr_c[:] = ["stale", "stale", "stale"]
    assert merged(rig, text_only) != plain
    assert request.cached_hr_c == [None, None, None]
    assert rig.webui.generate().data == plain
    rig.webui.need_global_unload = True  # other lists take the place of the class's
    with live_merge(rig.open()) as merge:
        merge.apply(text_only)
        assert rig.images() != [plain]
    assert rig.webui.generate().data == plain


def test_a_page_opened_in_mid_job_does_not_change_the_model(rig: Any) -> None:
    digests = {name: (rig.open(name), rig.webui.digest())[1] for name in "ab"}
    rig.webui.generate()
    steps: list[int] = []

    def on_step(_: int) -> None:
        steps.append(1)
        in_time(rig.webui.open_page)

    rig.webui.on_step = on_step
    rig.tab = tab_values(count=2)  # in two rounds, before each of which
    two = replace(REQUEST, batch=2)  # Forge compares what it is to load
    with rig.job("plot", 4):
        rig.open("b")
        assert rig.images(two) == rig.images(two)
        assert (rig.webui.digest(), loaded_name(rig)) == (digests["b"], "b")
    assert len(steps) >= 4
    rig.webui.on_step = lambda _: None
    rig.webui.generate()
    assert rig.webui.digest() == digests["a"]


def test_a_page_opened_while_a_merge_is_in_leaves_it(rig: Any, merged_model: MergedModel) -> None:
    seen = put_merge(rig, merged_model, a="b", b="c")
    for _ in range(2):
        in_time(rig.webui.open_page)
        assert merged_model.live().kind is LiveState.ACTIVE
        assert rig.webui.generate().data == seen
    with rig.host.job("restore", 1):
        merged_model.restore()
    rig.webui.generate()
    assert loaded_name(rig) == "a"


def test_the_users_own_images_are_of_the_merge_and_name_it(rig: Any, merged_model: MergedModel) -> None:
    before, plain = rig.webui.digest(), rig.webui.generate()
    for a, b in (("a", "b"), ("b", "c")):
        seen = put_merge(rig, merged_model, a=a, b=b)
        image = rig.webui.generate(override_settings={"forge_inference_memory": 2})
        assert image.data == seen != plain.data
        assert rig.webui.generate().data == seen
        assert "Model" not in image.infotext
        assert f'Elemental: "weight-sum of {a}, {b}; alpha 0.5; rules BASE:mlp:1"' in image.infotext
    with rig.host.job("restore", 1):
        merged_model.restore()
    again = rig.webui.generate()
    assert (again.data, again.infotext, rig.webui.digest()) == (plain.data, plain.infotext, before)


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"override_settings": {"sd_model_checkpoint": "b.safetensors"}}, False),
        ({"override_settings": {"sd_model_checkpoint": "a.safetensors"}}, False),
        ({"override_settings": {"forge_additional_modules": ["other.vae"]}}, False),
        ({"override_settings": {"forge_additional_modules": []}}, True),
        ({"refiner_checkpoint": "b"}, False),
        ({"enable_hr": True, "hr_checkpoint_name": "b"}, False),
        ({"enable_hr": True, "hr_additional_modules": ["other.vae"]}, False),
        ({"enable_hr": True}, True),
        ({"hr_additional_modules": ["other.vae"]}, True),
        ({"override_settings": {"clip_skip": 2}}, True),
    ],
)
def test_a_request_for_another_model_ends_the_merge_first_and_does_not_hang(
    rig: Any, merged_model: MergedModel, fields: dict[str, Any], kept: bool, tmp_path: Path
) -> None:
    add_vae(rig, tmp_path)

    def copied() -> dict[str, Any]:
        return {key: dict(value) if isinstance(value, dict) else value for key, value in fields.items()}

    before, expected = rig.webui.digest(), rig.webui.generate(**copied())
    rig.webui.generate()
    seen = put_merge(rig, merged_model)
    image = in_time(lambda: rig.webui.generate(**copied()))
    assert (merged_model.live().kind is LiveState.ACTIVE) is kept
    assert image.data == (seen if kept else expected.data)
    assert ("Elemental" in image.infotext, bool(image.p.comments)) == (kept, not kept)
    if not kept:
        rig.webui.generate()
        assert rig.webui.digest() == before


def test_the_gate_of_the_webui_would_hang_there(
    kind: Any, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stand-in shows what it is for: whoever waits for the queue within a request waits for ever."""
    webui: Any = kind(models["a"].parent)
    put_modules(webui, monkeypatch)
    from modules_forge import main_entry

    main_entry.refresh_model_loading_parameters()  # as building the page does: without it there is nothing to load
    ended = threading.Event()
    images: list[Any] = []

    def wait() -> None:
        while not webui.lock.acquire(blocking=False):
            if ended.wait(0.05):
                return
        webui.lock.release()

    main_entry.refresh_model_loading_parameters = wait

    def generate() -> None:
        images.append(webui.generate(override_settings={"sd_model_checkpoint": "b.safetensors"}))

    request = threading.Thread(target=generate, daemon=True)
    request.start()
    request.join(1.0)
    assert request.is_alive()
    assert not images
    ended.set()
    request.join(SECONDS)
    assert len(images) == 1


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_picking_a_checkpoint_ends_the_merge(rig: Any, merged_model: MergedModel, name: str) -> None:
    rig.open(name)
    digest = rig.webui.digest()
    rig.webui.generate()
    put_merge(rig, merged_model, a="b", b="c")
    if name == "a":  # shown already, so no change
        merged_model.restore()
        put_merge(rig, merged_model, a="a", b="c")
    rig.webui.leave_list()
    assert merged_model.live().kind is LiveState.ACTIVE
    in_time(lambda: rig.webui.pick(f"{name}.safetensors"))
    assert merged_model.live().kind is LiveState.FILE
    image = rig.webui.generate()
    assert (rig.webui.digest(), loaded_name(rig)) == (digest, name)
    assert "Elemental" not in image.infotext


@pytest.mark.parametrize("name", ["a", "b"])
def test_so_does_a_pick_before_the_first_image_of_a_merge(rig: Any, merged_model: MergedModel, name: str) -> None:
    before = (rig.webui.generate(), rig.webui.digest())[1]
    for _ in range(2):  # the second time nothing is loaded
        with rig.host.job("merge", 1):
            merged_model.merge(rig.recipe("BASE:mlp:1"))
        in_time(rig.webui.open_page)
        assert merged_model.live().kind is LiveState.ACTIVE
        in_time(lambda: rig.webui.pick(f"{name}.safetensors"))
        assert (merged_model.live().kind, rig.webui.digest()) == (LiveState.FILE, before)
        rig.webui.pick("a.safetensors")
    rig.webui.pick(f"{name}.safetensors")
    rig.webui.generate()
    assert loaded_name(rig) == name


@pytest.mark.parametrize("opened", ["a", "b"])
@pytest.mark.parametrize("chosen", ["a", "b", "c"])
def test_a_choice_during_a_job_counts_after_it(rig: Any, opened: str, chosen: str) -> None:
    digests = {name: (rig.open(name), rig.webui.digest())[1] for name in "abc"}
    rig.webui.pick("b.safetensors")
    rig.webui.generate()
    rig.tab = tab_values(count=2)
    two = replace(REQUEST, batch=2)
    picked: list[int] = []

    def on_step(_: int) -> None:
        if not picked:
            picked.append(1)
            in_time(lambda: rig.webui.checkpoint_change(f"{chosen}.safetensors"))

    rig.webui.on_step = on_step
    with rig.job("plot", 4):
        rig.open(opened)
        assert rig.images(two) == rig.images(two)
        assert rig.webui.digest() == digests[opened]
    rig.webui.generate()
    assert rig.webui.digest() == digests[chosen]


def test_a_choice_during_the_users_own_image_of_a_merge_counts_after_it(rig: Any, merged_model: MergedModel) -> None:
    seen = put_merge(rig, merged_model)
    rig.webui.on_step = lambda _: in_time(lambda: rig.webui.checkpoint_change("b.safetensors"))
    two = rig.webui.generate(n_iter=2)
    assert two.data == seen
    assert loaded_name(rig) == "a"
    rig.webui.on_step = lambda _: None
    image = rig.webui.generate()
    assert (loaded_name(rig), merged_model.live().kind) == ("b", LiveState.FILE)
    assert "Elemental" not in image.infotext


def test_a_load_that_fails_leaves_the_checkpoint_before(rig: Any) -> None:
    before, plain = rig.webui.digest(), rig.webui.generate().data
    rig.webui.fails = "b.safetensors"
    with pytest.raises(HostError, match=r"could not load b\.safetensors: RuntimeError: a size is wrong$"):
        rig.open("b")
    assert (rig.webui.digest(), loaded_name(rig)) == (before, "a")
    assert rig.webui.generate().data == plain


def test_after_a_load_of_the_users_that_failed_the_one_before_can_be_opened(rig: Any) -> None:
    before = rig.webui.digest()
    rig.webui.fails = "b.safetensors"
    with pytest.raises(RuntimeError):
        rig.webui.generate(override_settings={"sd_model_checkpoint": "b.safetensors"})
    assert rig.host.loaded() is None
    assert rig.open().checkpoint == rig.host.loaded()
    assert rig.webui.digest() == before
    assert rig.images()


def test_a_load_that_fails_while_a_merge_is_in(rig: Any, merged_model: MergedModel) -> None:
    before = rig.webui.digest()
    put_merge(rig, merged_model)
    rig.webui.fails = "b.safetensors"
    with pytest.raises(RuntimeError):
        in_time(lambda: rig.webui.generate(override_settings={"sd_model_checkpoint": "b.safetensors"}))
    rig.open()
    assert rig.webui.digest() == before


def test_no_engine_is_kept_alive(rig: Any, merged_model: MergedModel) -> None:
    live = rig.open()
    put_merge(rig, merged_model)
    for name in ("b", "a", "c"):
        rig.webui.pick(f"{name}.safetensors")
        rig.webui.generate()
        rig.open("b")
        rig.open("a")
    assert set(rig.webui.engines) == {1}
    gc.collect()
    assert live.module is None
    assert live.replaced()
    with pytest.raises(HostError, match="in place of this one"):
        live.tensors()


def test_what_is_loaded_over_a_merge_is_not_changed(rig: Any) -> None:
    with live_merge(rig.open()) as merge:
        merge.apply(rig.recipe())
        rig.webui.sd_models.model_data.forge_hash = ""
        rig.webui.reload()
        loaded = rig.webui.digest()
        assert not merge.is_intact()
    assert rig.webui.digest() == loaded


def test_the_first_model(rig: Any) -> None:
    from .forge_standin import FakeInitialModel

    data = rig.webui.sd_models.model_data
    data.sd_model, data.forge_hash, data.forge_loading_parameters = FakeInitialModel(), "", {}
    assert rig.host.loaded() is None
    with pytest.raises(HostError, match="No model is loaded"):
        rig.images()
    assert rig.open("b").checkpoint.path == rig.paths["b"]
    rig.images()
    rig.webui.generate()
    assert loaded_name(rig) == "a"


def test_a_kept_merge_stays_until_its_checkpoint_is_opened_or_picked(rig: Any) -> None:
    before, plain = rig.webui.digest(), rig.webui.generate().data

    def keep() -> str:
        with live_merge(rig.open()) as merge:
            merge.apply(rig.recipe())
            merge.keep("mine")
        return str(rig.webui.generate().data)

    seen = keep()
    assert seen != plain
    assert rig.host.loaded() is None
    assert "Elemental: mine" in rig.webui.generate().infotext
    assert rig.open().checkpoint == rig.host.loaded()
    assert rig.webui.digest() == before
    assert keep() == seen
    rig.webui.pick("a.safetensors")
    image = rig.webui.generate()
    assert (image.data, rig.webui.digest()) == (plain, before)
    assert "Elemental" not in image.infotext
    keep()
    rig.webui.pick("b.safetensors")
    rig.webui.pick("a.safetensors")  # without an image between, so it was never unloaded
    assert rig.webui.generate().data == plain


def add_vae(rig: Any, folder: Path) -> None:
    """Put a VAE where it can be chosen beside the checkpoint."""
    state = load_file(rig.paths["c"])
    path = folder / "other.vae"
    save_file({key: tensor for key, tensor in state.items() if key.startswith(VAE)}, path)
    rig.webui.module_files["other.vae"] = str(path)


def test_a_vae_of_another_file_is_left_out_and_that_is_said(
    rig: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    add_vae(rig, tmp_path)
    live, before = rig.open(), rig.webui.digest("vae")
    assert live.left_out == ""
    rig.webui.modules_change(["other.vae"])
    with live_merge(rig.open()) as merge:  # which loads it, since the user has chosen it
        chosen = rig.webui.digest("vae")
        assert chosen != before
        merge.apply(rig.recipe())
        assert rig.webui.digest("vae") == chosen
    assert "the VAE" in rig.open().left_out
    assert "the VAE" in caplog.text
    assert not [key for key in rig.open().tensors() if key.startswith(VAE)]
    rig.webui.modules_change([])
    assert rig.open().left_out == ""
    assert rig.webui.digest("vae") == before


def test_a_text_encoder_of_another_file_is_left_out(rig: Any, tmp_path: Path) -> None:
    state = load_file(rig.paths["c"])
    path = tmp_path / "clip.safetensors"
    save_file({key: tensor for key, tensor in state.items() if key.startswith("cond")}, path)
    rig.webui.module_files["clip.safetensors"] = str(path)
    rig.webui.modules_change(["clip.safetensors"])
    live = rig.open()
    assert "the text encoder" in live.left_out
    assert not [key for key in live.tensors() if key.startswith("cond")]
    assert [key for key in live.tensors() if key.startswith(VAE)]


def test_a_whole_checkpoint_in_place_of_the_model_is_refused(rig: Any, merged_model: MergedModel) -> None:
    """Forge takes its U-Net, too, so nothing of model A is in use."""
    rig.webui.module_files["c.safetensors"] = str(rig.paths["c"])
    rig.webui.modules_change(["c.safetensors"])
    before = (rig.webui.generate(), rig.webui.digest())[1]
    with pytest.raises(HostError, match=r'U-Net of another.*"VAE / Text Encoder" \(c\.safetensors\)'):
        put_merge(rig, merged_model)
    rig.webui.generate()
    assert rig.webui.digest() == before
    rig.webui.modules_change([])
    put_merge(rig, merged_model)


@pytest.mark.parametrize("packing", ["nf4", "gguf", "int8", "QuantizedTensor"])
def test_packed_weights_are_refused_by_name(rig: Any, packing: str) -> None:
    live, before = rig.open(), rig.webui.digest()
    layer = rig.webui.model.forge_objects_original.unet.model.get_submodule("diffusion_model.input_blocks.1.1.proj_in")
    weight, packed = layer.weight, type("QuantizedTensor", (torch.Tensor,), {})
    if packing == "nf4":
        rig.webui.model.forge_objects_original.unet.model.storage_dtype = packing
    elif packing == "gguf":
        weight.gguf_cls = object()
    elif packing == "int8":
        layer.weight = torch.nn.Parameter(weight.to(torch.int8), requires_grad=False)
    else:
        layer.weight = torch.nn.Parameter(weight.as_subclass(packed), requires_grad=False)
    with pytest.raises(HostError, match=f"packed.*{packing}.*Diffusion in Low Bits"), live_merge(live) as merge:
        merge.apply(rig.recipe())
    if packing in ("nf4", "gguf"):
        assert rig.webui.digest() == before


def test_float8_storage_is_merged_into(rig: Any) -> None:
    unet = rig.webui.model.forge_objects_original.unet.model
    unet.storage_dtype = torch.float8_e4m3fn
    with torch.inference_mode():
        for module in unet.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                setattr(module, name, torch.nn.Parameter(parameter.to(torch.float8_e4m3fn), requires_grad=False))
    before = rig.webui.digest()
    with live_merge(rig.open()) as merge:
        merge.apply(rig.recipe())
        assert rig.webui.digest() != before
    assert rig.webui.digest() == before


def test_the_form_is_found_and_requests_that_would_load_another_model_are_refused(rig: Any, tmp_path: Path) -> None:
    add_vae(rig, tmp_path)
    assert len(rig.form.components) == len(FIELDS) + len(SCRIPT_FIELDS)
    (plain,) = rig.images()
    rig.tab = tab_values(prompt="another")
    assert rig.images() == [plain]  # the request says the rest
    for changes, message in (
        ({"refiner": "b"}, "A refiner would replace"),
        ({"hires": True, "second": "b"}, "Hires. fix with another checkpoint"),
        ({"overrides": ["sd_model_checkpoint: b.safetensors"]}, "override settings ask for the checkpoint b"),
        ({"overrides": ["forge_additional_modules: other.vae"]}, "override settings ask for another VAE"),
    ):
        rig.tab = tab_values(**changes)
        with pytest.raises(HostError, match=message):
            rig.images()
    rig.tab = tab_values(overrides=["sd_model_checkpoint: a"])
    assert rig.images() == [plain]
    made = rig.webui.create_processing

    def with_other_modules(*values: Any) -> Any:
        p = made(*values)
        p.hr_additional_modules = ["other.vae"]
        return p

    sys.modules["modules"].txt2img.txt2img_create_processing = with_other_modules
    rig.tab = tab_values()
    assert rig.images() == [plain]  # no second pass
    rig.tab = tab_values(hires=True)
    with pytest.raises(HostError, match=r"Hires\. fix with another VAE or text encoder"):
        rig.images()


def test_pages_that_are_built_again_keep_the_merge_and_are_hooked_once(rig: Any, merged_model: MergedModel) -> None:
    seen = put_merge(rig, merged_model, a="b", b="c")
    refresh = rig.webui.main_entry.refresh_model_loading_parameters
    assert type(refresh.then).__name__ == "method"
    for _ in range(2):
        rig.webui.callbacks.clear()
        rig.hooks.register(lambda host, form: (host, form), str)
        rig.webui.fire("ui_tabs")
        rig.webui.make_page()
        assert rig.webui.main_entry.refresh_model_loading_parameters is refresh
        assert [event for event, _ in rig.webui.picks] == ["input", "select", "blur"]
        assert rig.webui.generate().data == seen
    assert merged_model.live().kind is LiveState.ACTIVE
    rig.webui.pick("b.safetensors")
    assert merged_model.live().kind is LiveState.FILE


def test_two_merges_at_once(rig: Rig) -> None:
    with live_merge(rig.open()) as merge:
        merge.apply(rig.recipe())
        with pytest.raises(HostError, match="Another merge"), live_merge(rig.open()):
            pass
        with pytest.raises(HostError, match="Another merge"):
            rig.open("b")
        assert merge.is_intact()
