"""Steps of the WebUI's images computed again with gradients, on a stand-in whose model computes."""

from __future__ import annotations

import itertools
import logging
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from elemental import HostError, Stopped
from elemental.effects.passes import PassMaker, step_of_pass
from elemental.effects.samples import Pass
from elemental.merge.files.checkpoint import Checkpoint

from .traced_images import assert_decodes, fails_after, pass_maker
from .webui_standin import StandIn
from .webui_standin_computing import CHUNK
from .webui_standin_fixtures import REQUEST, Rig, make_rig, mark, other_models
from .webui_standin_models import LORA
from .webui_standin_parts import Processing, tab_values

pytestmark = pytest.mark.slow

LONG = replace(REQUEST, prompt=" ".join(f"word{number}" for number in range(CHUNK + 2)))
WITH_LORA = replace(REQUEST, prompt=f"a cat {LORA}")
UNET_PASS = Pass(0, 0, "unet")
PREFIXES = ("model.diffusion_model.input", "model.diffusion_model.out.", "cond_stage_model.")


def computing(webui: StandIn) -> None:
    webui.computes = True


@pytest.fixture(name="rig")
def computing_rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: Mapping[str, Path]) -> Iterator[Rig]:
    """Give the port on a stand-in that computes."""
    with make_rig(tmp_path, monkeypatch, models, computing) as rig:
        yield rig


@pytest.fixture(name="xl")
def computing_xl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """Give the same with SDXL checkpoints."""
    with make_rig(tmp_path, monkeypatch, other_models(tmp_path / "xl", "sdxl"), computing) as rig:
        yield rig


def trace(rig: Rig, request: Any = REQUEST) -> Any:
    """Trace an image; the guided predictions of the stand-in's steps are then in its list."""
    rig.webui.guided.clear()
    with rig.job("effects", 1):
        return rig.host.differentiator().trace(request, model={})


def make_passes(rig: Rig, live: Any, should_stop: Callable[[], bool] = lambda: False) -> PassMaker:
    """Prepare passes in the direction from model A to model B."""
    return pass_maker(rig.paths, rig.host.differentiator().networks(), live.tensors(), should_stop)


def state(rig: Rig) -> tuple[object, ...]:
    """Give what nobody may find changed: numbers, gradients, hooks, modes, methods, callbacks, settings."""
    model = rig.webui.model
    parameters = [
        (p.requires_grad, p.grad, dict(p._post_accumulate_grad_hooks or {})) if p.is_leaf else None
        for p in model.parameters()
    ]
    methods = [sorted(vars(each)) for each in (model, model.first_stage_model)]
    trained = [vars(module).get("is_trainable") for module in model.modules()]
    callbacks = {name: list(calls) for name, calls in rig.webui.callbacks.items()}
    return rig.webui.digest(), parameters, methods, trained, callbacks, dict(rig.webui.opts.data), model.training


def assert_repeated(rig: Rig, image: Any) -> None:
    """Compare each step's prediction with that of the image itself."""
    assert image.steps == len(rig.webui.guided)
    for step, guided in enumerate(list(rig.webui.guided)):
        torch.testing.assert_close(image.predict(step), guided, rtol=1e-4, atol=1e-4)


def test_a_step_computed_again_is_that_of_the_image(rig: Rig) -> None:
    plain = rig.images()
    image = trace(rig)
    assert_repeated(rig, image)
    assert ([mark(image.image)], image.steps, image.whole) == (plain, 2, False)
    with pytest.raises(HostError, match="samplers keep no gradients"):
        image.draw()


@pytest.mark.parametrize("request_", [LONG, replace(LONG, negative="no cat"), replace(REQUEST, negative=LONG.prompt)])
@pytest.mark.parametrize("padding", ["", "empty", "last"])
def test_prompts_of_other_lengths(rig: Rig, request_: Any, padding: str) -> None:
    rig.webui.opts.pad_cond_uncond, rig.webui.pads_by_last = bool(padding), padding == "last"
    image = trace(rig, request_)
    assert_repeated(rig, image)
    with torch.no_grad():  # the padding is encoded again, too
        for parameter in rig.webui.model.cond_stage_model.parameters():
            parameter.mul_(1.5)
    changed = [image.predict(step) for step in range(image.steps)]
    seen = rig.webui.model.cond_stage_model_empty_prompt
    rig.webui.model.cond_stage_model_empty_prompt = rig.webui.model.get_learned_conditioning([""]).detach()
    again = trace(rig, request_)
    torch.testing.assert_close(changed[0], again.predict(0), rtol=1e-4, atol=1e-4)
    rig.webui.model.cond_stage_model_empty_prompt = seen


def test_parts_joined_by_and(rig: Rig) -> None:
    image = trace(rig, replace(REQUEST, prompt="a cat AND a dog", cfg=3.0))
    assert_repeated(rig, image)


def test_the_negative_prompt_may_be_left_out(rig: Rig) -> None:
    rig.webui.skips_uncond = True
    image = trace(rig, replace(REQUEST, prompt="a cat AND a dog"))
    assert_repeated(rig, image)


