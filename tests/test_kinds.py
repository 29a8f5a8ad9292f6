"""Kinds of checkpoints that are found: with EMA weights, pruned, for inpainting, marked as v-prediction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import elemental
from elemental import CheckpointError, MergeError, MergeMode, SaveDtype, VaeChoice
from elemental.architectures.keys import FIRST_CONV, Component
from elemental.cli.main import DONE, main

from .merging import (
    EMA,
    SPEC,
    State,
    assert_merged,
    ema_of,
    merge,
    only,
    same_bits,
    save_all,
    some_elements,
    u_net,
    whole,
)

VAE, TEXT = "first_stage_model.", ("cond_stage_model.", "conditioner.")


def test_ema_weights_of_both_are_merged_as_base(tmp_path: Path) -> None:
    states = [{**state, **ema_of(state, seed)} for seed, state in ((1, u_net(1)), (2, u_net(2)))]
    assert EMA + "diffusion_modelinput_blocks00weight" in states[0]
    paths = save_all(tmp_path, states)
    result = merge(paths, tmp_path / "out.safetensors", spec=SPEC + ",BASE::0.4")
    assert_merged(result, states, spec=SPEC + ",BASE::0.4")
    assert int(result[EMA + "num_updates"]) == 470_000
    of_a, of_b = map(elemental.model_source, paths)
    recipe = elemental.MergeRecipe(of_a, of_b, rules=elemental.parse_rules("OUT05::0.9"))
    planned = [tensor for tensor in elemental.plan_merge(recipe).tensors if tensor.name.key.startswith(EMA)]
    assert {(t.name.component, t.name.block, t.alpha) for t in planned} == {(Component.OTHER, "BASE", 0.5)}


@pytest.mark.parametrize("owner", ["A", "B"])
def test_ema_weights_of_one_model(tmp_path: Path, owner: str, capsys: pytest.CaptureFixture[str]) -> None:
    states = [u_net(1), u_net(2)]
    mine = states["AB".index(owner)]
    mine |= ema_of(mine, 3)
    a, b = save_all(tmp_path, states)
    out = tmp_path / "out.safetensors"
    assert main(["merge", str(a), str(b), "-o", str(out), "--alpha", "0.3"]) == DONE
    result = load_file(out)
    assert_merged(result, states)  # so that those of A stay as they are, and those of B are left out
    notes = {"A": "687 tensors: not in B, kept from A.", "B": "688 tensors: only in B, left out, such as model_ema."}
    assert notes[owner] in capsys.readouterr().out


def test_what_pruning_leaves_of_ema_weights(tmp_path: Path) -> None:
    states = [u_net(1), u_net(2)]
    for state in states:
        state |= {key: tensor for key, tensor in ema_of(state, 3).items() if key.endswith(("decay", "num_updates"))}
    result = merge(save_all(tmp_path, states), tmp_path / "out.safetensors")
    assert_merged(result, states)
    assert all(same_bits(result[key], states[0][key]) for key in (EMA + "decay", EMA + "num_updates"))


def test_ema_weights_alone_are_no_model(tmp_path: Path) -> None:
    paths = save_all(tmp_path, [u_net(1), ema_of(u_net(1), 2)])
    with pytest.raises(CheckpointError, match=r"b\.safetensors looks like an EMA-only checkpoint"):
        merge(paths, tmp_path / "out.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "parts"), [("sd1", (VAE,)), ("sd2", TEXT), ("sdxl", (VAE, *TEXT))])
def test_pruned_and_whole_models(
    tmp_path: Path, layout: str, parts: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    states = [whole(seed, layout=layout) for seed in (1, 2)]
    lacking = only(states[0], *parts)
    for key in lacking:
        del states[0][key]
    a, b = save_all(tmp_path, states)
    out = tmp_path / "out.safetensors"
    kept = sum(not key.endswith("position_ids") for key in lacking)
    for paths, ordered, note in (
        ([a, b], states, f"{len(lacking)} tensors: only in B, left out"),
        ([b, a], states[::-1], f"{kept} tensors: not in B, kept from A."),
    ):
        arguments = ["-o", str(out), "--alpha", "0.3", "--elemental", "BASE:norm:0.8", "--overwrite"]
        assert main(["merge", *map(str, paths), *arguments]) == DONE
        assert_merged(load_file(out), ordered, spec="BASE:norm:0.8", depth=9 if layout == "sdxl" else 12)
        assert note in capsys.readouterr().out


def test_models_pruned_in_different_ways(tmp_path: Path) -> None:
    states = [only(whole(1), "model.", VAE), only(whole(2), "model.", *TEXT)]
    assert_merged(merge(save_all(tmp_path, states), tmp_path / "out.safetensors", spec=SPEC), states, spec=SPEC)


def test_a_pruned_model_can_get_a_vae(tmp_path: Path) -> None:
    states = [u_net(1), whole(2, torch.float32)]
    result = merge(save_all(tmp_path, states), tmp_path / "out.safetensors", vae=VaeChoice.B)
    vae = only(states[1], VAE)
    assert result.keys() == states[0].keys() | vae.keys()
    assert all(same_bits(result[key], tensor) for key, tensor in vae.items())
    assert_merged(only(result, "model."), states)


OF_TWO = [mode for mode in MergeMode if mode.uses_b and not mode.uses_c]
OF_THREE = [mode for mode in MergeMode if mode.uses_c]
CHANNELS = [
    *((mode, channels) for mode in OF_TWO for channels in ((9, 9), (8, 8), (9, 4), (8, 4), (5, 4), (9, 8), (9, 5))),
    *(
        (mode, channels)
        for mode in OF_THREE
        for channels in ((9, 9, 9), (9, 4, 9), (9, 9, 4), (9, 4, 4), (9, 8, 9), (8, 4, 4))
    ),
]
REFUSED = [
    *((mode, channels) for mode in OF_TWO for channels in ((4, 9), (8, 9), (4, 8), (4, 5), (4, 6), (5, 3))),
    *((mode, channels) for mode in OF_THREE for channels in ((4, 9, 4), (4, 4, 9), (4, 9, 9), (8, 8, 9))),
]


@pytest.mark.parametrize(("mode", "channels"), CHANNELS)
def test_inpainting_models_as_a(tmp_path: Path, mode: MergeMode, channels: Sequence[int]) -> None:
    states = [some_elements(u_net(seed, channels=count)) for seed, count in enumerate(channels)]
    spec = SPEC.replace("-0.2", "0.2") if mode.record.limits else SPEC
    result = merge(save_all(tmp_path, states), tmp_path / "out.safetensors", mode=mode, spec=spec)
    if len(set(channels)) > 1:  # what not all have is A's
        assert torch.equal(result[FIRST_CONV][:, 4:], states[0][FIRST_CONV][:, 4:])
        for state in (result, *states):
            state[FIRST_CONV] = state[FIRST_CONV][:, :4]
    assert_merged(result, states, mode=mode, spec=spec)


@pytest.mark.parametrize("number", [float("nan"), 1e6])
def test_numbers_of_a_mask_that_are_not_finite_are_said(tmp_path: Path, number: float) -> None:
    states = [some_elements(u_net(seed, torch.float32, channels=count)) for seed, count in enumerate((9, 4))]
    states[0][FIRST_CONV] = states[0][FIRST_CONV].clone()
    states[0][FIRST_CONV][0, 6] = number
    a, b = map(elemental.model_source, save_all(tmp_path, states))
    recipe = elemental.MergeRecipe(a, b, alpha=0.3, dtype=SaveDtype.FP16)
    if number < 2e6:
        with pytest.raises(MergeError, match=r"input_blocks\.0\.0\.weight: the result is too large for F16"):
            elemental.merge_to_file(recipe, tmp_path / "out.safetensors")
    else:
        merged = elemental.merge_to_file(recipe, tmp_path / "out.safetensors")
        assert [(role.value, key) for role, key in merged.not_finite] == [("a", FIRST_CONV)]


@pytest.mark.parametrize(("mode", "channels"), REFUSED)
def test_models_with_channels_that_a_lacks(tmp_path: Path, mode: MergeMode, channels: Sequence[int]) -> None:
    states = [some_elements(u_net(seed, channels=count)) for seed, count in enumerate(channels)]
    paths = save_all(tmp_path, states)
    with pytest.raises(MergeError, match=r"input_blocks\.0\.0\.weight is .* in the result") as caught:
        merge(paths, tmp_path / "out.safetensors", mode=mode)
    known = {5: "A depth", 8: "An instruct-pix2pix", 9: "An inpainting"}
    wider = [count for count in channels[1:] if count in known and count > channels[0]]
    hints = [f"{known[count]} model ({count} channels) must be model A." for count in wider]
    assert [line for line in str(caught.value).splitlines() if "must be" in line] == hints[:1]
    assert not (tmp_path / "out.safetensors").exists()


MARKERS: dict[str, State] = {
    "empty": {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)},
    "scalar": {"v_pred": torch.tensor(1.0), "ztsnr": torch.tensor(1.0)},
    "one": {"v_pred": torch.ones(1, dtype=torch.float16), "ztsnr": torch.ones(1, dtype=torch.float16)},
    "integer": {"v_pred": torch.tensor(1), "ztsnr": torch.tensor(True)},
    "EDM": {"edm_vpred.sigma_max": torch.tensor(120.0), "edm_vpred.sigma_min": torch.tensor(0.002)},
}


@pytest.mark.parametrize("form", MARKERS)
@pytest.mark.parametrize("owners", ["A", "B", "AB"])
def test_markers_are_those_of_a(tmp_path: Path, form: str, owners: str, capsys: pytest.CaptureFixture[str]) -> None:
    states = [some_elements(u_net(seed)) for seed in (1, 2)]
    for owner in owners:
        states["AB".index(owner)] |= MARKERS[form]
    a, b = map(str, save_all(tmp_path, states))
    out = tmp_path / "out.safetensors"
    assert main(["merge", a, b, "-o", str(out), "--alpha", "0.3", "--elemental", SPEC]) == DONE
    markers = {key: tensor for key, tensor in load_file(out).items() if not key.startswith("model.")}
    assert markers.keys() == (MARKERS[form].keys() if "A" in owners else set())
    assert all(same_bits(tensor, MARKERS[form][key]) for key, tensor in markers.items())
    warned = "is marked as v-prediction" in capsys.readouterr().err
    assert warned is (owners != "AB" and form != "EDM")


def test_the_noise_schedule_is_that_of_a(tmp_path: Path) -> None:
    """The middle of two schedules is none: of one that ends in pure noise and one that does not, say."""
    states = []
    for seed, last in enumerate((0.0047, 0.0)):
        schedule = {
            "alphas_cumprod": torch.linspace(1, last, 1000),
            "denoiser.sigmas": torch.linspace(0.1, 9 - last, 9),
        }
        states.append(some_elements(u_net(seed)) | schedule | {"scale_factor": torch.tensor(0.18215 + last)})
    result = merge(save_all(tmp_path, states), tmp_path / "out.safetensors", spec=":alphas_cumprod:1")
    for key in ("alphas_cumprod", "denoiser.sigmas", "scale_factor"):
        assert same_bits(result[key], states[0][key])


def test_text_encoders_under_names_that_cannot_be_translated_are_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a file has under both names could be either."""
    b = whole(2)
    twice = {key.replace("transformer.text_model.", "transformer."): t.clone() for key, t in b.items()}
    missing = {key: tensor for key, tensor in b.items() if "text_model." not in key}
    text = "text_encoders.clip_g.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight"
    states = [whole(1), {**missing, text: torch.ones(2, 2)}, {**twice, **b}]
    a, b_path, c = map(str, save_all(tmp_path, states))
    assert main(["plan", a, b_path, "--alpha", "0.3"]) == DONE
    assert "The text encoder of B has other names for its tensors than A's" in capsys.readouterr().err
    assert main(["plan", a, b_path, "--alpha", "0.3", "--strict"]) != DONE
    assert main(["plan", a, c, "--alpha", "0.3"]) == DONE
    assert "197 tensors: only in B, left out" in capsys.readouterr().out


@pytest.mark.parametrize("key", ["scaled_fp8", "model.diffusion_model.out.2.scale_weight"])
def test_scaled_numbers_are_no_weights_by_themselves(tmp_path: Path, key: str) -> None:
    paths = save_all(tmp_path, [u_net(1), {**u_net(2), key: torch.ones(1)}])
    with pytest.raises(MergeError, match="numbers of model B are scaled fp8"):
        merge(paths, tmp_path / "out.safetensors")
