"""LoRAs that need the weight which they change: DoRA, OFT, BOFT, IA3, GLoRA, against their formulas written out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from elemental import (
    CheckpointError,
    LoraSource,
    MergeError,
    MergeMode,
    MergeRecipe,
    ModelSource,
    live_merge,
    merge_to_file,
    model_source,
    plan_merge,
)
from elemental.effects.derivatives import movement_by_alpha
from elemental.lora.layers import read_layers
from elemental.merge.files.open_models import OpenModels

from .conftest import save
from .lora_files import OF_WEIGHT, OfWeight, State, dora, lora, numbers, with_name
from .merging import same_bits
from .reference import ulps
from .test_live import assert_is_file, fake_model
from .test_lora import CLIP, CONV, TO_Q, UNET, XL_OPEN_CLIP, bake, some, source_of

FF = UNET + "input_blocks.1.1.transformer_blocks.0.ff.net.0.proj.weight"
NAMES = {
    TO_Q: "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q",
    FF: "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_ff_net_0_proj",
    CONV: "lora_unet_up_blocks_3_resnets_0_conv1",
    CLIP: "lora_te_text_model_encoder_layers_0_self_attn_q_proj",
}
"""Two linear layers, of which one is square, a convolution, and one of the text encoder."""

Formulas = dict[str, Callable[[Tensor], Tensor]]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Give checkpoints, not to be written to."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return {
        name: save(folder / f"{name}.safetensors", some(layout, seed, dtype))
        for name, layout, seed, dtype in (
            ("half", "sd1", 1, torch.float16),
            ("a", "sd1", 1, torch.float32),
            ("b", "sd1", 2, torch.float32),
            ("sdxl", "sdxl", 1, torch.float32),
        )
    }


def style(
    model: Path, make: Callable[[tuple[int, ...]], OfWeight], names: Mapping[str, str] = NAMES
) -> tuple[State, Formulas]:
    """Make a LoRA of some layers; give its tensors, and its formula for each tensor of the model."""
    state = load_file(model)
    tensors: State = {}
    formulas: Formulas = {}
    for key, name in names.items():
        made = make(tuple(state[key].shape))
        tensors |= with_name(name, made)
        formulas[key] = made[1]
    return tensors, formulas


def toward(weight: Tensor, formula: Callable[[Tensor], Tensor], ratio: float) -> Tensor:
    return weight + ratio * (formula(weight) - weight)


def merged(recipe: MergeRecipe, out: Path) -> State:
    return load_file(merge_to_file(recipe, out, with_hashes=False, overwrite=True).path)


@pytest.mark.parametrize("model", ["half", "a"])
@pytest.mark.parametrize("make", OF_WEIGHT.values(), ids=OF_WEIGHT)
def test_every_format(
    checkpoints: dict[str, Path], tmp_path: Path, make: Callable[[tuple[int, ...]], OfWeight], model: str
) -> None:
    tensors, formulas = style(checkpoints[model], make)
    file = save(tmp_path / "style.safetensors", tensors)
    recipe = bake(checkpoints[model], source_of(file, 0.7, -0.4))
    before, after = load_file(checkpoints[model]), merged(recipe, tmp_path / "out.safetensors")
    for key, tensor in before.items():
        if key not in formulas:
            assert same_bits(after[key], tensor), key
            continue
        exact = toward(tensor.double(), formulas[key], -0.4 if key == CLIP else 0.7)
        assert ulps(after[key], exact, lost=1e-13) <= 0.51, key
        assert not torch.equal(after[key], tensor), key
    (fit,) = plan_merge(recipe).loras
    assert fit.summary == "LoRA style.safetensors: 4 of 4 layers, in 4 tensors."
    assert not fit.warning


def test_ratio_1_is_the_formula_itself_and_ratio_0_nothing(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    tensors, formulas = style(checkpoints["a"], OF_WEIGHT["DoRA of outputs"])
    file, before = save(tmp_path / "style.safetensors", tensors), load_file(checkpoints["a"])
    after = merged(bake(checkpoints["a"], source_of(file, 1.0, 0.0)), tmp_path / "out.safetensors")
    assert same_bits(after[CLIP], before[CLIP])
    assert ulps(after[CONV], formulas[CONV](before[CONV].double()), lost=1e-14) <= 0.51
    lengths = after[FF].double().norm(dim=1)
    torch.testing.assert_close(lengths, tensors[NAMES[FF] + ".dora_scale"].double().reshape(-1), rtol=1e-6, atol=0)


def test_what_a_mode_gives_is_changed_and_rounded_once(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    tensors, formulas = style(checkpoints["a"], OF_WEIGHT["DoRA of inputs"])
    file = save(tmp_path / "style.safetensors", tensors)
    a, b = load_file(checkpoints["a"]), load_file(checkpoints["b"])
    for mode in (MergeMode.WEIGHT_SUM, MergeMode.SLERP):
        models = model_source(checkpoints["a"]), model_source(checkpoints["b"])
        recipe = MergeRecipe(*models, mode=mode, alpha=0.3, loras=(source_of(file, 0.7),))
        after = merged(recipe, tmp_path / "out.safetensors")
        plain = merged(replace(recipe, loras=()), tmp_path / "plain.safetensors")
        for key, formula in formulas.items():
            weight = a[key].double() + 0.3 * (b[key].double() - a[key].double())
            if mode is MergeMode.WEIGHT_SUM:
                assert ulps(after[key], toward(weight, formula, 0.7), lost=1e-13) <= 0.51, key
            else:  # the mode's own result, which is known as rounded
                torch.testing.assert_close(after[key], toward(plain[key].double(), formula, 0.7).float())


def test_loras_are_applied_in_the_order_of_the_recipe(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    names = {key: NAMES[key] for key in (TO_Q, CONV)}
    scaled, of_scaled = style(checkpoints["a"], OF_WEIGHT["DoRA of outputs"], names)
    turned, of_turned = style(checkpoints["a"], OF_WEIGHT["BOFT"], {TO_Q: names[TO_Q]})
    made = lora((8, 8))
    steps: list[tuple[Path, float, Callable[[Tensor], Tensor]]] = [
        (save(tmp_path / "scaled.safetensors", scaled), 0.7, lambda weight: toward(weight, of_scaled[TO_Q], 0.7)),
        (
            save(tmp_path / "added.safetensors", with_name(names[TO_Q], made)),
            -0.5,
            lambda weight: weight - 0.5 * made[1],
        ),
        (save(tmp_path / "turned.safetensors", turned), 1.2, lambda weight: toward(weight, of_turned[TO_Q], 1.2)),
    ]
    before, results = load_file(checkpoints["a"])[TO_Q], []
    for order in ((0, 1, 2), (1, 0, 2), (2, 1, 0)):
        loras = [source_of(*steps[place][:2]) for place in order]
        results.append(merged(bake(checkpoints["a"], *loras), tmp_path / "out.safetensors")[TO_Q])
        exact = before.double()
        for place in order:
            exact = steps[place][2](exact)
        assert ulps(results[-1], exact, lost=1e-13) <= 0.51
    assert not torch.equal(results[0], results[1])


def test_a_layer_that_is_a_part_of_a_tensor_or_its_transpose(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    state = load_file(checkpoints["sdxl"])
    fused, projection = XL_OPEN_CLIP + "attn.in_proj_weight", "conditioner.embedders.1.model.text_projection"
    width = state[fused].shape[1]
    for make in (OF_WEIGHT["DoRA of outputs"], OF_WEIGHT["DoRA of inputs"], OF_WEIGHT["OFT"], OF_WEIGHT["GLoRA"]):
        keys, turned = make((width, width)), make(tuple(state[projection].shape)[::-1])
        place = "lora_te2_text_model_encoder_layers_1_self_attn_k_proj"
        file = save(
            tmp_path / "style.safetensors", with_name(place, keys) | with_name("lora_te2_text_projection", turned)
        )
        after = merged(bake(checkpoints["sdxl"], source_of(file, 0.7)), tmp_path / "out.safetensors")
        query, key, value = after[fused].view(3, width, width)
        assert same_bits(query, state[fused][:width])
        assert same_bits(value, state[fused][2 * width :])
        assert ulps(key, toward(state[fused][width : 2 * width].double(), keys[1], 0.7), lost=1e-13) <= 0.51
        exact = toward(state[projection].double().T, turned[1], 0.7).T
        assert ulps(after[projection], exact, lost=1e-13) <= 0.51


def test_large_tensors_have_the_same_bytes_in_any_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from elemental.merge import execute

    large = some("sd1", 1, torch.float16)
    large[TO_Q] = numbers(1200, 800)
    model = save(tmp_path / "large.safetensors", large)
    made = OF_WEIGHT["DoRA of outputs"]((1200, 800))
    turned = OF_WEIGHT["OFT"]((1200, 800))
    files = [
        save(tmp_path / f"{name}.safetensors", with_name(NAMES[TO_Q], each))
        for name, each in (("dora", made), ("oft", turned))
    ]
    results = []
    for threads in (0, 1, 2, 3):  # 0: in the caller's thread, and as many of torch's as there are
        monkeypatch.setattr(execute, "_THREAD_BYTES", 0 if threads else 1 << 40)
        monkeypatch.setattr(execute, "_MAX_THREADS", threads)
        recipe = bake(model, *(source_of(file, 0.7) for file in files))
        out = merge_to_file(recipe, tmp_path / f"out{threads}.safetensors", with_hashes=False)
        results.append(out.path.read_bytes())
    assert len(set(results)) == 1
    exact = toward(toward(large[TO_Q].double(), made[1], 0.7), turned[1], 0.7)
    assert ulps(load_file(out.path)[TO_Q], exact, lost=1e-13) <= 0.51


def test_the_live_merge_is_the_file(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    tensors, formulas = style(checkpoints["a"], OF_WEIGHT["DoRA of outputs"])
    turns, _ = style(checkpoints["a"], OF_WEIGHT["OFT that rescales"], {FF: NAMES[FF]})
    files = [save(tmp_path / "one.safetensors", tensors), save(tmp_path / "two.safetensors", turns)]
    a, b = model_source(checkpoints["a"]), model_source(checkpoints["b"])

    def recipe(alpha: float, *loras: LoraSource) -> MergeRecipe:
        return MergeRecipe(a, b, alpha=alpha, loras=loras)

    steps = [
        recipe(0.3, source_of(files[0], 0.4)),
        recipe(0.3, source_of(files[0], 0.6)),
        recipe(0.3, source_of(files[1], 1.0), source_of(files[0], 0.6)),
        recipe(0.3, source_of(files[0], 0.6), source_of(files[1], 1.0)),
        recipe(0.3),
    ]
    model = fake_model(checkpoints["a"])
    before = model.digest()
    with live_merge(model) as merge:
        for index, step in enumerate(steps):
            written = {tensor.name.key for tensor in merge.apply(step).plan.tensors}
            assert index != 1 or written == set(formulas)
            assert_is_file(model, merge_to_file(step, tmp_path / f"{index}.safetensors", with_hashes=False).path)
            assert merge.is_intact()
    assert model.digest() == before


def test_in_a_recipe_that_stands_in_the_place_of_a_model(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    tensors, formulas = style(checkpoints["a"], OF_WEIGHT["DoRA of outputs"])
    inner = bake(checkpoints["a"], source_of(save(tmp_path / "style.safetensors", tensors), 0.7))
    outer = MergeRecipe(ModelSource("inner.json", recipe=inner), model_source(checkpoints["b"]), alpha=0.25)
    after = merged(outer, tmp_path / "out.safetensors")
    a, b = load_file(checkpoints["a"]), load_file(checkpoints["b"])
    for key, formula in formulas.items():
        exact = 0.75 * toward(a[key].double(), formula, 0.7) + 0.25 * b[key].double()
        assert ulps(after[key], exact, lost=1e-13) <= 0.51, key


@pytest.mark.parametrize("mode", [MergeMode.WEIGHT_SUM, MergeMode.SLERP], ids=lambda mode: mode.value)
def test_the_derivative_by_alpha_holds_what_the_lora_does(
    checkpoints: dict[str, Path], tmp_path: Path, mode: MergeMode
) -> None:
    tensors, formulas = style(checkpoints["a"], OF_WEIGHT["DoRA of outputs"])
    file = save(tmp_path / "style.safetensors", tensors)
    a, b = model_source(checkpoints["a"]), model_source(checkpoints["b"])
    recipe = MergeRecipe(a, b, mode=mode, alpha=0.3, loras=(source_of(file, 0.7),))
    with OpenModels() as models:
        plan = models.planner(recipe).plan(recipe)
        movement = movement_by_alpha(plan, models.open(recipe), models.loras(recipe))
        plain = replace(recipe, loras=())
        without = movement_by_alpha(models.planner(plain).plan(plain), models.open(plain))
        assert movement.keys == without.keys
        for key in (*formulas, UNET + "time_embed.0.weight"):
            count = load_file(checkpoints["a"])[key].numel()
            found, plainly = movement.read(key, 0, count), without.read(key, 0, count)
            if key not in formulas:
                torch.testing.assert_close(found, plainly, rtol=1e-5, atol=1e-6)
                continue
            assert not torch.allclose(found, plainly, rtol=1e-2)
            if mode is MergeMode.WEIGHT_SUM:
                one, two = (load_file(checkpoints[name])[key].double() for name in "ab")
                above, below = (
                    toward(one + alpha * (two - one), formulas[key], 0.7) for alpha in (0.3 + 1e-4, 0.3 - 1e-4)
                )
                expected = ((above - below) / 2e-4).reshape(-1).float()
                torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_rows_of_zeros_stay_zeros(tmp_path: Path) -> None:
    state = some("sd1", 1, torch.float32)
    state[TO_Q][3] = 0
    tensors, added = lora((8, 8))
    tensors[".lora_up.weight"][3], added[3] = 0, 0
    made = dora((tensors, added), {".dora_scale": numbers(8, 1)})
    model = save(tmp_path / "a.safetensors", state)
    file = save(tmp_path / "style.safetensors", with_name(NAMES[TO_Q], made))
    after = merged(bake(model, source_of(file)), tmp_path / "out.safetensors")[TO_Q]
    assert not after[3].any()
    assert after.isfinite().all()


def test_numbers_that_are_not_finite(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    tensors, _ = style(checkpoints["a"], OF_WEIGHT["DoRA of outputs"], {TO_Q: NAMES[TO_Q]})
    tensors[NAMES[TO_Q] + ".dora_scale"][0] = float("nan")
    file = save(tmp_path / "style.safetensors", tensors)
    with pytest.raises(MergeError, match=r"What style\.safetensors makes of .*attn1\.to_q\.weight is not finite"):
        merge_to_file(bake(checkpoints["a"], source_of(file)), tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
    tensors, _ = style(checkpoints["a"], OF_WEIGHT["DoRA of outputs"], {TO_Q: NAMES[TO_Q]})
    state = load_file(checkpoints["a"])
    state[TO_Q][0, 0] = float("nan")
    recipe = bake(save(tmp_path / "bad.safetensors", state), source_of(save(file, tensors)))
    result = merge_to_file(recipe, tmp_path / "out.safetensors")  # a model's own are told of, and spread
    assert {key for _, key in result.not_finite} == {TO_Q}


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_blocks_that_cannot_be_turned_by(checkpoints: dict[str, Path], tmp_path: Path, number: float) -> None:
    for blocks in (torch.full((1, 8, 8), number), torch.full((2, 2, 4, 4), number)):
        blocks[..., 0, 1], blocks[..., 2, 1] = 1, 2
        file = save(tmp_path / "style.safetensors", {NAMES[TO_Q] + ".oft_blocks": blocks})
        with pytest.raises(MergeError, match=r"is not finite|NaN, infinite or far too large numbers"):
            merge_to_file(bake(checkpoints["a"], source_of(file)), tmp_path / "out.safetensors")


def test_shapes_that_do_not_fit_the_model_are_counted(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    names = {key: NAMES[key] for key in (FF, CONV, CLIP)}
    for wrong in (
        with_name(NAMES[TO_Q], dora(lora((8, 8)), {".dora_scale": numbers(4, 1)})),
        with_name(NAMES[TO_Q], OF_WEIGHT["OFT"]((6, 8))),
        with_name(NAMES[TO_Q], OF_WEIGHT["BOFT"]((16, 8))),
        with_name(NAMES[TO_Q], OF_WEIGHT["IA3 of inputs"]((8, 9))),
        with_name(NAMES[TO_Q], OF_WEIGHT["GLoRA"]((8, 9))),
    ):
        tensors, _ = style(checkpoints["a"], OF_WEIGHT["DoRA of inputs"], names)
        file = save(tmp_path / "style.safetensors", tensors | wrong)
        with pytest.raises(MergeError, match=rf"1 have another shape in model A, such as {NAMES[TO_Q]}"):
            plan_merge(bake(checkpoints["a"], source_of(file)))
        (fit,) = plan_merge(bake(checkpoints["a"], source_of(file), force=True)).loras
        assert fit.summary == "LoRA style.safetensors: 3 of 4 layers, in 3 tensors."


def test_ia3_that_contradicts_itself_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    tensors, _ = style(checkpoints["a"], OF_WEIGHT["IA3 of inputs"], {FF: NAMES[FF]})
    tensors[NAMES[FF] + ".on_input"] = torch.tensor(0)
    rows, columns = load_file(checkpoints["a"])[FF].shape
    file = save(tmp_path / "style.safetensors", tensors)
    with pytest.raises(CheckpointError, match=rf"{NAMES[FF]}, there are {columns} numbers for {rows} outputs\."):
        merge_to_file(bake(checkpoints["a"], source_of(file)), tmp_path / "out.safetensors")


def test_damaged_layers_are_refused() -> None:
    for shapes, message in (
        ({".dora_scale": (8, 1)}, "of the layer lora_unet_x there is only"),
        ({".dora_scale": (8, 1), ".diff": (8, 8)}, r"there is only lora_unet_x\.dora_scale"),
        ({".on_input": ()}, "there is only"),
        ({".rescale": (8, 1)}, "there is only"),
        ({".a1.weight": (8, 4), ".a2.weight": (4, 8), ".b1.weight": (8, 4)}, "there is only"),
        (
            {".a1.weight": (8, 4), ".a2.weight": (4, 8), ".b1.weight": (8, 4), ".b2.weight": (3, 8)},
            "do not fit together",
        ),
        ({".oft_blocks": (4, 2, 3)}, "do not fit together"),
        ({".oft_blocks": (4, 2)}, "do not fit together"),
        ({".oft_blocks": (2, 3, 4, 4)}, "do not fit together"),
        ({".oft_blocks": (4, 2, 2), ".rescale": (7, 1)}, "do not fit together"),
    ):
        with pytest.raises(CheckpointError, match=message):
            read_layers({f"lora_unet_x{end}": shape for end, shape in shapes.items()}, {}, name="l.safetensors")


def test_kohyas_name_of_oft(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    made = OF_WEIGHT["OFT with a limit"]((8, 8))
    name = NAMES[TO_Q].replace("lora_unet_", "oft_unet_")
    file = save(tmp_path / "style.safetensors", with_name(name, made))
    after = merged(bake(checkpoints["a"], source_of(file)), tmp_path / "out.safetensors")
    before = load_file(checkpoints["a"])[TO_Q].double()
    assert ulps(after[TO_Q], made[1](before), lost=1e-13) <= 0.51