def assert_finite_differences(
    rig: Rig, live: Any, image: Any, *, lora: bool = False, prefixes: Sequence[str] = PREFIXES
) -> None:
    """Compare samples with differences of predictions between models that are a little nearer to B and farther."""
    passes = make_passes(rig, live)
    sample = dict(zip(passes.keys, passes.sample(image, UNET_PASS).tolist(), strict=True))
    assert bool(rig.webui.networks.loaded_networks) == lora
    step = step_of_pass(UNET_PASS.number, image.steps)
    signs = _signs(image.predict(step), passes)
    with Checkpoint(rig.paths["a"]) as a, Checkpoint(rig.paths["b"]) as b:
        parts = {key: (b.data(key).tensor().float() - a.data(key).tensor().float()) for key in passes.keys}
    for prefix in prefixes:
        moved = {key: part for key, part in parts.items() if key.startswith(prefix)}
        with torch.no_grad():
            expected = _difference(lambda: image.predict(step), live, moved, signs)
        assert sum(sample[key] for key in moved) == pytest.approx(expected, rel=0.02, abs=1e-2), prefix
        assert all(sample[key] for key in moved)


def _signs(like: Tensor, passes: PassMaker) -> Tensor:
    """Find the signs of the pass, as the gradient by a prediction."""
    given = torch.zeros_like(like, requires_grad=True)
    image: Any = type("Given", (), {"steps": 1, "predict": lambda *_: given})()
    given.retain_grad()
    passes.sample(image, UNET_PASS)
    assert given.grad is not None
    return given.grad / math.sqrt(given.numel())  # as samples are


def _difference(predict: Callable[[], Tensor], live: Any, parts: Mapping[str, Tensor], signs: Tensor) -> float:
    from elemental.hosts.webui.tensor_names import modules_with_tensors  # after the stand-in is in place

    predict()  # with the LoRA in the weights, which are moved as they are
    tensors = {key: t for key, _, t in live._layout._walk(modules_with_tensors(live.module)) if key in parts}
    kept = {key: tensor.clone() for key, tensor in tensors.items()}
    results = []
    for sign in (1, -1):
        for key, tensor in tensors.items():
            tensor.add_(parts[key], alpha=sign * 1e-3)
        results.append((predict().double() * signs).sum())
        for key, tensor in tensors.items():
            tensor.copy_(kept[key])
    return float(results[0] - results[1]) / 2e-3


def test_samples_are_finite_differences(rig: Rig) -> None:
    live = rig.open()
    assert_finite_differences(rig, live, trace(rig))


def test_samples_with_a_lora(rig: Rig) -> None:
    before = rig.webui.digest()
    live = rig.open()
    assert_finite_differences(rig, live, trace(rig, WITH_LORA), lora=True)
    live.tensors()  # takes the LoRA out
    assert rig.webui.digest() == before


def test_samples_of_sdxl(xl: Rig) -> None:
    live = xl.open()
    image = trace(xl)
    assert_repeated(xl, image)
    assert_finite_differences(xl, live, image, prefixes=[f"conditioner.embedders.{number}." for number in "01"])


def test_images_with_and_without_a_lora_take_turns(rig: Rig) -> None:
    live = rig.open()
    passes = make_passes(rig, live)
    images = {"with": trace(rig, WITH_LORA), "without": trace(rig)}
    first = {name: passes.sample(image, UNET_PASS) for name, image in images.items()}
    assert not torch.equal(first["with"], first["without"])
    live.tensors()
    for name, image in itertools.chain(images.items(), reversed(images.items())):
        assert torch.equal(passes.sample(image, UNET_PASS), first[name])


def test_text_encoder_and_vae_have_effects(rig: Rig) -> None:
    passes, image = make_passes(rig, rig.open()), trace(rig)
    of_unet = dict(zip(passes.keys, passes.sample(image, UNET_PASS).tolist(), strict=True))
    of_vae = dict(zip(passes.keys, passes.sample(image, Pass(0, 0, "vae")).tolist(), strict=True))
    for part, sample in (("model.", of_unet), ("cond_stage_model.", of_unet), ("first_stage_model.", of_vae)):
        assert any(sample[key] for key in sample if key.startswith(part)), part
    assert not any(of_vae[key] for key in of_vae if not key.startswith("first_stage_model."))


def test_hires_fix(rig: Rig) -> None:
    rig.tab = tab_values(hires=True, scale=2.0)
    image = trace(rig)
    assert (image.steps, image.image.image.size, len(rig.webui.guided)) == (2, (128, 128), 4)
    del rig.webui.guided[2:]
    assert_repeated(rig, image)
    assert_decodes(image, (1, 3, 128, 128))


