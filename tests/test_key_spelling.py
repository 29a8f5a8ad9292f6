"""The same tensors under other names: merged as if they had the usual ones, and written under A's."""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from elemental.architectures.detection import detect_architecture
from elemental.architectures.key_spelling import spell_checkpoint, spell_vae
from elemental.cli.main import DONE, main
from elemental.demo.layout import tensor_shapes
from elemental.errors import CheckpointError
from elemental.merge.files.checkpoint import Checkpoint, VaeFile

from .conftest import LAYOUTS, save
from .merging import SPEC, State, assert_merged, ema_of, merge, only, same_bits, save_all, some_elements, whole

UNET, VAE, CLIP = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer.text_model."
XL_CLIP, XL_OPEN_CLIP = "conditioner.embedders.0.transformer.text_model.", "conditioner.embedders.1.model."
BLOCK = re.compile(r"((?:input|output)_blocks\.\d+\.1\.)")


def swap(*pairs: tuple[str, str]) -> Callable[[str], str]:
    """Make what replaces the starts of keys."""

    def rename(key: str) -> str:
        return next((new + key.removeprefix(old) for old, new in pairs if key.startswith(old)), key)

    return rename


class Other(NamedTuple):
    """Another spelling: of what, how, what of the model is in the file, and a word that tells of it."""

    layout: str
    rename: Callable[[str], str]
    told: str
    parts: tuple[str, ...] = ("",)


OTHERS = {
    "Forge's saves of SD 1": Other(
        "sd1", swap((CLIP, "text_encoders.clip_l.transformer.text_model."), (VAE, "vae.")), '"vae." for'
    ),
    "the same with a newer transformers": Other(
        "sd1", swap((CLIP, "text_encoders.clip_l.transformer."), (VAE, "vae.")), '"text_encoders.clip_l.transformer."'
    ),
    "text_encoders in SDXL": Other(
        "sdxl",
        swap((XL_CLIP, "text_encoders.clip_l.transformer.text_model."), (XL_OPEN_CLIP, "text_encoders.clip_g.")),
        '"text_encoders.clip_g." for',
    ),
    "SDXL without text_model and transformer": Other(
        "sdxl", swap((XL_CLIP, "conditioner.embedders.0.")), "embedders.0"
    ),
    "clip_l and clip_g": Other(
        "sdxl", swap((XL_CLIP, "clip_l.transformer.text_model."), (XL_OPEN_CLIP, "clip_g.")), '"clip_g." for'
    ),
    "SD 2 in the layout of SDXL": Other(
        "sd2", swap(("cond_stage_model.", "conditioner.embedders.0.")), '"conditioner.embedders.0.model." for'
    ),
    "SD 1 in the layout of SDXL": Other(
        "sd1",
        swap(("cond_stage_model.", "conditioner.embedders.0.")),
        '"conditioner.embedders.0.transformer.text_model."',
    ),
    "SD 2 as clip_h": Other(
        "sd2", swap(("cond_stage_model.model.", "text_encoders.clip_h.")), '"text_encoders.clip_h."'
    ),
    "CLIP right below cond_stage_model": Other("sd1", swap((CLIP, "cond_stage_model.")), '"cond_stage_model." for'),
    "CLIP without transformer": Other("sd1", swap((CLIP, "cond_stage_model.text_model.")), '"cond_stage_model.text'),
    "unet, te, vae": Other(
        "sd1", swap((UNET, "unet."), (CLIP, "te.text_model."), (VAE, "vae.")), '"unet." for "model.diffusion_model."'
    ),
    "each block compiled": Other("sd1", lambda key: BLOCK.sub(r"\1_orig_mod.", key), '"_orig_mod." within names'),
    "compiled and wrapped": Other("sd1", swap((UNET, UNET + "module._orig_mod.")), '"module." within names'),
    "a compiled VAE": Other("sd1", swap((VAE, VAE + "_orig_mod.")), '"_orig_mod." within names'),
    "FSDP": Other("sdxl", lambda key: f"_fsdp_wrapped_module.{key}", '"_fsdp_wrapped_module." within names'),
    "model. before all": Other("sd1", lambda key: f"model.{key}", '"model." before usual names'),
    "state_dict. before all": Other("sd2", lambda key: f"state_dict.{key}", '"state_dict." before usual names'),
    "net. before a U-Net of SDXL": Other("sdxl", swap((UNET, "net.")), '"net." for', (UNET,)),
    "model. before a bare U-Net": Other("sd1", swap((UNET, "model.")), '"model." for', (UNET,)),
    "a U-Net of SDXL without prefix": Other("sdxl", swap((UNET, "")), 'no "model.diffusion_model."', (UNET,)),
    "U-Net and VAE without prefix": Other("sd2", swap((UNET, ""), (VAE, "")), 'no "first_stage_model."', (UNET, VAE)),
}


