"""Shapes matter only where a merge takes numbers from a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from elemental import MergeError, MergeMode, MergeRecipe, parse_rules
from elemental.architectures.tensor_sets import members
from elemental.cli.main import DONE, FAILED, main
from elemental.merge.files.model_locator import model_source
from elemental.merge.files.open_models import OpenModels

from .merging import State, only, same_bits, save_all, some_elements, whole
from .reference import float64_formula, ulps

UNET = "model.diffusion_model."
TEXT = "cond_stage_model.transformer.text_model."
Capture = pytest.CaptureFixture[str]


def widened(state: State, piece: str, dimension: int = 0) -> State:
    """Give tensors with a piece in their names twice as many numbers."""
    return {key: torch.cat([t, t], dimension).contiguous() if piece in key else t for key, t in state.items()}


ODD: dict[str, tuple[Callable[[State], State], Sequence[Sequence[str]], str]] = {
    "another VAE": (
        lambda state: widened(state, "first_stage_model.decoder.conv_in"),
        (["--elemental", "VAE::0"], ["--vae", "a"], ["--blocks", "FLAT_25"], ["--alpha", "0", "--elemental", "TE::1"]),
        '"VAE::0" after your other rules would keep A\'s numbers there.',
    ),
    "a text encoder of another width": (
        lambda state: widened(state, "mlp.fc1"),
        (["--elemental", "TE::0"], ["--elemental", "BASE::0"], ["--elemental", "TE:mlp:0"]),
        '"TE::0" after your other rules',
    ),
    "both": (
        lambda state: widened(widened(state, "mlp.fc1"), "quant_conv.bias"),
        (["--elemental", "BASE::0"], ["--elemental", "TE::0, VAE::0"], ["--vae", "a", "--elemental", "TE::0"]),
        '"TE::0, VAE::0" after your other rules',
    ),
    "one layer of the U-Net": (
        lambda state: widened(state, "output_blocks.5.1.transformer_blocks.0.attn2.to_k", 1),
        (["--elemental", "OUT05::0"], ["--elemental", ":attn2:0"], ["--alpha", "0", "--elemental", "OUT06::1"]),
        '"OUT05::0" after your other rules',
    ),
    "an inpainting model as B": (
        lambda state: widened(state, "input_blocks.0.0.weight", 1),
        (["--elemental", "IN00:0.weight:0"], ["--elemental", "IN00::0"]),
        "An instruct-pix2pix model (8 channels) must be model A.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", ODD)
def test_what_a_merge_does_not_need_can_have_any_shape(tmp_path: Path, kind: str, capsys: Capture) -> None:
    change, options, hint = ODD[kind]
    states = [some_elements(whole(1)), change(some_elements(whole(2)))]
    a, b = map(str, save_all(tmp_path, states))
    for number, words in enumerate(options):
        out = tmp_path / f"{number}.safetensors"
        assert main(["merge", a, b, "-o", str(out), *words]) == DONE, words
        odd = [key for key, tensor in states[0].items() if tensor.shape != states[1][key].shape]
        assert odd
        result = load_file(out)
        assert all(same_bits(result[key], states[0][key]) for key in odd)
    capsys.readouterr()
    assert main(["merge", a, b, "-o", str(tmp_path / "refused.safetensors")]) == FAILED
    error = capsys.readouterr().err
    assert "The models' shapes differ" in error
    assert hint in error
    assert not (tmp_path / "refused.safetensors").exists()


@pytest.mark.parametrize(
    ("mode", "odd", "ratios", "fits"),
    [
        (MergeMode.TRIPLE_SUM, "b", "0:0.4", True),
        (MergeMode.TRIPLE_SUM, "c", "0.4:0", True),
        (MergeMode.TRIPLE_SUM, "c", "1:0", True),
        (MergeMode.TRIPLE_SUM, "b", "0:1", True),
        (MergeMode.TRIPLE_SUM, "b", "0.1:0.4", False),
        (MergeMode.SUM_TWICE, "b", "0:0.4", True),
        (MergeMode.SUM_TWICE, "b", "0.7:1", True),
        (MergeMode.SUM_TWICE, "c", "0.4:0", True),
        (MergeMode.SUM_TWICE, "c", "0.4:0.1", False),
        (MergeMode.ADD_DIFFERENCE, "b", "0", True),
        (MergeMode.ADD_DIFFERENCE, "c", "0", True),
        (MergeMode.ADD_DIFFERENCE, "c", "1", False),
    ],
)
def test_each_mode_needs_what_its_formula_does(
    tmp_path: Path, mode: MergeMode, odd: str, ratios: str, fits: bool
) -> None:
    states = [some_elements(whole(seed)) for seed in (1, 2, 3)]
    position = "abc".index(odd)
    states[position] = widened(states[position], "mlp.fc1")
    paths = list(map(str, save_all(tmp_path, states)))
    out = tmp_path / "out.safetensors"
    beta = ["--beta", "0.2"] if mode.uses_beta else []
    options = ["--mode", mode.value, "--alpha", "0.3", *beta, "--elemental", f"TE:mlp:{ratios}"]
    assert main(["merge", *paths, *options, "-o", str(out)]) == (DONE if fits else FAILED)
    if not fits:
        return
    alpha, _, beta_text = ratios.partition(":")
    key = TEXT + "encoder.layers.3.mlp.fc1.weight"
    models = [states[0][key] if index == position else state[key] for index, state in enumerate(states)]
    exact = float64_formula(mode.value, models, float(alpha), float(beta_text or 0))
    assert ulps(load_file(out)[key], exact) <= 1


def test_linear_layers_and_convolutions_of_1x1_hold_the_same_numbers(tmp_path: Path) -> None:
    """Some conversions leave the VAE's attention as linear layers."""
    states = [whole(1), whole(2)]
    keys = [f"first_stage_model.encoder.mid.attn_1.{name}.weight" for name in ("q", "k", "v", "proj_out")]
    flat = {**states[1], **{key: states[1][key].reshape(states[1][key].shape[:2]) for key in keys}}
    out = tmp_path / "out.safetensors"
    for own, other, ratio in ((states[0], flat, 0.3), (flat, states[0], 0.3), (states[0], flat, 1.0)):
        a, b = map(str, save_all(tmp_path, [own, other]))
        assert main(["merge", a, b, "-o", str(out), "--overwrite", "--alpha", str(ratio)]) == DONE
        result = load_file(out)
        for key in keys:
            assert result[key].shape == own[key].shape
            exact = float64_formula("weight-sum", [own[key], other[key].reshape(own[key].shape)], ratio, 0)
            assert ulps(result[key], exact) <= (1 if ratio < 1 else 0)


