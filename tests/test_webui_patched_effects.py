"""Steps of images of Forge, Forge Neo and reForge computed again with gradients, on stand-ins that compute."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from elemental import HostError, Stopped
from elemental.effects.passes import PassMaker, _draw_signs, step_of_pass
from elemental.effects.samples import Pass
from elemental.merge.files.checkpoint import Checkpoint

from .forge_standin import ForgeStandIn, NeoStandIn
from .reforge_standin import ReForgeStandIn
from .test_webui_effects import LONG, UNET_PASS, WITH_LORA, assert_repeated
from .traced_images import assert_decodes, fails_after, pass_maker
from .webui_standin_fixtures import REQUEST, make_rig, mark, other_models
from .webui_standin_models import LORA
from .webui_standin_parts import tab_values

pytestmark = pytest.mark.slow

KINDS = [ForgeStandIn, NeoStandIn, ReForgeStandIn]
PREFIXES = (
    "model.diffusion_model.input",
    "model.diffusion_model.out",
    "model.diffusion_model.time",
    "cond_stage_model.",
)
VAE_PASS = Pass(0, 0, "vae")


def computing(webui: Any) -> None:
    webui.computes = True


@pytest.fixture(name="kind", params=KINDS)
def kind_fixture(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(name="rig")
def computing_rig(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: Mapping[str, Path]
) -> Iterator[Any]:
    """Give the port on a stand-in that computes, with a differentiator and the live model."""
    with make_rig(tmp_path, monkeypatch, models, computing, kind) as rig:
        yield prepare(rig)


def prepare(rig: Any) -> Any:
    rig.live = rig.open()
    chosen = next(iter(rig.webui.sd_models.checkpoints_list))  # what was never saved has its default afterwards
    rig.webui.opts.data.setdefault("sd_model_checkpoint", chosen)
    rig.differentiator = rig.host.differentiator()
    return rig


def trace(rig: Any, request: Any = REQUEST) -> Any:
    """Trace an image; the guided predictions of the stand-in's steps are then in its list."""
    rig.webui.guided.clear()
    with rig.job("effects", 1):
        return rig.differentiator.trace(request, model={})


def make_passes(rig: Any, should_stop: Callable[[], bool] = lambda: False) -> PassMaker:
    """Prepare passes in the direction from model A to model B."""
    return pass_maker(rig.paths, rig.differentiator.networks(), rig.live.tensors(), should_stop)


def networks_of(rig: Any) -> list[Any]:
    objects = rig.webui.model.forge_objects_original
    return [objects.unet.model, objects.clip.cond_stage_model, objects.vae.first_stage_model]


def state(rig: Any) -> tuple[object, ...]:
    """Give what nobody may find changed: numbers, gradients, hooks, modes, methods, callbacks, settings, notes."""
    parameters = [
        (type(p), p.grad, dict(p._post_accumulate_grad_hooks or {}), p.is_inference())
        for network in networks_of(rig)
        for p in network.parameters()
    ]
    parts = [*(module for network in networks_of(rig) for module in network.modules()), rig.webui.model]
    methods = [sorted(name for name in vars(each) if name not in ("predicted", "weight_function")) for each in parts]
    callbacks = {name: list(calls) for name, calls in rig.webui.callbacks.items()}
    load = rig.webui.memory.load_models_gpu.__func__
    notes, skip = dict(rig.webui.notes()), getattr(rig.webui.model, "text_processing_engine", None)
    rest = (callbacks, dict(rig.webui.opts.data), load, notes, getattr(skip, "clip_skip", None))
    return rig.webui.digest(), parameters, methods, rest