def spelled(name: str, seed: int) -> tuple[State, State]:
    """Give a model in the usual spelling and in another."""
    other = OTHERS[name]
    state = only(whole(seed, layout=other.layout), *other.parts)
    return state, {other.rename(key): tensor for key, tensor in state.items()}


@pytest.mark.parametrize("name", OTHERS)
def test_b_in_another_spelling_is_merged_whole(name: str, tmp_path: Path) -> None:
    usual, other = spelled(name, 2)
    assert usual.keys() != other.keys()
    a = whole(1, layout=OTHERS[name].layout)
    result = merge(save_all(tmp_path, [a, other]), tmp_path / "out.safetensors", spec=SPEC)
    assert_merged(result, [a, usual], spec=SPEC, depth=9 if OTHERS[name].layout == "sdxl" else 12)


@pytest.mark.parametrize("name", OTHERS)
def test_the_result_is_spelled_as_a(name: str, tmp_path: Path) -> None:
    usual, other = spelled(name, 1)
    b = whole(2, layout=OTHERS[name].layout)
    result = merge(save_all(tmp_path, [other, b]), tmp_path / "out.safetensors", spec=SPEC)
    assert result.keys() == other.keys()
    back = {key: result[OTHERS[name].rename(key)] for key in usual}
    assert_merged(back, [usual, b], spec=SPEC, depth=9 if OTHERS[name].layout == "sdxl" else 12)