def test_a_vae_of_another_kind_cannot_be_taken_whole(tmp_path: Path, capsys: Capture) -> None:
    odd = widened(only(whole(2), "first_stage_model."), "decoder.conv_in")
    a, b = map(str, save_all(tmp_path, [some_elements(whole(1)), {**some_elements(whole(2)), **odd}]))
    assert main(["plan", a, b, "--vae", "b"]) == FAILED
    assert "take it from A (--vae a)" in capsys.readouterr().err


def test_partial_plans_are_refused_for_their_own_tensors_alone(tmp_path: Path) -> None:
    a, b = save_all(tmp_path, [some_elements(whole(1)), widened(some_elements(whole(2)), "mlp.fc1")])
    recipe = MergeRecipe(model_source(a), model_source(b), alpha=0.3)
    with OpenModels() as models:
        planner = models.planner(recipe)
        odd = [index for index, name in enumerate(planner.names) if "mlp.fc1" in name.key]
        planner.plan_some(recipe, planner.everything & ~sum(1 << index for index in odd))
        with pytest.raises(MergeError, match=r"mlp\.fc1"):
            planner.plan_some(recipe, 1 << odd[0])
        kept = MergeRecipe(recipe.model_a, recipe.model_b, alpha=0.3, rules=parse_rules("TE::0"))
        assert len(planner.plan_some(kept, planner.everything).tensors) == len(list(members(planner.everything)))


@pytest.mark.parametrize(("channels", "kind"), [(5, "depth"), (8, "instruct-pix2pix"), (9, "inpainting")])
def test_inspecting_names_what_the_channels_are_for(tmp_path: Path, channels: int, kind: str, capsys: Capture) -> None:
    state = some_elements(whole(1))
    first = UNET + "input_blocks.0.0.weight"
    (a,) = save_all(tmp_path, [{**state, first: torch.cat([state[first]] * 3, 1)[:, :channels].contiguous()}])
    assert main(["inspect", str(a)]) == DONE
    assert f"SD 1.x {kind}\n" in capsys.readouterr().out
