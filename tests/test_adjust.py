"""Adjustments: eight numbers against their formula in float64, alone, with modes and LoRAs, in files and live."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from elemental import (
    LoraSource,
    MergeError,
    MergeMode,
    MergeRecipe,
    ModelSource,
    RecipeError,
    live_merge,
    merge_to_file,
    model_source,
    parse_rules,
    plan_merge,
    read_recipe,
)
from elemental.architectures.keys import FIRST_CONV
from elemental.cli.main import DONE, WRONG_USAGE, main
from elemental.effects.directions import from_model_a, more_alpha
from elemental.images.image_request import ImageRequest
from elemental.merge.files.metadata import name_recipe
from elemental.merge.plan_summary import summarise_plan
from elemental.recipe.adjustments import format_adjust, parse_adjust
from elemental.recipe.recipe import recipe_from_dict
from elemental.runs.axes.base import Setting
from elemental.runs.grid_contents import describe_setting

from .conftest import save
from .lora_files import lora, with_name
from .merging import State, ema_of, same_bits, u_net, whole
from .reference import float64_formula, ulps
from .test_live import assert_is_file, fake_model

UNET = "model.diffusion_model."
LAST = UNET + "out.2.bias"
SIX = {
    UNET + name for layer in ("input_blocks.0.0.", "out.0.", "out.2.") for name in (layer + "weight", layer + "bias")
}
ALL = (3.0, -4.0, 5.0, -1.5, 2.0, 0.5, -3.0, 1.0)
DTYPES = [torch.float16, torch.float32]


def adjusted(key: str, numbers: Tensor, f: Sequence[float], *, sdxl: bool) -> Tensor:
    """Write the formula out. Source: supermerger, mergers.py."""
    f0, f1, f2, f3, f4, f5, f6, f7 = f
    if key == LAST:
        others = [f6 * -1 + f5 - f7, f7 - f6, f4] if sdxl else [f5 - f4 + f7, f4 / 3 + f5 - f6, f4 * 2 / 3 - f6 + f7]
        return numbers + torch.tensor([f3, *others], dtype=torch.float64) * 0.02
    factors = {
        FIRST_CONV: 1 - f0 / 100,
        UNET + "input_blocks.0.0.bias": 1 + f0 / 50,
        UNET + "out.0.weight": 1 - f1 / 100,
        UNET + "out.0.bias": 1 + f1 / 50,
        UNET + "out.2.weight": 1 - f2 / 100,
    }
    return numbers * factors[key]


def assert_adjusted(after: State, plain: State, exact: State, f: Sequence[float] = ALL, *, sdxl: bool = False) -> None:
    """Compare the six tensors with the formula, and all others with the merge without it."""
    for key, tensor in after.items():
        if key in SIX:
            assert ulps(tensor, adjusted(key, exact[key], f, sdxl=sdxl), lost=1e-14) <= 0.51, key
        else:
            assert same_bits(tensor, plain[key]), key


def alone(path: Path, f: Sequence[float] = ALL) -> MergeRecipe:
    source = model_source(path)
    return MergeRecipe(source, source, alpha=0.0, adjust=tuple(f))


@pytest.fixture
def two(tmp_path: Path) -> dict[str, Path]:
    return {name: save(tmp_path / f"{name}.safetensors", whole(seed)) for seed, name in enumerate("ab", 1)}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["sd1", "sd2", "sdxl"])
def test_the_six_tensors_of_a_model(tmp_path: Path, layout: str, dtype: torch.dtype) -> None:
    before = u_net(1, dtype, layout=layout)
    result = merge_to_file(alone(save(tmp_path / "a.safetensors", before)), tmp_path / "out.safetensors")
    after = load_file(result.path)
    assert {tensor.name.key for tensor in result.plan.tensors if tensor.changed} == SIX
    exact = {key: tensor.double() for key, tensor in before.items()}
    assert_adjusted(after, before, exact, sdxl=layout == "sdxl")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", [MergeMode.WEIGHT_SUM, MergeMode.SLERP, MergeMode.TRAIN_DIFFERENCE, MergeMode.DARE])
def test_what_a_mode_gives_is_adjusted_and_rounded_once(tmp_path: Path, mode: MergeMode, dtype: torch.dtype) -> None:
    states = [u_net(seed, dtype) for seed in (1, 2, 3)[: 3 if mode.uses_c else 2]]
    a, b, *c = [model_source(save(tmp_path / f"{seed}.safetensors", each)) for seed, each in enumerate(states)]
    recipe = MergeRecipe(a, b, c[0] if c else None, mode=mode, alpha=0.3, adjust=ALL)
    plain = load_file(merge_to_file(replace(recipe, adjust=None), tmp_path / "plain.safetensors").path)
    after = load_file(merge_to_file(recipe, tmp_path / "out.safetensors").path)
    exact = {key: float64_formula(mode.value, [each[key] for each in states], 0.3, 0.0, key) for key in SIX}
    assert_adjusted(after, plain, exact)


def test_loras_are_added_after_it(tmp_path: Path) -> None:
    before, made = u_net(1), lora((4, 8, 3, 3))
    file = save(tmp_path / "style.safetensors", with_name("lora_unet_conv_out", made))
    recipe = replace(alone(save(tmp_path / "a.safetensors", before)), loras=(LoraSource(model_source(file), 0.7),))
    after = load_file(merge_to_file(recipe, tmp_path / "out.safetensors").path)
    key = UNET + "out.2.weight"
    assert ulps(after[key], before[key].double() * 0.95 + 0.7 * made[1], lost=1e-14) <= 0.51


def test_all_channels_of_an_inpainting_model_are_adjusted(tmp_path: Path) -> None:
    states = [u_net(1, channels=9), u_net(2)]
    a, b = (model_source(save(tmp_path / f"{seed}.safetensors", each)) for seed, each in enumerate(states))
    after = load_file(merge_to_file(MergeRecipe(a, b, alpha=0.3, adjust=ALL), tmp_path / "out.safetensors").path)
    exact = states[0][FIRST_CONV].double()
    exact[:, :4] = 0.7 * exact[:, :4] + 0.3 * states[1][FIRST_CONV].double()
    assert ulps(after[FIRST_CONV], exact * 0.97, lost=1e-14) <= 0.51


def test_a_recipe_in_the_place_of_a_model_is_adjusted_first(two: dict[str, Path], tmp_path: Path) -> None:
    inner = replace(alone(two["a"]), alpha=0.0)
    recipe = MergeRecipe(ModelSource("inner.json", recipe=inner), model_source(two["b"]), alpha=0.25)
    after = load_file(merge_to_file(recipe, tmp_path / "out.safetensors").path)
    a, b = (load_file(path) for path in two.values())
    for key in SIX:
        exact = 0.75 * adjusted(key, a[key].double(), ALL, sdxl=False) + 0.25 * b[key].double()
        assert ulps(after[key], exact, lost=1e-14) <= 0.51, key


def test_the_live_merge_is_the_file_and_writes_what_is_adjusted_alone(two: dict[str, Path], tmp_path: Path) -> None:
    recipe = MergeRecipe(model_source(two["a"]), model_source(two["b"]), alpha=0.3)
    last = {UNET + "out.2.weight"}
    steps = [
        (recipe, None),
        (replace(recipe, adjust=ALL), SIX),
        (replace(recipe, adjust=(*ALL[:2], 1.0, *ALL[3:])), last),
        (replace(recipe, adjust=(*ALL[:2], 0.0, *ALL[3:])), last),
        (replace(recipe, adjust=(*ALL[:2], 0.0, *ALL[3:]), rules=parse_rules("OUT11:out.2:0.5")), last | {LAST}),
        (recipe, SIX),
    ]
    model = fake_model(two["a"])
    before = model.digest()
    with live_merge(model) as merge:
        for index, (step, moved) in enumerate(steps):
            written = {tensor.name.key for tensor in merge.apply(step).plan.tensors}
            assert moved is None or written == moved, index
            merged = merge_to_file(step, tmp_path / f"{index}.safetensors", with_hashes=False)
            assert_is_file(model, merged.path)
            assert merge.is_intact()
    assert model.digest() == before


def test_the_recipe_of_the_result_repeats_it(two: dict[str, Path], tmp_path: Path) -> None:
    recipe = MergeRecipe(model_source(two["a"]), model_source(two["b"]), alpha=0.3, adjust=(0, 1.5))
    first = merge_to_file(recipe, tmp_path / "out.safetensors").path
    again = read_recipe(first)
    assert again.adjust == (0.0, 1.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    assert recipe_from_dict(json.loads(json.dumps(again.to_dict()))) == again
    assert merge_to_file(again, tmp_path / "again.safetensors").path.read_bytes() == first.read_bytes()
    assert name_recipe(again) == "weight-sum of a, b; alpha 0.3; adjust OUT 1.5"


def test_eight_zeros_are_no_adjustment(two: dict[str, Path]) -> None:
    recipe = alone(two["a"], [0.0] * 8)
    assert recipe.adjust is None
    assert "adjust" not in recipe.to_dict()
    plan = plan_merge(recipe)
    assert plan.is_model_a
    assert not plan.changes


def test_ema_weights_that_do_not_follow_are_warned_of(tmp_path: Path) -> None:
    state = {**u_net(1), **ema_of(u_net(1), 2)}
    plan = plan_merge(alone(save(tmp_path / "a.safetensors", state)))
    assert [warning.message for warning in plan.warnings if "no average" in warning.message]


def test_effects_move_by_what_is_left_of_a_change(two: dict[str, Path]) -> None:
    plan = plan_merge(MergeRecipe(model_source(two["a"]), model_source(two["b"]), alpha=0.5, adjust=(2.0,)))
    assert more_alpha(plan)[FIRST_CONV] == (-0.98, 0.98, 0.0)
    assert more_alpha(plan)[LAST] == (-1.0, 1.0, 0.0)
    assert from_model_a(plan)[FIRST_CONV] == (-0.49, 0.49, 0.0)


def test_a_model_without_the_layer_is_told_of(tmp_path: Path) -> None:
    state = u_net(1)
    lacking = save(tmp_path / "a.safetensors", {key: tensor for key, tensor in state.items() if key != LAST})
    with pytest.raises(MergeError, match=r"CONT, BRI, .* changes .*out\.2\.bias of 4 numbers, which model A lacks"):
        plan_merge(alone(lacking))
    assert plan_merge(alone(lacking, (1, 2, 3))).changes == 5


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("1", (1, 0, 0, 0, 0, 0, 0, 0)),
        ("0,0,0,-1", (0, 0, 0, -1, 0, 0, 0, 0)),
        (" 1, -2 ,.5,1e-1,0,0,0,8,", (1, -2, 0.5, 0.1, 0, 0, 0, 8)),
        ("0,0,0,0,0,0,0,0", None),
    ],
)
def test_numbers_that_are_left_out_are_0(text: str, meant: tuple[float, ...] | None) -> None:
    assert parse_adjust(text) == meant


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,much", 'adjust: "much" is no number'),
        ("", 'adjust: "" is no number'),
        ("1,,2", 'adjust: "" is no number'),
        ("1 2", 'adjust: "1 2" is no number'),
        ("1,2,3,4,5,6,7,8,9", r"adjust takes up to 8 numbers \(IN,OUT,OUT2,CONT,BRI,COL1,COL2,COL3\), not 9"),
        ("0,1e999", "adjust: OUT must be a finite number, not inf"),
    ],
)
def test_what_is_no_adjustment_is_refused(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_adjust(text)


@pytest.mark.parametrize("value", ["12", [1, None], {"IN": 1}, 3, [True], [0.0] * 9])
def test_a_damaged_recipe_is_refused(value: object) -> None:
    data = MergeRecipe(model_source("a"), model_source("b")).to_dict()
    with pytest.raises(RecipeError):
        recipe_from_dict({**data, "adjust": value})


def test_the_command_line(two: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, again = tmp_path / "out.safetensors", tmp_path / "again.safetensors"
    assert main(["merge", str(two["a"]), "--adjust", "-1,0,0,2", "-o", str(out)]) == DONE
    printed = capsys.readouterr()
    assert "warning" not in printed.err
    assert "3 of 1131 tensors change" in printed.out
    assert "3 tensors adjusted: IN -1, CONT 2." in printed.out
    plain = load_file(two["a"])
    assert_adjusted(load_file(out), plain, {key: plain[key].double() for key in SIX}, (-1, 0, 0, 2, 0, 0, 0, 0))
    assert main(["merge", "--recipe", str(out), "-o", str(again)]) == DONE
    assert again.read_bytes() == out.read_bytes()
    with pytest.raises(SystemExit, match=str(WRONG_USAGE)):
        main(["merge", "--recipe", str(out), "--adjust", "none", "-o", str(tmp_path / "none.safetensors")])
    assert "nothing would change" in capsys.readouterr().err
    assert main(["merge", str(two["a"]), "--adjust", "1,x", "-o", str(again), "--overwrite"]) == WRONG_USAGE
    assert '"x" is no number' in capsys.readouterr().err


def test_the_plan_shows_it(two: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", str(two["a"]), str(two["b"]), "--adjust", "1,0,2"]
    assert main(words) == DONE
    printed = capsys.readouterr().out
    assert "adjust: IN 1, OUT2 2" in printed
    assert main([*words, "--json"]) == DONE
    tensors = json.loads(capsys.readouterr().out)["tensors"]
    assert {tensor["key"]: tensor["adjusted"]["factor"] for tensor in tensors if "adjusted" in tensor} == {
        FIRST_CONV: 0.99,
        UNET + "input_blocks.0.0.bias": 1.02,
        UNET + "out.2.weight": 0.98,
    }
    recipe = alone(two["a"], (1, 0, 2))
    assert "adjust IN 1, OUT2 2" in describe_setting(Setting(recipe, ImageRequest("a cat")))
    assert format_adjust(ALL).startswith("IN 3, OUT -4, OUT2 5, CONT -1.5")
    assert any("3 tensors adjusted" in line for line in summarise_plan(plan_merge(recipe)))
