"""The WebUI host, on a stand-in: the live model, whatever the WebUI does to it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from elemental import CheckpointError, HostError, live_merge, make_images, merge_to_file
from elemental.hosts.base import CheckpointRef
from elemental.workflows import images_of_merge

from .webui_standin_fixtures import (  # noqa: F401
    REQUEST,
    Rig,
    check_merge_shows_and_is_gone,
    make_rig,
    mark,
    other_models,
    webui_rig,
)
from .webui_standin_models import LORA

pytestmark = pytest.mark.slow


def merged(rig: Rig, recipe: Any, request: Any = REQUEST) -> str:
    with live_merge(rig.open()) as merge:
        (image,) = images_of_merge(rig.host, request, merge, recipe)
    return mark(image)


def request(prompt: str) -> Any:
    return type(REQUEST)(**{**REQUEST.to_dict(), "prompt": prompt})


def test_checkpoints_folders_and_samplers(rig: Rig, tmp_path: Path) -> None:
    rig.webui.hashed = True
    rig.host.refresh()
    rig.paths["c"].unlink()
    assert rig.host.checkpoints() == [CheckpointRef(f"{name}.safetensors", rig.paths[name]) for name in "ab"]
    assert rig.host.models_folder() == tmp_path / "models"
    rig.webui.cmd_opts.ckpt_dir = str(tmp_path / "elsewhere")
    assert rig.host.models_folder() == tmp_path / "elsewhere"
    assert rig.host.output_folder() == Path.cwd() / "outputs" / "elemental"
    names = ["Euler a", "DPM++ 2M", "Euler a Karras", "Euler a SGM Uniform", "DPM++ 2M Karras", "DPM++ 2M SGM Uniform"]
    assert rig.host.samplers() == names


def test_loras_are_those_of_the_lora_extension(rig: Rig, tmp_path: Path) -> None:
    assert (list(rig.host.loras()), rig.host.lora_folder()) == ([], None)  # the extension may be switched off
    for place in ("Lora/style.safetensors", "Lora/sub/detail.pt", "more/sharp.safetensors", "LyCORIS/old.safetensors"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(b"")
    options = rig.webui.cmd_opts
    options.lora_dir, options.lora_dirs = str(tmp_path / "Lora"), [str(tmp_path / "more")]
    options.lyco_dir_backcompat = str(tmp_path / "LyCORIS")
    assert list(rig.host.loras()) == []  # until the list is refreshed
    rig.host.refresh()
    assert [(lora.name, lora.place) for lora in rig.host.loras()] == [
        ("detail", "sub/detail.pt"),
        ("old", "old.safetensors"),
        ("sharp", "sharp.safetensors"),
        ("style", "style.safetensors"),
    ]
    assert rig.host.lora_folder() == tmp_path / "Lora"


@pytest.mark.parametrize(("named", "after"), [("c", "a"), (None, "b")])
def test_a_refresh_undoes_what_it_chooses_and_no_choice_of_others(rig: Rig, named: str | None, after: str) -> None:
    models, data = sys.modules["modules"].sd_models, rig.webui.opts.data
    rig.webui.cmd_opts.ckpt = named and str(rig.paths[named])

    def list_models() -> None:
        """Choose what the command line names, as the WebUI does, or what somebody else chooses meanwhile."""
        data["sd_model_checkpoint"] = f"{named or 'b'}.safetensors"

    models.list_models = list_models
    rig.host.refresh()
    assert data["sd_model_checkpoint"] == f"{after}.safetensors"


def check_tensors(rig: Rig) -> None:
    tensors = rig.open().tensors()
    file = load_file(rig.paths["a"])
    assert set(tensors) == {key for key, tensor in file.items() if tensor.is_floating_point()}
    for key, (live,) in tensors.items():
        assert torch.equal(live, file[key].to(live.dtype)), key


def test_the_live_model_holds_the_file(rig: Rig) -> None:
    check_tensors(rig)


@pytest.mark.parametrize("kind", ["sd2", "sdxl"])
def test_other_architectures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    (tmp_path / "other").mkdir()
    with make_rig(tmp_path / "other", monkeypatch, other_models(tmp_path / "files", kind)) as rig:
        check_tensors(rig)
        before, plain = rig.webui.digest(), rig.webui.generate()
        lora = rig.webui.generate(LORA)
        recipe = rig.recipe(alpha=0.5)
        first = merged(rig, recipe, request(LORA))
        assert first not in (plain.data, lora.data)
        rig.webui.generate(LORA)
        assert merged(rig, recipe, request(LORA)) == first
        rig.open().tensors()
        assert rig.webui.digest() == before
        assert rig.webui.generate(LORA).data == lora.data


def test_early_files_spell_the_text_encoder_differently(rig: Rig) -> None:
    state = load_file(rig.paths["a"])
    early = {key.replace(".text_model.", "."): tensor for key, tensor in state.items()}
    assert set(early) != set(state)
    save_file(early, rig.paths["c"])
    layout = rig.open()._layout
    renamed = type(layout)(layout.module, early)
    assert set(renamed.tensors()) == {key for key, tensor in early.items() if tensor.is_floating_point()}


def test_a_checkpoint_is_loaded_once_and_no_setting_written(rig: Rig) -> None:
    settings = dict(rig.webui.opts.data)
    live = rig.open()
    assert (rig.open(), rig.host.loaded()) == (live, CheckpointRef("a.safetensors", rig.paths["a"]))
    other = rig.open("b")
    assert other is not live
    assert (live.replaced(), other.replaced()) == (True, False)
    assert [Path(path).stem for path in rig.webui.loads] == ["a", "b"]
    assert rig.webui.opts.data == settings
    rig.images()
    assert rig.webui.opts.data == settings
    assert rig.host.loaded() == other.checkpoint
    rig.webui.generate()  # the user's image is made with the user's choice
    assert rig.host.loaded() == live.checkpoint


def test_the_first_model(rig: Rig) -> None:
    data = rig.webui.sd_models.model_data
    data.sd_model, data.loaded_sd_models = None, []
    del rig.webui.opts.data["sd_model_checkpoint"]
    assert rig.host.loaded() is None
    with pytest.raises(HostError, match="No model is loaded"):
        rig.images()
    assert rig.open("b").checkpoint.path == rig.paths["b"]
    rig.images()
    assert rig.webui.opts.data.get("sd_model_checkpoint") is None


def test_a_merge_shows_and_is_gone_afterwards(rig: Rig) -> None:
    check_merge_shows_and_is_gone(rig)


def test_the_saved_merge_gives_the_image_that_was_seen(rig: Rig) -> None:
    recipe = rig.recipe("OUT05:ff:1,BASE:mlp:0.3")
    seen = merged(rig, recipe)
    path = merge_to_file(recipe, rig.paths["a"].with_name("saved.safetensors")).path
    rig.host.open_model(CheckpointRef("saved", path))  # which the host has not listed yet
    assert rig.images() == [seen]


def test_loras_before_and_after_a_merge(rig: Rig) -> None:
    before, recipe = rig.webui.digest(), rig.recipe()
    plain, with_lora = rig.webui.generate(), rig.webui.generate(LORA)
    assert rig.webui.digest() != before  # the WebUI leaves the LoRA in
    seen, seen_with_lora = merged(rig, recipe), merged(rig, recipe, request(LORA))
    assert len({plain.data, with_lora.data, seen, seen_with_lora}) == 4
    rig.open().tensors()
    assert rig.webui.digest() == before
    assert (rig.webui.generate(LORA).data, rig.webui.generate().data) == (with_lora.data, plain.data)
    # now there are backups without a LoRA, from before the merge
    assert merged(rig, recipe, request(LORA)) == seen_with_lora
    with live_merge(rig.open()) as merge:
        for prompt, expected in ((LORA, seen_with_lora), ("a cat", seen), (LORA, seen_with_lora)):
            (image,) = images_of_merge(rig.host, request(prompt), merge, recipe)
            assert mark(image) == expected


def test_encoded_prompts_are_forgotten(rig: Rig) -> None:
    plain = rig.webui.generate().data
    text_only = rig.recipe("IN00-OUT11::0,BASE:mlp:1", alpha=0)
    second = sys.modules["modules"].processing.StableDiffusionProcessingTxt2Img
    second.cached_hr_c[:] = ["stale", "stale"]
    assert merged(rig, text_only) != plain
    assert second.cached_hr_c == [None, None]
    assert rig.webui.generate().data == plain


@pytest.mark.parametrize("padded", [True, False])
def test_the_empty_prompt_is_encoded_again_and_restored(rig: Rig, padded: bool) -> None:
    rig.webui.opts.pad_cond_uncond = padded
    model = rig.webui.model
    before = model.cond_stage_model_empty_prompt
    with live_merge(rig.open()) as merge:
        merge.apply(rig.recipe("BASE:mlp:1"))
        assert (model.cond_stage_model_empty_prompt is before) is not padded
    assert model.cond_stage_model_empty_prompt is before


@pytest.mark.parametrize("kept", [True, False])
def test_the_empty_prompt_is_restored_when_a_checkpoint_is_loaded_over_the_merge(rig: Rig, kept: bool) -> None:
    """The WebUI encodes it for a module that it builds, but not when it loads a checkpoint into an existing one."""
    rig.webui.opts.pad_cond_uncond = True
    model = rig.webui.model
    before = model.cond_stage_model_empty_prompt
    with live_merge(rig.open()) as merge:
        merge.apply(rig.recipe("BASE:mlp:1"))
        if kept:
            merge.keep("mine")
        else:
            rig.webui.reload(info=rig.webui.closest("b"))
    assert (model.cond_stage_model_empty_prompt is before) is not kept
    rig.webui.reload(forced_reload=True)
    assert model.cond_stage_model_empty_prompt is before


def vae_of(rig: Rig, name: str) -> dict[str, torch.Tensor]:
    state = load_file(rig.paths[name])
    return {key.removeprefix("first_stage_model."): value for key, value in state.items() if key.startswith("first")}


def test_a_separate_vae_stays_and_the_merge_goes_into_the_copy_of_the_checkpoints_vae(rig: Rig) -> None:
    recipe, before = rig.recipe(), rig.webui.digest()
    seen = merged(rig, recipe)
    rig.webui.choose_vae(vae_of(rig, "c"))
    chosen = rig.webui.digest("first_stage_model.")
    live = rig.open()
    with live_merge(live) as merge:
        (image,) = images_of_merge(rig.host, REQUEST, merge, recipe)
        assert mark(image) != seen
        assert rig.webui.digest("first_stage_model.") == chosen
        rig.webui.choose_vae(None)
        assert not live.replaced()
        assert merge.is_intact()
        assert rig.images() == [seen]
        rig.webui.choose_vae(vae_of(rig, "c"))
        assert not live.replaced()
    assert rig.webui.digest("first_stage_model.") == chosen
    rig.webui.choose_vae(None)
    assert rig.webui.digest() == before


def test_a_separate_vae_without_a_copy_of_the_checkpoints_is_left_out(rig: Rig) -> None:
    rig.webui.choose_vae(vae_of(rig, "c"))
    rig.webui.sd_vae.base_vae = None
    assert not [key for key in rig.open().tensors() if key.startswith("first_stage_model.")]


def test_fp16_copies_of_fp8_weights_are_removed_during_a_merge(rig: Rig) -> None:
    rig.webui.devices.fp8 = True
    layers = {
        name: dict(rig.webui.model.named_modules())[f"model.diffusion_model.{name}"] for name in ("out.2", "out.0")
    }
    copies = {name: (torch.ones(1), torch.ones(1)) for name in layers}
    for name, layer in layers.items():
        layer.fp16_weight, layer.fp16_bias = copies[name]
    with live_merge(rig.open()) as merge:
        merge.apply(rig.recipe("OUT11:out.2:1", alpha=0))
        assert not hasattr(layers["out.2"], "fp16_weight")
        assert not hasattr(layers["out.2"], "fp16_bias")
        assert layers["out.0"].fp16_weight is copies["out.0"][0]
    for name, layer in layers.items():
        assert (layer.fp16_weight, layer.fp16_bias) == copies[name]


def test_replaced(rig: Rig) -> None:
    live = rig.open()
    rig.webui.choose_vae(vae_of(rig, "c"))
    rig.webui.choose_vae(None)
    assert not live.replaced()
    rig.webui.reload(forced_reload=True)
    assert live.replaced()
    again = rig.open()
    assert (again is live, again.replaced(), len(rig.webui.loads)) == (False, False, 2)
    rig.webui.reload(info=rig.webui.closest("b"))
    assert again.replaced()
    with pytest.raises(HostError, match="in place of this one"):
        again.tensors()


def test_a_model_that_others_have_written_to_is_loaded_again(rig: Rig) -> None:
    live, before = rig.open(), rig.webui.digest()
    key = "model.diffusion_model.out.2.weight"
    rig.webui.model.load_state_dict({key: load_file(rig.paths["b"])[key]}, strict=False)
    assert live.replaced()
    assert rig.webui.digest() != before
    rig.open()
    assert rig.webui.digest() == before


def test_what_is_loaded_over_a_merge_is_not_changed(rig: Rig) -> None:
    with live_merge(rig.open()) as merge:
        merge.apply(rig.recipe())
        rig.webui.reload(info=rig.webui.closest("b"))
        loaded = rig.webui.digest()
        assert not merge.is_intact()
    assert rig.webui.digest() == loaded


def test_a_merge_that_was_set_aside_is_not_used_as_the_checkpoint(rig: Rig) -> None:
    rig.webui.opts.sd_checkpoints_limit = 2
    before = rig.webui.digest()
    with live_merge(rig.open()) as merge:
        merge.apply(rig.recipe())
        rig.webui.reload(info=rig.webui.closest("b"))
    rig.webui.reload(info=rig.webui.closest("a"))
    assert rig.webui.digest() == before


def test_two_models_at_once(rig: Rig) -> None:
    rig.webui.opts.sd_checkpoints_limit = 2
    live = rig.open()
    other = rig.open("b")
    assert (rig.open(), rig.open("b")) == (live, other)
    assert len(rig.webui.loads) == 2


@pytest.mark.parametrize("limit", [1, 2])
def test_a_kept_merge_stays_until_its_checkpoint_is_opened(rig: Rig, limit: int) -> None:
    rig.webui.opts.sd_checkpoints_limit = limit
    before, plain = rig.webui.digest(), rig.webui.generate().data

    def keep() -> None:
        with live_merge(rig.open()) as merge:
            merge.apply(rig.recipe())
            merge.keep("mine")

    keep()
    assert rig.host.loaded() is None
    assert rig.images() != [plain]
    assert rig.open().checkpoint == rig.host.loaded()
    assert rig.webui.digest() == before
    keep()
    rig.webui.opts.choose("sd_model_checkpoint", "b.safetensors")
    rig.webui.opts.choose("sd_model_checkpoint", "a.safetensors")
    assert rig.webui.digest() == before
    assert rig.webui.generate().data == plain


def test_the_hosts_cache_of_files_is_not_merged_into(rig: Rig) -> None:
    rig.webui.opts.sd_checkpoint_cache = 1
    rig.webui.reload(forced_reload=True)
    before = rig.webui.digest()
    with live_merge(rig.open()) as merge:
        merge.apply(rig.recipe())
        merge.keep("mine")
    rig.webui.reload(info=rig.webui.closest("b"))
    rig.webui.reload(info=rig.webui.closest("a"))
    assert rig.webui.digest() == before


def test_checkpoints_that_cannot_be_opened(rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = rig.webui.digest()
    rig.paths["b"].write_bytes(b"not a checkpoint")
    rig.paths["c"].unlink()
    outside = tmp_path / "outside.safetensors"
    save_file(load_file(rig.paths["a"]), outside)
    for path, kind, message in (
        (rig.paths["b"], CheckpointError, "not the model"),
        (rig.paths["c"], CheckpointError, "Cannot open"),
        (outside, HostError, "not among the WebUI's checkpoints"),
    ):
        with pytest.raises(kind, match=message):
            rig.host.open_model(CheckpointRef("x", path))
    assert rig.webui.loads == [str(rig.paths["a"])]
    save_file(load_file(rig.paths["a"]), rig.paths["b"])

    def fail(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(type(rig.webui), "_use", fail)
        with pytest.raises(HostError, match=r"could not load b\.safetensors: Out of memory"):
            rig.open("b")
    rig.webui.reload()
    assert rig.webui.digest() == before
    assert rig.images()


def test_a_load_that_fails_leaves_the_checkpoint_before(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    before, load = rig.webui.digest(), rig.webui._load

    def fail_in_the_middle(info: Any, _model: Any) -> None:
        if info.name == "b.safetensors":
            rig.webui.model.model.to(torch.float16)
            raise RuntimeError("a size is wrong\nand more")
        load(info, None)

    monkeypatch.setattr(rig.webui, "_load", fail_in_the_middle)
    with pytest.raises(HostError, match=r"RuntimeError: a size is wrong$"):
        rig.open("b")
    assert rig.webui.digest() == before


def test_a_model_on_no_device(rig: Rig) -> None:
    live = rig.open()
    rig.webui.model.to("meta")
    with pytest.raises(HostError, match="on no device"):
        live.tensors()


def test_two_merges_at_once(rig: Rig) -> None:
    with live_merge(rig.open()) as merge:
        merge.apply(rig.recipe())
        with pytest.raises(HostError, match="Another merge"):
            make_images(rig.host, REQUEST, rig.recipe())
        with pytest.raises(HostError, match="Another merge"):
            rig.open("b")
        assert merge.is_intact()


def test_links_to_checkpoints_are_followed(rig: Rig, tmp_path: Path) -> None:
    link = tmp_path / "link.safetensors"
    link.symlink_to(rig.paths["b"])
    assert rig.host.open_model(CheckpointRef("link", link)).checkpoint.path == rig.paths["b"]