@pytest.mark.parametrize("name", OTHERS)
def test_it_is_told(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, other = spelled(name, 2)
    a, b = map(str, save_all(tmp_path, [whole(1, layout=OTHERS[name].layout), other]))
    assert main(["inspect", b]) == DONE
    out = capsys.readouterr().out
    assert OTHERS[name].told in next(line for line in out.splitlines() if line.startswith("names:"))
    assert main(["plan", a, b]) == DONE
    assert OTHERS[name].told in next(x for x in capsys.readouterr().out.splitlines() if x.startswith("Names in B:"))
    assert main(["plan", a, b, "--json"]) == DONE
    assert OTHERS[name].told in " ".join(json.loads(capsys.readouterr().out)["names"]["b"])


@pytest.mark.parametrize("layout", ["sd1", "sd2", "sdxl"])
def test_usual_names_stay(layout: str) -> None:
    keys = [*tensor_shapes(LAYOUTS[layout]), *ema_of(whole(1, layout=layout), 1), "v_pred", "alphas_cumprod", "x"]
    assert spell_checkpoint(keys) == (dict(zip(keys, keys, strict=True)), ())


@pytest.mark.parametrize("name", OTHERS)
def test_a_translated_file_is_translated_no_further(name: str) -> None:
    keys = list(spell_checkpoint(list(spelled(name, 1)[1])).file_keys)
    assert spell_checkpoint(keys) == (dict(zip(keys, keys, strict=True)), ())


BOTH: dict[str, Mapping[str, str]] = {
    "position_ids twice": {"cond_stage_model.transformer.embeddings.position_ids": CLIP + "embeddings.position_ids"},
    "a VAE twice": {"vae.decoder.conv_in.weight": VAE + "decoder.conv_in.weight"},
    "a compiled copy": {UNET + "_orig_mod.out.2.bias": UNET + "out.2.bias"},
    "a copy below another name": {"model.model.diffusion_model.out.2.bias": UNET + "out.2.bias"},
    "two copies": {
        "te.embeddings.x": CLIP + "embeddings.x",
        "clip_l.embeddings.x": CLIP + "embeddings.x",
    },
}


@pytest.mark.parametrize("name", BOTH)
def test_two_tensors_never_get_one_name(name: str, tmp_path: Path) -> None:
    state = whole(1)
    extra = {key: torch.full((2,), 7.0) for key in BOTH[name]}
    path = save(tmp_path / "x.safetensors", {**state, **extra})
    with Checkpoint(path) as file:
        assert file.tensors.keys() == {**state, **extra}.keys()
        assert all(same_bits(file.tensor(key), tensor) for key, tensor in {**state, **extra}.items())


STRANGERS = {
    "a ControlNet": ("input_hint_block.0.weight", "input_blocks.0.0.weight", "middle_block.0.in_layers.0.weight"),
    "a ControlNet of old": ("control_model.input_blocks.0.0.weight", "control_model.time_embed.0.weight"),
    "Flux in one file": (
        "model.diffusion_model.double_blocks.0.img_attn.qkv.weight",
        "text_encoders.clip_l.x",
        "vae.y",
    ),
    "a LoRA": ("lora_unet_input_blocks_0_0.lora_down.weight",),
    "two U-Nets": tuple(
        f"{r}{k}" for r in ("net.", "unet.") for k in ("input_blocks.0.0.weight", "output_blocks.0.0.x")
    ),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_what_is_no_such_model_keeps_its_names(name: str) -> None:
    keys = STRANGERS[name]
    assert list(spell_checkpoint(keys).file_keys) == list(keys)
    with pytest.raises(CheckpointError):
        detect_architecture(dict.fromkeys(keys, (8, 4, 3, 3)), name="it")


VAES: dict[str, Callable[[str], str]] = {
    "vae.": swap((VAE, "vae.")),
    "no prefix, compiled": swap((VAE, "_orig_mod.")),
    "module.": swap((VAE, "module.")),
    "in a pipeline": swap((VAE, "model.first_stage_model.")),
    "state_dict.": swap((VAE, "state_dict.")),
    "compiled halves": lambda key: re.sub(r"(encoder|decoder)\.", r"\1._orig_mod.", key.removeprefix(VAE)),
}


@pytest.mark.parametrize("name", VAES)
def test_a_vae_file_in_another_spelling(name: str, tmp_path: Path) -> None:
    vae = only(whole(3), VAE)
    path = save(tmp_path / "vae.safetensors", {VAES[name](key): tensor for key, tensor in vae.items()})
    with VaeFile(path) as file:
        assert file.tensors.keys() == vae.keys()
        assert all(same_bits(file.tensor(key), tensor) for key, tensor in vae.items())
    assert spell_vae(list(vae)).renamings == ()


def spelled_and_left(layout: str, known: Mapping[str, str], unknown: Mapping[str, str]) -> State:
    """Give a model with some starts of its keys replaced, and with some of its tensors again under other names."""
    state = some_elements(whole(1, layout=layout))
    copies = {
        new + key.removeprefix(old): t + 1
        for old, new in unknown.items()
        for key, t in state.items()
        if key.startswith(old)
    }
    return {**{swap(*known.items())(key): tensor for key, tensor in state.items()}, **copies}


TWICE: dict[str, tuple[str, Mapping[str, str], Mapping[str, str], str]] = {
    "a wrapped model, and one below unknown names": (
        "sd1",
        {"": "module."},
        {"": "wrapper.inner."},
        "the U-Net, the VAE and the text encoder twice; those under unknown names, such as wrapper.inner.",
    ),
    "a bare U-Net and its average": ("sd2", {UNET: "net."}, {UNET: "net_ema."}, "the U-Net twice; those"),
    "a VAE": ("sd1", {VAE: "vae."}, {VAE: "x_first_stage_model."}, "the VAE twice; those"),
    "CLIP-L": ("sdxl", {XL_CLIP: "clip_l."}, {XL_CLIP: f"backup.{XL_CLIP}"}, "CLIP-L twice; those"),
    "one tensor": ("sd1", {UNET: "unet."}, {UNET + "input_blocks.0.0.bias": f"x_{UNET}input_blocks.0.0.bias"}, "U-Net"),
    "a copy of a model with its usual names": ("sd1", {}, {"": "backup."}, ""),
    "a ControlNet": ("sd1", {UNET: "net."}, {f"{UNET}input_blocks.": "controlnet.input_blocks."}, ""),
    "another encoder": ("sdxl", {XL_CLIP: "clip_l."}, {XL_CLIP: "t5.transformer."}, ""),
}


@pytest.mark.parametrize("owner", "AB")
@pytest.mark.parametrize("name", TWICE)
def test_another_model_under_unknown_names_is_told_of(
    name: str, owner: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout, known, unknown, words = TWICE[name]
    states = [some_elements(whole(seed, layout=layout)) for seed in (1, 2)]
    states["AB".index(owner)] = spelled_and_left(layout, known, unknown)
    a, b = map(str, save_all(tmp_path, states))
    assert main(["plan", a, b]) == DONE
    warnings = capsys.readouterr().err
    assert (f"Model {owner} holds tensors of " in warnings) is bool(words), warnings
    assert words in warnings


def test_a_vae_that_a_lacks_gets_usual_names(tmp_path: Path) -> None:
    a, vae = spelled("a U-Net of SDXL without prefix", 1)[1], only(whole(3, layout="sdxl"), VAE)
    b = {f"_orig_mod.{key}": tensor for key, tensor in whole(2, layout="sdxl").items()}
    paths = [*map(str, save_all(tmp_path, [a, b])), str(tmp_path / "out.safetensors")]
    assert main(["merge", *paths[:2], "--vae", "b", "-o", paths[2]]) == DONE
    with Checkpoint(paths[2]) as file, Checkpoint(paths[1]) as source:
        assert set(file.file_keys.values()) == {*a, *vae}
        assert all(same_bits(file.tensor(key), source.tensor(key)) for key in vae)


def test_marks_behind_wrappers_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    marked = {**whole(2), "v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    a, b = map(str, save_all(tmp_path, [whole(1), {f"module.{key}": tensor for key, tensor in marked.items()}]))
    assert main(["plan", a, b]) == DONE
    error = capsys.readouterr().err
    assert all(f'"{mark}"' in error for mark in ("v_pred", "ztsnr"))


def test_wrapped_averages_are_told_by_their_wrapper() -> None:
    keys = [*whole(1), *(f"_orig_mod.{key}" for key in ema_of(whole(1), 1))]
    assert spell_checkpoint(keys).renamings == ('"_orig_mod." within names',)


def test_many_places_that_might_be_a_u_net() -> None:
    words = ("model", "net", "unet", "state_dict")
    roots = [".".join(path) + "." for path in itertools.product(words, repeat=7)]
    began = time.process_time()
    spell_checkpoint([f"{root}input_blocks.0.0.weight" for root in roots])
    assert time.process_time() - began < 5


def test_full_keys_in_rules_have_usual_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, other = spelled("U-Net and VAE without prefix", 1)
    a, b = map(str, save_all(tmp_path, [other, whole(2, layout="sd2")]))
    rules = "OUT11:model.diffusion_model.out.2.bias:1,VAE:first_stage_model.quant_conv:0.5"
    assert main(["plan", a, b, "--alpha", "0", "--elemental", rules, "--strict", "--json"]) == DONE
    changed = [tensor["key"] for tensor in json.loads(capsys.readouterr().out)["tensors"] if tensor["inputs"] != ["a"]]
    assert sorted(changed) == [VAE + "quant_conv.bias", VAE + "quant_conv.weight", UNET + "out.2.bias"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Forge's saves of SD 1", "each block compiled"])
def test_the_standalone_host_draws_it(name: str, drawable: Mapping[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    from elemental import MergeRecipe, make_images, model_source
    from elemental.hosts.standalone.host import StandaloneHost
    from elemental.images.image_request import ImageRequest

    request = ImageRequest("a red circle", steps=1, sampler="Euler", width=64, height=64)
    rename = OTHERS[name].rename
    paths = {
        key: save(
            tmp_path / f"{key}.safetensors", {rename(k): tensor for k, tensor in load_file(drawable[key]).items()}
        )
        for key in "ab"
    }
    host = StandaloneHost()
    drawn = []
    for a, b in (drawable["a"], drawable["b"]), (paths["a"], paths["b"]):
        recipe = MergeRecipe(model_source(a), model_source(b), alpha=0.3)
        for model in (model_source(a), recipe):
            (image,) = make_images(host, request, model)
            drawn.append(image.image.tobytes())
    assert drawn[:2] == drawn[2:]
    assert drawn[0] != drawn[1]