def assert_finite_differences(
    rig: Any, image: Any, which: Pass = UNET_PASS, prefixes: Sequence[str] = PREFIXES
) -> None:
    """Compare samples with differences of predictions between models that are a little nearer to B and farther."""
    passes = make_passes(rig)
    sample = dict(zip(passes.keys, passes.sample(image, which).tolist(), strict=True))
    step = step_of_pass(which.number, image.steps)
    compute = (lambda: image.predict(step)) if which.source == "unet" else image.decode
    like = compute().detach()
    signs = _draw_signs(like, which) / like.numel() ** 0.5  # as samples are
    with Checkpoint(rig.paths["a"]) as a, Checkpoint(rig.paths["b"]) as b:
        ways = {key: (b.data(key).tensor().float() - a.data(key).tensor().float()) for key in passes.keys}
    for prefix in prefixes:
        moved = {key: way for key, way in ways.items() if key.startswith(prefix)}
        assert moved, prefix
        expected = _difference(rig, compute, moved, signs)
        assert sum(sample[key] for key in moved) == pytest.approx(expected, rel=0.02, abs=1e-2), prefix
        assert sum(map(bool, map(sample.__getitem__, moved))) > 0.8 * len(moved), prefix


def _difference(rig: Any, compute: Callable[[], Tensor], ways: Mapping[str, Tensor], signs: Tensor) -> float:
    results = []
    for sign in (1, -1):
        with _moved(rig, ways, sign * 1e-3), torch.no_grad():
            results.append((compute().double() * signs).sum())
    return float(results[0] - results[1]) / 2e-3


class _moved:  # noqa: N801 - a context manager
    """Move tensors, without the LoRAs, which are added to what they are then."""

    def __init__(self, rig: Any, ways: Mapping[str, Tensor], by: float) -> None:
        self._rig, self._ways, self._by = rig, ways, by

    def __enter__(self) -> None:
        tensors = self._rig.live.tensors()
        with torch.inference_mode():
            self._kept = {key: [part.clone() for part in tensors[key]] for key in self._ways}
            for key, way in self._ways.items():
                start = 0
                for part in tensors[key]:
                    piece = way.reshape(-1)[start : start + part.numel()].view(part.shape)
                    part.copy_(part.float() + self._by * piece)
                    start += part.numel()

    def __exit__(self, *_: object) -> None:
        tensors = self._rig.live.tensors()
        with torch.inference_mode():
            for key, parts in self._kept.items():
                for part, kept in zip(tensors[key], parts, strict=True):
                    part.copy_(kept)


def test_a_step_computed_again_is_that_of_the_image(rig: Any) -> None:
    plain = rig.images()
    image = trace(rig)
    assert_repeated(rig, image)
    assert ([mark(image.image)], image.steps, image.whole) == (plain, 2, False)
    with pytest.raises(HostError, match="samplers keep no gradients"):
        image.draw()


