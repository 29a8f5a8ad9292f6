"""reForge, on a stand-in: the live model behind its patchers. Everything else there is the WebUI's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from elemental import HostError, live_merge, merge_to_file
from elemental.hosts.base import CheckpointRef
from elemental.session.merged_model import LiveState, MergedModel

from .reforge_standin import ReForgeStandIn
from .test_webui_forge import VAE, WITH_LORA, check_tensors, merged, put_merge
from .webui_standin_fixtures import make_rig, other_models
from .webui_standin_models import LORA

pytestmark = pytest.mark.slow


@pytest.fixture(name="rig")
def reforge_rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: Mapping[str, Path]) -> Iterator[Any]:
    with make_rig(tmp_path, monkeypatch, models, kind=ReForgeStandIn) as rig:
        yield rig


def test_it_is_known_by_what_it_can(rig: Any) -> None:
    live = rig.open()
    assert type(live._layout).__name__ == "ReForgeLayout"
    assert type(rig.host.loader).__name__ == "ReForgeLoader"


@pytest.mark.parametrize("architecture", ["sd1", "sd2", "sdxl"])
def test_the_live_model_holds_the_file_with_all_text_encoders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    (tmp_path / "other").mkdir()
    models = other_models(tmp_path / "files", architecture)
    with make_rig(tmp_path / "other", monkeypatch, models, kind=ReForgeStandIn) as rig:
        check_tensors(rig)
        before, recipe = rig.webui.digest(), rig.recipe(alpha=0.5)
        seen = merged(rig, recipe)
        assert rig.webui.digest() == before
        path = merge_to_file(recipe, rig.paths["a"].with_name("saved.safetensors")).path
        rig.host.open_model(CheckpointRef("saved", path))
        assert rig.images() == [seen]


def test_loras_before_during_and_after_a_merge(rig: Any) -> None:
    recipe, before = rig.recipe(), rig.webui.digest()
    plain, lora = rig.webui.generate().data, rig.webui.generate(LORA).data
    assert rig.webui.digest() != before  # reForge leaves the LoRA in
    seen, seen_with_lora = merged(rig, recipe), merged(rig, recipe, WITH_LORA)
    assert len({plain, lora, seen, seen_with_lora}) == 4
    assert [rig.webui.generate(prompt).data for prompt in (LORA, LORA, "a cat", LORA)] == [lora, lora, plain, lora]
    rig.open().tensors()
    assert rig.webui.digest() == before
    check_tensors(rig)


def test_the_empty_prompt_and_encoded_prompts_follow_a_merge(rig: Any) -> None:
    rig.webui.opts.pad_cond_uncond = True
    plain, model = rig.webui.generate().data, rig.webui.model
    before = model.cond_stage_model_empty_prompt
    with live_merge(rig.open()) as merge:
        merge.apply(rig.recipe("IN00-OUT11::0,BASE:mlp:1", alpha=0))
        assert model.cond_stage_model_empty_prompt is not before
        assert rig.images() != [plain]
    assert model.cond_stage_model_empty_prompt is before
    assert rig.webui.generate().data == plain


def vae_of(rig: Any, name: str) -> dict[str, Any]:
    state = load_file(rig.paths[name])
    return {key.removeprefix(VAE): value for key, value in state.items() if key.startswith(VAE)}


def test_a_separate_vae_stays_and_the_merge_goes_into_the_copy_of_the_checkpoints_vae(rig: Any) -> None:
    import torch

    recipe, before = rig.recipe(), rig.webui.digest()
    seen = merged(rig, recipe)
    with torch.inference_mode():
        rig.webui.choose_vae(vae_of(rig, "c"))
    chosen = rig.webui.digest("vae")
    with live_merge(rig.open()) as merge:
        merge.apply(recipe)
        assert rig.webui.digest("vae") == chosen
        with torch.inference_mode():
            rig.webui.choose_vae(None)
        assert merge.is_intact()
        assert rig.images() == [seen]
    assert rig.webui.digest() == before


@pytest.mark.parametrize(
    ("settings", "name", "is_own"),
    [
        ({"sd_text_encoder": "TE: a"}, "a", True),
        ({"sd_text_encoder": "TE: c"}, "c", False),
        ({}, "a", True),
        ({}, "c", False),  # another file of the checkpoint's name
    ],
)
def test_a_text_encoder_of_another_file_is_left_out_and_that_is_said(
    rig: Any, settings: Mapping[str, str], name: str, is_own: bool
) -> None:
    rig.webui.opts.data.update(settings)
    rig.webui.text_encoder = str(rig.paths[name])
    rig.webui.reload(forced_reload=True)
    live = rig.open()
    keys = [key for key in live.tensors() if key.startswith("cond")]
    assert (bool(keys), live.left_out == "") == (is_own, is_own)
    assert is_own or "the text encoder" in live.left_out


def test_a_request_for_another_checkpoint_and_a_choice_end_the_merge(rig: Any) -> None:
    merged_model = MergedModel(rig.host)
    before, plain = rig.webui.digest(), rig.webui.generate().data
    seen = put_merge(rig, merged_model)
    assert rig.webui.generate().data == seen
    image = rig.webui.generate(override_settings={"sd_model_checkpoint": "b.safetensors"})
    assert image.p.comments
    assert merged_model.live().kind is LiveState.FILE
    rig.webui.generate()
    assert rig.webui.digest() == before
    put_merge(rig, merged_model)
    rig.webui.opts.choose("sd_model_checkpoint", "c.safetensors")
    assert merged_model.live().kind is LiveState.FILE
    rig.webui.opts.choose("sd_model_checkpoint", "a.safetensors")
    assert rig.webui.generate().data == plain


@pytest.fixture(name="damaged")
def b_that_does_not_load(rig: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    load = rig.webui._load

    def fail(info: Any, model: Any) -> None:
        if info.name == "b.safetensors":
            raise RuntimeError("a size is wrong")
        load(info, model)

    monkeypatch.setattr(rig.webui, "_load", fail)
    return "b.safetensors"


def test_a_load_that_fails_leaves_the_checkpoint_before(rig: Any, damaged: str) -> None:
    before = rig.webui.digest()
    with pytest.raises(HostError, match="a size is wrong"):
        rig.open(damaged[0])
    assert rig.webui.digest() == before


def test_a_model_that_was_taken_apart_for_a_load_that_failed_is_not_merged_into(rig: Any, damaged: str) -> None:
    recipe, before = rig.recipe(), rig.webui.digest()
    seen = merged(rig, recipe)
    with pytest.raises(RuntimeError, match="a size is wrong"):
        rig.webui.opts.choose("sd_model_checkpoint", damaged)
    assert rig.host.loaded() is None
    assert merged(rig, recipe) == seen
    assert rig.webui.digest() == before


def test_another_text_encoder_is_loaded_after_the_merge_was_taken_out(rig: Any) -> None:
    merged_model, plain = MergedModel(rig.host), rig.webui.generate().data
    put_merge(rig, merged_model)
    rig.webui.opts.choose("sd_text_encoder", "TE: a")
    assert merged_model.live().kind is LiveState.FILE
    assert rig.webui.generate().data == plain


def test_batches_with_a_lora_are_of_one_model(rig: Any) -> None:
    two = replace(WITH_LORA, batch=2)
    assert rig.images(two) == rig.images(two)


@pytest.mark.parametrize("chosen", [True, False])
def test_a_vae_of_another_file_without_a_copy_of_the_checkpoints_is_left_out(rig: Any, chosen: bool) -> None:
    """reForge keeps no such copy, and leaves the VAE where it is when it is taken out of the settings."""
    state = load_file(rig.paths["c"])
    vae = rig.webui.model.forge_objects_original.vae.first_stage_model
    with torch.inference_mode():
        for name, parameter in vae.named_parameters():
            parameter.copy_(state[VAE + name])
    rig.webui.sd_vae.loaded_vae_file = "other.vae" if chosen else None
    before = rig.webui.digest("vae")
    with live_merge(rig.open()) as merge:
        assert "the VAE. The merge leaves that as it is" in rig.open().left_out
        merge.apply(rig.recipe())
        assert rig.webui.digest("vae") == before
    assert rig.webui.digest("vae") == before