def test_nothing_is_left_changed(rig: Rig) -> None:
    live = rig.open()
    before = state(rig)
    image = trace(rig)
    assert state(rig) == before
    make_passes(rig, live).sample(image, UNET_PASS)
    assert state(rig) == before
    for error, known in ((Stopped(), Stopped), (KeyError("x"), KeyError)):
        with pytest.raises(known):
            make_passes(rig, live, fails_after(20, error)).sample(image, UNET_PASS)
        assert state(rig) == before
    assert_repeated(rig, image)


@pytest.mark.parametrize("where", ["unet", "text", "vae"])
def test_nothing_is_left_changed_if_the_image_fails(rig: Rig, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.open()
    before, model = state(rig), rig.webui.model
    owner, name = {
        "unet": (type(model), "apply_model"),
        "text": (type(model), "get_learned_conditioning"),
        "vae": (type(model.first_stage_model), "decode"),
    }[where]

    def fail(*_: object, **__: object) -> None:
        raise KeyError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail)
        with pytest.raises(HostError, match="KeyError: 'broken'"):
            trace(rig)
    assert state(rig) == before


def test_stop_during_the_image(rig: Rig) -> None:
    rig.open()
    before = state(rig)
    rig.webui.on_step = lambda _step: rig.webui.state.interrupt()
    with pytest.raises(Stopped):
        trace(rig)
    assert state(rig) == before


def test_an_error_while_a_step_is_computed_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.open()
    image = trace(rig)
    before = state(rig)

    def fail(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(type(rig.webui.model), "apply_model", fail)
        with pytest.raises(HostError, match="needs more than an image does"):
            image.predict(0)
    assert state(rig) == before


def test_settings_and_token_merging_are_those_of_the_image(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.tab = tab_values(overrides=["clip_skip: 2"])
    model, seen = rig.webui.model, []

    def token_merging(_p: Any) -> None:
        model.applied_token_merged_ratio = 0.5

    rig.webui.scripts.scripts_txt2img.scripts.append(type("Merging", (), {"process": staticmethod(token_merging)})())
    apply = type(model).apply_model

    def note(self: Any, *given: Any, **named: Any) -> Tensor:
        seen.append((rig.webui.opts.data.get("clip_skip"), model.applied_token_merged_ratio))
        result: Tensor = apply(self, *given, **named)
        return result

    monkeypatch.setattr(type(model), "apply_model", note)
    image = trace(rig)
    model.applied_token_merged_ratio = 0
    seen.clear()
    image.predict(1)
    assert set(seen) == {("2", 0.5)}
    assert (rig.webui.opts.data.get("clip_skip"), model.applied_token_merged_ratio) == (None, 0)


def test_a_vae_for_an_image_only_is_refused(rig: Rig) -> None:
    rig.tab = tab_values(overrides=["sd_vae: other.vae"])
    image = trace(rig)
    assert_repeated(rig, image)
    with pytest.raises(HostError, match="choose a VAE for an image only"):
        image.decode()


def test_an_image_that_the_vae_did_not_decode(rig: Rig) -> None:
    rig.webui.decodes = lambda latents: latents.new_zeros(1, 3, 64, 64)  # TAESD is no part of the model
    image = trace(rig)
    assert_repeated(rig, image)
    with pytest.raises(HostError, match="VAE type for decode"):
        image.decode()


def test_what_an_extension_made_of_a_prompt_is_kept(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    def change(step: int) -> None:
        if step == 0:
            conds = Processing.cached_c[1][0]
            conds[0] = conds[0] + 1

    rig.webui.on_step = change
    with caplog.at_level(logging.WARNING):
        image = trace(rig)
    assert caplog.text.count("was not encoded by the model's text encoder alone") == 1
    assert_repeated(rig, image)


def test_only_the_traced_image_is_noted(rig: Rig) -> None:
    image = trace(rig)
    rig.webui.generate(steps=5)
    rig.images()
    assert image.steps == 2


def test_an_extension_that_works_during_images_only_is_refused(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    process = rig.webui.process_images

    def controlled(p: Any) -> Any:
        rig.webui.changes_unet = 1.2
        try:
            return process(p)
        finally:
            rig.webui.changes_unet = 1.0

    monkeypatch.setattr(sys.modules["modules"].processing, "process_images", controlled)
    with pytest.raises(HostError, match="as ControlNet does"):
        trace(rig)


def test_what_cannot_be_differentiated_is_refused_in_words(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    modules: Any = sys.modules["modules"]
    for owner, name, value, words in (
        (rig.webui.devices, "fp8", True, "weights in fp8"),
        (rig.webui.model, "lowvram", True, "--medvram"),
        (modules.sd_unet, "current_unet", object(), '"SD Unet"'),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, value, raising=False)
            with pytest.raises(HostError, match=words):
                trace(rig)
    image = trace(rig)
    monkeypatch.setattr(rig.webui.sd_vae, "loaded_vae_file", None)
    rig.open("b")
    with pytest.raises(HostError, match="loaded another model"):
        image.predict(0)
    modules.sd_models.model_data.sd_model = None
    with pytest.raises(HostError, match="No model is loaded"):
        rig.host.differentiator()