@pytest.mark.parametrize("request_", [LONG, replace(REQUEST, negative=LONG.prompt), replace(LONG, cfg=1.0)])
@pytest.mark.parametrize("batches", [True, False])
def test_prompts_of_other_lengths_in_one_call_or_in_several(rig: Any, request_: Any, batches: bool) -> None:
    rig.webui.batches = batches
    image = trace(rig, request_)
    assert_repeated(rig, image)
    with torch.inference_mode():  # what was repeated to be as long as another prompt is encoded again, too
        for parameter in networks_of(rig)[1].parameters():
            parameter.mul_(1.5)
    torch.testing.assert_close(image.predict(0), trace(rig, request_).predict(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("batches", [True, False])
@pytest.mark.parametrize("cfg", [3.0, 1.0])
def test_parts_joined_by_and(rig: Any, batches: bool, cfg: float) -> None:
    rig.webui.batches = batches
    assert_repeated(rig, trace(rig, replace(REQUEST, prompt="a cat AND a dog", cfg=cfg)))


def test_samples_are_finite_differences(rig: Any) -> None:
    image = trace(rig)
    assert_finite_differences(rig, image)
    assert_finite_differences(rig, image, VAE_PASS, ["first_stage_model."])


def test_samples_with_a_lora_go_to_the_weights_below_it(rig: Any) -> None:
    before = rig.webui.digest()
    image = trace(rig, WITH_LORA)
    assert rig.webui.digest() != before
    assert_finite_differences(rig, image)
    assert_repeated(rig, image)
    rig.live.tensors()
    assert rig.webui.digest() == before


@pytest.mark.parametrize("kind", KINDS)
def test_samples_of_sdxl(kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with make_rig(tmp_path, monkeypatch, other_models(tmp_path / "xl", "sdxl"), computing, kind) as made:
        rig = prepare(made)
        image = trace(rig)
        assert_repeated(rig, image)
        encoders = [f"conditioner.embedders.{number}." for number in "01"]
        assert_finite_differences(rig, image, prefixes=encoders)


def test_images_with_and_without_a_lora_take_turns(rig: Any) -> None:
    passes = make_passes(rig)
    images = {"with": trace(rig, WITH_LORA), "without": trace(rig)}
    first = {name: passes.sample(image, UNET_PASS) for name, image in images.items()}
    assert not torch.equal(first["with"], first["without"])
    rig.live.tensors()
    for name, image in itertools.chain(images.items(), reversed(images.items())):
        assert torch.equal(passes.sample(image, UNET_PASS), first[name])


def test_what_scripts_and_controlnet_do_to_an_image_counts(rig: Any) -> None:
    def patch(step: Tensor, options: Mapping[str, Any]) -> Tensor:
        of_prompt = 2 if options["cond_or_uncond"][0] == 0 and len(options["cond_or_uncond"]) == 1 else 1
        return step * (of_prompt if options["block"][0] == "middle_block" else 1)

    def change(objects: Any) -> None:
        objects.unet = objects.unet.clone()
        objects.unet.model_options = {"transformer_options": {"patches": {"attn1_patch": [patch]}}}
        objects.unet.control = torch.linspace(0, 1, 256).view(1, 4, 8, 8)

    rig.webui.patch_objects, rig.webui.batches = change, False
    image = trace(rig)
    rig.webui.patch_objects = lambda _: None
    changed = list(rig.webui.guided)
    trace(rig)
    assert not torch.equal(changed[0], rig.webui.guided[0])
    rig.webui.guided[:] = changed
    assert_repeated(rig, image)
    assert_repeated(rig, image)  # what ControlNet adds is there each time
    assert_finite_differences(rig, image)


def test_hires_fix_and_the_decoding(rig: Any) -> None:
    rig.tab = tab_values(hires=True, scale=2.0)
    image = trace(rig)
    assert (image.steps, image.image.image.size, len(rig.webui.guided)) == (2, (128, 128), 4)
    del rig.webui.guided[2:]
    assert_repeated(rig, image)
    assert_decodes(image, (1, 3, 128, 128))


@pytest.mark.parametrize("request_", [REQUEST, WITH_LORA])
def test_nothing_is_left_changed(rig: Any, request_: Any) -> None:
    make_passes(rig)
    before = state(rig)
    image = trace(rig, request_)
    rig.live.tensors()
    assert state(rig) == before
    make_passes(rig).sample(image, UNET_PASS)
    rig.live.tensors()
    assert state(rig) == before
    for error, known in ((Stopped(), Stopped), (KeyError("x"), KeyError)):
        with pytest.raises(known):
            make_passes(rig, fails_after(20, error)).sample(image, UNET_PASS)
        rig.live.tensors()
        assert state(rig) == before
    if request_ is REQUEST:
        assert_repeated(rig, image)
    assert [rig.webui.generate(prompt).data for prompt in (LORA, "a cat", LORA)] == [
        rig.webui.generate(prompt).data for prompt in (LORA, "a cat", LORA)
    ]


@pytest.mark.parametrize("where", ["unet", "text", "vae"])
def test_nothing_is_left_changed_if_the_image_fails(rig: Any, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before, objects = state(rig), rig.webui.model.forge_objects_original
    owner, name = {
        "unet": (type(objects.unet.model.diffusion_model), "forward"),
        "text": (type(rig.webui.model), "get_learned_conditioning"),
        "vae": (type(objects.vae.first_stage_model), "decode"),
    }[where]

    def fail(*_: object, **__: object) -> None:
        raise KeyError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail)
        with pytest.raises(HostError, match="KeyError: 'broken'"):
            trace(rig)
    rig.webui.forget_notes()
    assert state(rig) == before


def test_stop_during_the_image(rig: Any) -> None:
    before = state(rig)
    rig.webui.on_step = lambda _step: rig.webui.state.interrupt()
    with pytest.raises(Stopped):
        trace(rig)
    assert state(rig) == before


def test_an_error_on_the_way_back_is_said_in_words(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    image, passes = trace(rig), make_passes(rig)
    before, block = state(rig), type(networks_of(rig)[0].diffusion_model.middle_block)
    forward = block.forward

    def fail(self: Any, *given: Any, **named: Any) -> Any:
        if torch.is_grad_enabled():
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return forward(self, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(block, "forward", fail)
        with pytest.raises(HostError, match="needs more than an image does"):
            passes.sample(image, UNET_PASS)
    assert state(rig) == before


def _nothing(*_: object, **__: object) -> Any:
    return nullcontext()


def test_blocks_are_computed_again_to_save_memory(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    image, passes = trace(rig), make_passes(rig)
    kept = passes.memory(image, "unet")
    monkeypatch.setattr(sys.modules[type(image._model).__mro__[-2].__module__], "recomputed_blocks", _nothing)
    weights = sum(p.numel() * p.element_size() for p in networks_of(rig)[0].parameters())
    assert 0 < kept < min(passes.memory(image, "unet"), weights)  # weights are not copied


def test_clip_skip_of_an_image_only(rig: Any, kind: Any) -> None:
    if kind is ReForgeStandIn:
        pytest.skip("its encoder reads the setting, as the WebUI's does")
    rig.webui.opts.data["CLIP_stop_at_last_layers"] = 1
    rig.tab = tab_values(overrides=["CLIP_stop_at_last_layers: 2"])
    image = trace(rig)
    assert rig.webui.opts.data["CLIP_stop_at_last_layers"] == 1
    rig.webui.model.set_clip_skip(1)
    assert_repeated(rig, image)
    assert rig.webui.model.text_processing_engine.clip_skip == 1


def test_an_extension_that_works_during_images_only_is_refused(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    process, factors = rig.webui.process_images, [1.0]

    def change(objects: Any) -> None:
        patches = {"attn1_patch": [lambda step, _: step * factors[0]]}
        objects.unet = objects.unet.clone()
        objects.unet.model_options = {"transformer_options": {"patches": patches}}

    def controlled(p: Any) -> Any:
        factors[0] = 3.0
        try:
            return process(p)
        finally:
            factors[0] = 1.0

    rig.webui.patch_objects = change
    monkeypatch.setattr(sys.modules["modules"].processing, "process_images", controlled)
    with pytest.raises(HostError, match="as ControlNet does"):
        trace(rig)


def test_loras_that_are_added_while_a_layer_computes_are_refused(rig: Any, kind: Any) -> None:
    if kind is ReForgeStandIn:
        pytest.skip("it has no such LoRAs")
    rig.webui.opts.data["forge_unet_storage_dtype"] = "Automatic (fp16 LoRA)"
    rig.webui.open_page()
    with pytest.raises(HostError, match='without "fp16 LoRA"'):
        trace(rig, WITH_LORA)
    trace(rig)


def test_what_cannot_be_differentiated_is_refused_in_words(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = networks_of(rig)[0].diffusion_model.out._modules["2"]
    with monkeypatch.context() as patch:
        packed = nn.Parameter(layer.weight.data.to(torch.float8_e4m3fn), requires_grad=False)
        patch.setitem(layer._parameters, "weight", packed)
        with pytest.raises(HostError, match="stored as float8_e4m3fn"):
            trace(rig)
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["modules"].sd_unet, "current_unet", object())
        patch.setitem(sys.modules, "modules.sd_unet", sys.modules["modules"].sd_unet)
        with pytest.raises(HostError, match='"SD Unet"'):
            trace(rig)
    image = trace(rig)
    rig.open("b")
    with pytest.raises(HostError, match="loaded another model"):
        image.predict(0)


def test_an_image_that_was_decoded_in_tiles_or_elsewhere(rig: Any) -> None:
    decode = rig.webui.model.forge_objects_original.vae.first_stage_model

    def tiles(latents: Tensor) -> Tensor:
        return torch.cat([decode.decode(tile) for tile in latents.chunk(2, -1)], -1)

    rig.webui.decodes = tiles
    with pytest.raises(HostError, match="decoded in tiles"):
        trace(rig).decode()
    rig.webui.decodes = lambda latents: latents.new_zeros(1, 3, 64, 64)
    with pytest.raises(HostError, match="VAE type for decode"):
        trace(rig).decode()
