"""reForge, on a stand-in: the live model behind its patchers. Everything else there is the WebUI's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
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
    assert type(rig.host.loader).__name__ == "WebUILoader"
    assert rig.host.differentiator() is None


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


@pytest.mark.parametrize(("choice", "is_own"), [("TE: a", True), ("TE: c", False)])
def test_a_text_encoder_of_another_file_is_left_out_and_that_is_said(rig: Any, choice: str, is_own: bool) -> None:
    rig.webui.opts.data["sd_text_encoder"] = choice
    rig.webui.text_encoder = str(rig.paths[choice[-1]])
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


def test_a_load_that_fails_leaves_the_checkpoint_before(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before, load = rig.webui.digest(), rig.webui._load

    def fail(info: Any, model: Any) -> None:
        if info.name == "b.safetensors":
            rig.webui.sd_models.model_data.sd_model = None
            raise RuntimeError("a size is wrong")
        load(info, model)

    monkeypatch.setattr(rig.webui, "_load", fail)
    with pytest.raises(HostError, match="a size is wrong"):
        rig.open("b")
    assert rig.webui.digest() == before


def test_batches_with_a_lora_are_of_one_model(rig: Any) -> None:
    two = replace(WITH_LORA, batch=2)
    assert rig.images(two) == rig.images(two)
