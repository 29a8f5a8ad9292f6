"""LoRAs: every format and spelling against its formula written out, counted, and the wrong ones refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from elemental import (
    Checkpoint,
    CheckpointError,
    LoraSource,
    MergeError,
    MergeMode,
    MergeRecipe,
    RecipeError,
    SaveDtype,
    live_merge,
    merge_to_file,
    model_source,
    parse_rules,
    plan_merge,
    read_recipe,
)
from elemental.lora.layers import read_layers
from elemental.merge.files.metadata import name_recipe
from elemental.recipe.recipe import recipe_from_dict

from . import lora_files
from .conftest import LAYOUTS, random_state, save
from .lora_files import KERNEL, LINEAR, RANK, Made, State, full, lora, numbers, with_name
from .merging import same_bits
from .reference import float64_formula, ulps
from .test_live import assert_is_file, fake_model

UNET = "model.diffusion_model."
TO_Q = UNET + "input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
CONV = UNET + "output_blocks.9.0.in_layers.2.weight"
CLIP = "cond_stage_model.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight"
XL_CLIP = "conditioner.embedders.0.transformer.text_model.encoder.layers.0.mlp.fc1.weight"
XL_OPEN_CLIP = "conditioner.embedders.1.model.transformer.resblocks.1."
OPEN_CLIP = "cond_stage_model.model.transformer.resblocks.1."

SPELLINGS = {
    "sd1": {
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": TO_Q,
        "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q": TO_Q,
        "lora_unet_mid_block_attentions_0_proj_in": UNET + "middle_block.1.proj_in.weight",
        "lora_unet_up_blocks_1_attentions_2_transformer_blocks_0_ff_net_0_proj": UNET
        + "output_blocks.5.1.transformer_blocks.0.ff.net.0.proj.weight",
        "lora_unet_up_blocks_3_resnets_0_conv1": CONV,
        "lora_unet_down_blocks_1_downsamplers_0_conv": UNET + "input_blocks.6.0.op.weight",
        "lora_unet_time_embedding_linear_1": UNET + "time_embed.0.weight",
        "lora_unet_conv_out": UNET + "out.2.weight",
        "lora_te_text_model_encoder_layers_0_self_attn_q_proj": CLIP,
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": TO_Q,
        "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0": UNET
        + "middle_block.1.transformer_blocks.0.attn2.to_out.0.weight",
        "diffusion_model.output_blocks.9.0.in_layers.2": CONV,
        "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": TO_Q,
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj": CLIP,
    },
    "sd2": {
        "lora_unet_down_blocks_0_attentions_0_proj_in": UNET + "input_blocks.1.1.proj_in.weight",
        "lora_te_text_model_encoder_layers_1_mlp_fc1": OPEN_CLIP + "mlp.c_fc.weight",
        "text_encoder.text_model.encoder.layers.1.self_attn.out_proj": OPEN_CLIP + "attn.out_proj.weight",
    },
    "sdxl": {
        "lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_k": UNET
        + "input_blocks.4.1.transformer_blocks.1.attn2.to_k.weight",
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_1_attn2_to_k": UNET
        + "input_blocks.4.1.transformer_blocks.1.attn2.to_k.weight",
        "unet.up_blocks.0.attentions.1.transformer_blocks.9.ff.net.2": UNET
        + "output_blocks.1.1.transformer_blocks.9.ff.net.2.weight",
        "unet.add_embedding.linear_2": UNET + "label_emb.0.2.weight",
        "lora_te1_text_model_encoder_layers_0_mlp_fc1": XL_CLIP,
        "lora_te2_text_model_encoder_layers_1_mlp_fc2": XL_OPEN_CLIP + "mlp.c_proj.weight",
        "text_encoder.text_model.encoder.layers.0.mlp.fc1": XL_CLIP,
        "text_encoder_2.text_model.encoder.layers.1.self_attn.out_proj": XL_OPEN_CLIP + "attn.out_proj.weight",
    },
}
"""Names of layers in LoRA files, and the tensors that they stand for, as the two layouts have them."""


_KEPT = (
    "_blocks.0.0.",
    "in_layers.",
    "proj_in.",
    ".1.norm.",
    "attn1.to_",
    "attn2.to_k.",
    "time_embed.",
    "position_ids",
)


def some(layout: str, seed: int, dtype: torch.dtype) -> State:
    """Give some tensors of every block of a small checkpoint, and all that tests name."""
    named = {*SPELLINGS[layout].values(), "conditioner.embedders.1.model.text_projection"}
    parts = (*_KEPT, "resblocks.1.attn.in_proj_", "label_emb.0.", "ff.net.0.proj.")
    state = random_state(LAYOUTS[layout], seed, dtype)
    return {key: tensor for key, tensor in state.items() if key in named or any(part in key for part in parts)}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Give two checkpoints of each architecture, not to be written to, and a third SD 1.x."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return {
        f"{name}{seed}": save(folder / f"{name}{seed}.safetensors", some(name, seed, torch.float32))
        for name, layout in LAYOUTS.items()
        for seed in (1, 2, 3)[: 3 if name == "sd1" else 2]
    }


def bake(model: Path, *loras: LoraSource, **parts: Any) -> MergeRecipe:
    source = model_source(model)
    return MergeRecipe(source, source, **{"alpha": 0.0, "loras": loras, **parts})


def source_of(path: Path, ratio: float = 1.0, ratio_te: float | None = None) -> LoraSource:
    return LoraSource(model_source(path), ratio, ratio_te)


def baked(tmp_path: Path, model: Path, tensors: State, ratio: float = 0.7, **parts: Any) -> tuple[State, State]:
    """Add a LoRA to a checkpoint; give the tensors before and after."""
    file = save(tmp_path / "style.safetensors", tensors)
    recipe = bake(model, source_of(file, ratio), **parts)
    return load_file(model), load_file(merge_to_file(recipe, tmp_path / "out.safetensors", overwrite=True).path)


def assert_adds(before: State, after: State, added: Mapping[str, Tensor]) -> None:
    """Check that some tensors have what is added, rounded once, and all others the same bytes."""
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        if key in added:
            exact = tensor.double() + added[key]
            assert ulps(after[key], exact, lost=1e-14) <= 0.51, key
            assert not torch.equal(after[key], tensor), key
        else:
            assert same_bits(after[key], tensor), key


@pytest.mark.parametrize("layout", SPELLINGS)
def test_every_spelling_finds_its_tensor(checkpoints: dict[str, Path], tmp_path: Path, layout: str) -> None:
    shapes = {key: tensor.shape for key, tensor in load_file(checkpoints[f"{layout}1"]).items()}
    tensors: State = {}
    added: dict[str, Tensor] = {}
    for name, key in SPELLINGS[layout].items():
        made = lora(tuple(shapes[key]))
        tensors |= with_name(name, made)
        added[key] = added.get(key, 0) + made[1] * 0.7
    before, after = baked(tmp_path, checkpoints[f"{layout}1"], tensors)
    assert_adds(before, after, added)


ENDS = {
    "PEFT": (".lora_A.weight", ".lora_B.weight"),
    "PEFT with an adapter's name": (".lora_A.default.weight", ".lora_B.default.weight"),
    "diffusers": (".lora.down.weight", ".lora.up.weight"),
    "diffusers in text encoders": (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
}


@pytest.mark.parametrize("ends", ENDS.values(), ids=ENDS)
def test_every_spelling_of_factors(checkpoints: dict[str, Path], tmp_path: Path, ends: tuple[str, str]) -> None:
    made = lora((8, 8), names=ends)
    name = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    before, after = baked(tmp_path, checkpoints["sd11"], with_name(name, made))
    assert_adds(before, after, {TO_Q: made[1] * 0.7})


def test_processors_of_the_first_diffusers(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    made = lora((8, 8), names=("_lora.down.weight", "_lora.up.weight"))
    place = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_out"
    before, after = baked(tmp_path, checkpoints["sd11"], with_name(place, made))
    assert_adds(before, after, {TO_Q.replace("to_q", "to_out.0"): made[1] * 0.7})


@pytest.mark.parametrize("make", LINEAR.values(), ids=LINEAR)
def test_every_format_of_a_linear_layer(
    checkpoints: dict[str, Path], tmp_path: Path, make: Callable[[tuple[int, ...]], Made]
) -> None:
    key = UNET + "input_blocks.1.1.transformer_blocks.0.ff.net.0.proj.weight"
    made = make(tuple(load_file(checkpoints["sd11"])[key].shape))
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_ff_net_0_proj"
    before, after = baked(tmp_path, checkpoints["sd11"], with_name(name, made))
    assert_adds(before, after, {key: made[1] * 0.7})


@pytest.mark.parametrize("make", KERNEL.values(), ids=KERNEL)
def test_every_format_of_a_convolution(
    checkpoints: dict[str, Path], tmp_path: Path, make: Callable[[tuple[int, ...]], Made]
) -> None:
    made = make(tuple(load_file(checkpoints["sd11"])[CONV].shape))
    before, after = baked(tmp_path, checkpoints["sd11"], with_name("lora_unet_up_blocks_3_resnets_0_conv1", made))
    assert_adds(before, after, {CONV: made[1] * 0.7})


def test_a_matrix_may_stand_for_a_convolution_of_one_point(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    key = UNET + "input_blocks.1.1.proj_in.weight"
    assert load_file(checkpoints["sd11"])[key].shape == (8, 8, 1, 1)
    made = lora((8, 8))
    before, after = baked(tmp_path, checkpoints["sd11"], with_name("lora_unet_input_blocks_1_1_proj_in", made))
    assert_adds(before, after, {key: made[1].reshape(8, 8, 1, 1) * 0.7})


def test_biases_and_norms(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    key, norm = UNET + "input_blocks.1.1.proj_in", UNET + "input_blocks.1.1.norm"
    place = "lora_unet_down_blocks_0_attentions_0_"
    tensors = {
        **with_name(place + "proj_in", (made := lora((8, 8, 1, 1)))),
        **with_name(place + "proj_in", (bias := full((8,), ".diff_b"))),
        **with_name(place + "norm", (scale := full((8,), ".w_norm"))),
        **with_name(place + "norm", (shift := full((8,), ".b_norm"))),
    }
    before, after = baked(tmp_path, checkpoints["sd11"], tensors)
    added = {f"{key}.weight": made, f"{key}.bias": bias, f"{norm}.weight": scale, f"{norm}.bias": shift}
    assert_adds(before, after, {each: delta * 0.7 for each, (_, delta) in added.items()})


@pytest.mark.parametrize(
    ("layout", "prefix", "network"),
    [("sd2", OPEN_CLIP, "lora_te"), ("sdxl", XL_OPEN_CLIP, "lora_te2")],
)
def test_queries_keys_and_values_of_openclip_are_rows_of_one_tensor(
    checkpoints: dict[str, Path], tmp_path: Path, layout: str, prefix: str, network: str
) -> None:
    key = prefix + "attn.in_proj_weight"
    width = load_file(checkpoints[f"{layout}1"])[key].shape[1]
    place = f"{network}_text_model_encoder_layers_1_self_attn_"
    query, value = lora((width, width)), lora((width, width))
    bias = full((width,), ".diff_b")
    tensors = (
        with_name(place + "q_proj", query) | with_name(place + "v_proj", value) | with_name(place + "v_proj", bias)
    )
    before, after = baked(tmp_path, checkpoints[f"{layout}1"], tensors)
    nothing = torch.zeros(width, width, dtype=torch.float64)
    added = {
        key: torch.cat([query[1], nothing, value[1]]) * 0.7,
        prefix + "attn.in_proj_bias": torch.cat([nothing[0], nothing[0], bias[1]]) * 0.7,
    }
    assert_adds(before, after, added)


def test_openclips_projection_is_transposed(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    key = "conditioner.embedders.1.model.text_projection"
    shape = tuple(load_file(checkpoints["sdxl1"])[key].shape)
    made = lora(shape[::-1])
    before, after = baked(tmp_path, checkpoints["sdxl1"], with_name("lora_te2_text_projection", made))
    assert_adds(before, after, {key: made[1].T * 0.7})


def test_the_alpha_of_peft_is_in_the_header(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    made = lora((8, 8), names=ENDS["PEFT"])
    name = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    for settings, scale in (
        ('{"unet.lora_alpha": 8, "unet.r": 4}', 8 / RANK),
        ('{"unet.lora_alpha": 8, "unet.use_rslora": true}', 8 / RANK**0.5),
        ('{"unet.lora_alpha": 8, "unet.alpha_pattern": {"attn1.to_q": 2}}', 2 / RANK),
        ("no JSON", 1.0),
    ):
        file = save(tmp_path / "p.safetensors", with_name(name, made), {"lora_adapter_metadata": settings})
        merged = merge_to_file(bake(checkpoints["sd11"], source_of(file)), tmp_path / "out.safetensors", overwrite=True)
        assert_adds(load_file(checkpoints["sd11"]), load_file(merged.path), {TO_Q: made[1] * scale})


def style(checkpoint: Path) -> tuple[State, dict[str, Tensor]]:
    """Make a LoRA of several layers of SD 1.x; give its tensors, and what it adds by key."""
    shapes = {key: tuple(tensor.shape) for key, tensor in load_file(checkpoint).items()}
    tensors: State = {}
    added: dict[str, Tensor] = {}
    for name, key in SPELLINGS["sd1"].items():
        if name.startswith("lora_") and key not in added:
            made = lora(shapes[key])
            tensors |= with_name(name, made)
            added[key] = made[1]
    return tensors, added


MODES = {
    MergeMode.WEIGHT_SUM: (0.3, None),
    MergeMode.SLERP: (0.3, None),
    MergeMode.SUM_TWICE: (0.3, 0.25),
    MergeMode.TRAIN_DIFFERENCE: (0.3, None),
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_a_lora_is_added_to_what_a_mode_gives_and_rounded_once(
    checkpoints: dict[str, Path], tmp_path: Path, mode: MergeMode, dtype: torch.dtype
) -> None:
    states = [some("sd1", seed, dtype) for seed in (1, 2, 3)[: 3 if mode.uses_c else 2]]
    a, b, *c = [model_source(save(tmp_path / f"{seed}.safetensors", each)) for seed, each in enumerate(states)]
    tensors, added = style(checkpoints["sd11"])
    file = save(tmp_path / "style.safetensors", tensors)
    alpha, beta = MODES[mode]
    recipe = MergeRecipe(
        a, b, c[0] if c else None, mode=mode, alpha=alpha, beta=beta, loras=(source_of(file, 0.4, 0.9),)
    )
    after = load_file(merge_to_file(recipe, tmp_path / "out.safetensors").path)
    plain = load_file(merge_to_file(replace(recipe, loras=()), tmp_path / "plain.safetensors").path)
    for key, tensor in after.items():
        if key not in added:
            assert same_bits(tensor, plain[key]), key
            continue
        ratio = 0.9 if key.startswith("cond_stage_model.") else 0.4
        exact = float64_formula(mode.value, [each[key] for each in states], alpha, beta or 0.0) + ratio * added[key]
        assert ulps(tensor, exact, lost=1e-14) <= 0.51, key


def test_several_loras_are_added_together(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    name = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q"
    one, two = lora((8, 8)), LINEAR["LoHa"]((8, 8))
    files = [save(tmp_path / f"{i}.safetensors", with_name(name, made)) for i, made in enumerate((one, two))]
    recipe = bake(checkpoints["sd11"], source_of(files[0], 0.5), source_of(files[1], -1.5))
    after = load_file(merge_to_file(recipe, tmp_path / "out.safetensors").path)
    assert_adds(load_file(checkpoints["sd11"]), after, {TO_Q: 0.5 * one[1] - 1.5 * two[1]})


def test_large_tensors_have_the_same_bytes_in_any_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from elemental.merge import execute

    large = some("sd1", 1, torch.float16)
    large[TO_Q] = numbers(1500, 1000)
    model = save(tmp_path / "large.safetensors", large)
    made = lora((1500, 1000))
    file = save(
        tmp_path / "style.safetensors", with_name("lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q", made)
    )
    results = []
    for threads in (0, 1, 3):  # 0: in the caller's thread, and as many of torch's as there are
        monkeypatch.setattr(execute, "_THREAD_BYTES", 0 if threads else 1 << 40)
        monkeypatch.setattr(execute, "_MAX_THREADS", threads)
        out = merge_to_file(bake(model, source_of(file, 0.7)), tmp_path / f"{threads}.safetensors", with_hashes=False)
        results.append(out.path.read_bytes())
    assert results[0] == results[1] == results[2]
    exact = large[TO_Q].double() + made[1] * 0.7
    assert ulps(load_file(out.path)[TO_Q], exact, lost=1e-14) <= 0.51


def test_the_live_merge_is_the_file_and_other_ratios_write_only_what_they_move(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    tensors, added = style(checkpoints["sd11"])
    file = save(tmp_path / "style.safetensors", tensors)
    a, b = model_source(checkpoints["sd11"]), model_source(checkpoints["sd12"])
    recipe = MergeRecipe(a, b, alpha=0.3, loras=(source_of(file, 0.4),))
    in_text = {key for key in added if key.startswith("cond_stage_model.")}
    steps = [
        (recipe, None),
        (replace(recipe, loras=(source_of(file, 0.6),)), set(added)),
        (replace(recipe, loras=(source_of(file, 0.6, 0.1),)), in_text),
        (replace(recipe, loras=(source_of(file, 0.0, 0.1),)), set(added) - in_text),
        (
            replace(recipe, loras=(source_of(file, 0.0, 0.1),), rules=parse_rules("IN00:time_embed.2:0")),
            {UNET + "time_embed.2.weight", UNET + "time_embed.2.bias"},
        ),
        (replace(recipe, loras=()), in_text | {UNET + "time_embed.2.weight", UNET + "time_embed.2.bias"}),
    ]
    model = fake_model(checkpoints["sd11"])
    before = model.digest()
    with live_merge(model) as merge:
        for index, (step, moved) in enumerate(steps):
            written = {tensor.name.key for tensor in merge.apply(step).plan.tensors}
            assert moved is None or written == moved, index
            merged = merge_to_file(step, tmp_path / f"{index}.safetensors", with_hashes=False)
            assert_is_file(model, merged.path)
            assert merge.is_intact()
    assert model.digest() == before


def test_a_lora_that_changes_on_disk_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    tensors, _ = style(checkpoints["sd11"])
    file = save(tmp_path / "style.safetensors", tensors)
    model = fake_model(checkpoints["sd11"])
    with live_merge(model) as merge:
        merge.apply(bake(checkpoints["sd11"], source_of(file, 0.4)))
        file.write_bytes(file.read_bytes()[:-1] + b"\0")
        with pytest.raises(CheckpointError, match=r"style\.safetensors changed while it was read"):
            merge.apply(bake(checkpoints["sd11"], source_of(file, 0.5)))


def test_the_recipe_of_the_result_repeats_it(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    tensors, _ = style(checkpoints["sd11"])
    file = save(tmp_path / "style.safetensors", tensors)
    recipe = bake(checkpoints["sd11"], source_of(file, 0.4, 0.0), dtype=SaveDtype.FP16)
    first = merge_to_file(recipe, tmp_path / "out.safetensors").path
    again = read_recipe(first)
    (found,) = again.loras
    assert (found.file.path, found.ratio, found.ratio_te) == ("style.safetensors", 0.4, 0.0)
    assert found.file.size == file.stat().st_size
    assert len(found.file.sha256 or "") == 64
    assert recipe_from_dict(again.to_dict()) == again
    assert merge_to_file(again, tmp_path / "again.safetensors").path.read_bytes() == first.read_bytes()


def test_a_recipe_without_loras_is_written_as_it_was() -> None:
    assert "loras" not in MergeRecipe(model_source("a"), model_source("b")).to_dict()


def test_ratios_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    for ratio, ratio_te in ((float("nan"), None), (1.0, float("inf"))):
        with pytest.raises(RecipeError, match="ratio of a LoRA must be a finite number"):
            bake(tmp_path / "a.safetensors", source_of(tmp_path / "l.safetensors", ratio, ratio_te))
    data = bake(tmp_path / "a.safetensors", source_of(tmp_path / "l.safetensors")).to_dict()
    data["loras"][0]["weight"] = 1
    with pytest.raises(RecipeError, match='The LoRA has the unknown entry "weight"'):
        recipe_from_dict(data)


def test_what_has_no_place_is_named_or_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    shapes = {key: tuple(tensor.shape) for key, tensor in load_file(checkpoints["sd11"]).items()}
    blocks = [key for key in shapes if key.startswith(UNET + "output_blocks.") and key.endswith("in_layers.2.weight")]
    tensors: State = {}
    for key in blocks[:10]:
        layer = key.removeprefix(UNET).removesuffix(".weight").replace(".", "_")
        tensors |= with_name(f"lora_unet_{layer}", lora(shapes[key]))
    stray = with_name("lora_unet_up_blocks_9_resnets_0_conv1", lora((8, 8)))
    file = save(tmp_path / "style.safetensors", {**tensors, **stray})
    plan = plan_merge(bake(checkpoints["sd11"], source_of(file)))
    (fit,) = plan.loras
    assert fit.summary == "LoRA style.safetensors: 10 of 11 layers, in 10 tensors."
    assert [warning.message for warning in plan.warnings] == [
        "Of the 11 layers of the LoRA style.safetensors, 1 have no place in model A, such as "
        "lora_unet_up_blocks_9_resnets_0_conv1; the rest is added."
    ]
    assert {tensor.name.key for tensor in plan.tensors if tensor.loras} == set(blocks[:10])
    wide = with_name("lora_unet_up_blocks_0_resnets_0_conv2", lora((8, 8)))
    recipe = bake(checkpoints["sd11"], source_of(save(file, {**tensors, **stray, **wide})))
    with pytest.raises(MergeError) as refused:
        plan_merge(recipe)
    assert str(refused.value).splitlines() == [
        "Of the 12 layers of the LoRA style.safetensors, 1 have no place in model A, such as "
        "lora_unet_up_blocks_9_resnets_0_conv1, and 1 have another shape in model A, such as "
        "lora_unet_up_blocks_0_resnets_0_conv2.",
        "--force adds the rest all the same.",
    ]
    assert plan_merge(replace(recipe, force=True)).loras[0].applied == 10


def test_half_a_layer_that_fits_is_not_added(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    place = "lora_unet_input_blocks_1_1_proj_in"
    tensors = with_name(place, lora((8, 8))) | with_name(place, full((9,), ".diff_b"))
    tensors |= with_name("lora_unet_middle_block_1_proj_in", full(tuple(_shape(checkpoints, "middle_block.1.proj_in"))))
    file = save(tmp_path / "style.safetensors", tensors)
    plan = plan_merge(bake(checkpoints["sd11"], source_of(file), force=True))
    assert [tensor.name.key for tensor in plan.tensors if tensor.loras] == [UNET + "middle_block.1.proj_in.weight"]
    assert plan.loras[0].misshapen == (place,)


def _shape(checkpoints: dict[str, Path], layer: str) -> torch.Size:
    return load_file(checkpoints["sd11"])[f"{UNET}{layer}.weight"].shape


def test_a_lora_of_another_architecture_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    shapes = {key: tuple(tensor.shape) for key, tensor in load_file(checkpoints["sdxl1"]).items()}
    tensors: State = {}
    for name, key in SPELLINGS["sdxl"].items():
        tensors |= with_name(name, lora(shapes[key]))
    file = save(tmp_path / "xl.safetensors", tensors)
    with pytest.raises(MergeError, match=r"It is a LoRA for SDXL, and the models are SD 1\.x\."):
        plan_merge(bake(checkpoints["sd11"], source_of(file)))
    other = save(tmp_path / "other.safetensors", with_name("lora_unet_double_blocks_0_img_mlp_0", lora((8, 8))))
    with pytest.raises(MergeError, match=r"Choose a LoRA for these models\."):
        plan_merge(bake(checkpoints["sd11"], source_of(other), force=True))


REFUSED: dict[str, dict[str, tuple[int, ...]]] = {
    "OFT": {".oft_R": (4, 2, 2)},
    "BOFT": {".boft_R": (2, 4, 2, 2), ".boft_s": (8, 1)},
    "IA3": {".ia3_l": (8, 1)},
}


@pytest.mark.parametrize("kind", REFUSED)
def test_formats_of_peft_that_are_not_computed_are_refused_by_name(
    checkpoints: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    tensors = {f"base_model.model.mid_block.proj_in{end}": numbers(*shape) for end, shape in REFUSED[kind].items()}
    file = save(tmp_path / "odd.safetensors", tensors)
    with pytest.raises(CheckpointError, match=rf"odd\.safetensors is PEFT's {kind} .*which cannot be merged"):
        plan_merge(bake(checkpoints["sd11"], source_of(file)))


def test_what_is_no_lora_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is a whole checkpoint and no LoRA: name it as a model, without --lora"):
        plan_merge(bake(checkpoints["sd11"], source_of(checkpoints["sd12"])))
    embedding = save(tmp_path / "e.safetensors", {"emb_params": numbers(2, 8)})
    with pytest.raises(CheckpointError, match=r'e\.safetensors is no LoRA \(it holds "emb_params"\)'):
        plan_merge(bake(checkpoints["sd11"], source_of(embedding)))
    tensors, _ = style(checkpoints["sd11"])
    file = save(tmp_path / "style.safetensors", tensors)
    with pytest.raises(CheckpointError, match=r"looks like a LoRA .*; on the command line, --lora adds it to a merge"):
        plan_merge(MergeRecipe(model_source(checkpoints["sd11"]), model_source(file)))


def test_damaged_layers_are_refused() -> None:
    for shapes, message in (
        ({"lora_unet_x.lora_down.weight": (4, 8)}, "of the layer lora_unet_x there is only"),
        ({"lora_unet_x.alpha": ()}, "of the layer lora_unet_x there is only"),
        ({"lora_unet_x.lora_down.weight": (4, 8), "lora_unet_x.lora_up.weight": (8, 3)}, "do not fit together"),
        ({"lora_unet_x.lora_down.weight": (4,), "lora_unet_x.lora_up.weight": (8, 4)}, "do not fit together"),
    ):
        with pytest.raises(CheckpointError, match=message):
            read_layers(shapes, {}, name="l.safetensors")


def test_numbers_that_are_not_finite_are_told_of_the_lora(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    tensors = with_name("lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q", lora((8, 8)))
    next(iter(tensors.values()))[0, 0] = float("nan")
    file = save(tmp_path / "style.safetensors", tensors)
    with pytest.raises(MergeError, match=r"What style\.safetensors adds to .*attn1\.to_q\.weight is not finite"):
        merge_to_file(bake(checkpoints["sd11"], source_of(file)), tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_a_result_that_is_too_large_names_the_ratio_of_the_lora(tmp_path: Path) -> None:
    model = save(tmp_path / "a.safetensors", some("sd1", 1, torch.float16))
    file = save(tmp_path / "style.safetensors", with_name("lora_unet_input_blocks_1_1_proj_in", lora((8, 8))))
    with pytest.raises(MergeError, match=r"too large for F16, .*\(alpha 0, LoRA 1 1000000\)"):
        merge_to_file(bake(model, source_of(file, 1e6)), tmp_path / "out.safetensors")


def test_ratios_that_were_probably_not_meant(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    tensors, _ = style(checkpoints["sd11"])
    file = save(tmp_path / "style.safetensors", tensors)

    def warnings(ratio: float, ratio_te: float | None = None) -> list[str]:
        return [
            warning.message
            for warning in plan_merge(bake(checkpoints["sd11"], source_of(file, ratio, ratio_te))).warnings
        ]

    assert warnings(0.5) == []
    assert warnings(80, 1) == ["LoRA style.safetensors: 80 is outside -1 to 2."]
    assert "LoRA style.safetensors: nothing of it is added, since its ratio is 0." in warnings(0)
    assert lora_files.ALPHA != RANK


def test_the_header_names_what_was_added(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    model = save(tmp_path / "base.safetensors", load_file(checkpoints["sd11"]), {"modelspec.title": "Base"})
    file = save(tmp_path / "style.safetensors", style(checkpoints["sd11"])[0])
    merged = merge_to_file(bake(model, source_of(file, 0.5, 0.25)), tmp_path / "out.safetensors")
    with Checkpoint(merged.path) as checkpoint:
        assert checkpoint.metadata["modelspec.merged_from"] == "base, style"
    assert name_recipe(merged.plan.recipe) == "base; LoRA style 0.5, text encoders 0.25"
