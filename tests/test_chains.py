"""Recipes in the place of models: merged as one, exactly, without a file between; to a file as into a live model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

import elemental
from elemental import (
    CheckpointError,
    MergeError,
    MergeMode,
    MergeRecipe,
    ModelSource,
    RecipeError,
    SaveDtype,
    VaeChoice,
    live_merge,
    merge_to_file,
    model_source,
    parse_rules,
    plan_merge,
)
from elemental.architectures.keys import FIRST_CONV
from elemental.merge import computation
from elemental.merge import execute as executor
from elemental.merge.chained_model import ChainedModel
from elemental.merge.files.open_models import OpenModels
from elemental.merge.files.recipe_models import read_model
from elemental.merge.plan import Role
from elemental.modes import crossover
from elemental.recipe.block_weights import parse_block_weights
from elemental.recipe.recipe import recipe_from_dict
from elemental.runs.effect_estimate import EffectOrder, refuse_same_file

from .conftest import INPAINTING, LAYOUTS, random_state, save
from .merging import same_bits
from .reference import float64_formula, lost_in_float64, slow_ratio, ulps
from .test_live import assert_is_file, fake_model

INNER_SPEC = "IN03-OUT05:attn2:0.7,OUT06:attn1 ff.net:0,TE:mlp:1"
OUTER_SPEC = "OUT05::0.9,IN04:attn2:0,M00::1,VAE:conv:0.25"
FORMATS = [torch.float16, torch.bfloat16, torch.float32]
State = dict[str, Tensor]


def write(folder: Path, names: str, dtype: torch.dtype = torch.float16) -> tuple[dict[str, State], dict[str, Path]]:
    """Write models of one format; give their tensors and their files."""
    states = {name: random_state(LAYOUTS["sd1"], seed, dtype) for seed, name in enumerate(names, 1)}
    return states, {name: save(folder / f"{name}.safetensors", state) for name, state in states.items()}


def of(models: Mapping[str, Path], names: str, spec: str = "", **parts: Any) -> MergeRecipe:
    """Make a recipe of models by their letters."""
    a, b, *c = (model_source(models[name]) for name in names)
    return MergeRecipe(a, b, c[0] if c else None, rules=parse_rules(spec), **parts)


def chain(recipe: MergeRecipe, name: str = "soft.json") -> ModelSource:
    return ModelSource(name, recipe=recipe)


def by_hand(recipe: MergeRecipe, states: Mapping[Path, State], spec_of: Mapping[MergeRecipe, str], key: str) -> Tensor:
    """Compute a tensor of a recipe and of those in it in float64, without rounding."""
    models = [
        by_hand(source.recipe, states, spec_of, key) if source.recipe else states[Path(source.path)][key].double()
        for source in (recipe.model_a, recipe.model_b, recipe.model_c)
        if source is not None
    ]
    ratio = slow_ratio(spec_of.get(recipe, ""), key, 12)
    if key.endswith("position_ids"):
        return models[0]
    return float64_formula(recipe.mode.value, models, recipe.alpha if ratio is None else ratio, recipe.beta or 0.0)


def assert_by_hand(
    path: Path, recipe: MergeRecipe, states: Mapping[Path, State], specs: Mapping[MergeRecipe, str]
) -> None:
    result = load_file(path)
    inputs = list(states.values())
    assert result.keys() == inputs[0].keys()
    for key, tensor in result.items():
        exact = by_hand(recipe, states, specs, key)
        lost = sum(lost_in_float64(mode.value, [state[key] for state in inputs]) for mode in _modes_of(recipe))
        assert tensor.dtype == inputs[0][key].dtype
        if key.endswith("position_ids"):
            assert torch.equal(tensor.double(), exact)
        else:
            assert ulps(tensor, exact, lost=4 * lost) <= 0.51, key  # half a unit, and what float32 takes from fp16


def _modes_of(recipe: MergeRecipe) -> list[MergeMode]:
    inner = [mode for source in recipe.sources.values() if source.recipe for mode in _modes_of(source.recipe)]
    return [recipe.mode, *inner]


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("place", ["a", "b", "both"])
def test_a_chain_is_rounded_once(tmp_path: Path, dtype: torch.dtype, place: str) -> None:
    states, models = write(tmp_path, "abc", dtype)
    inner = of(models, "ab", INNER_SPEC, alpha=0.35)
    sources = {"a": (chain(inner), model_source(models["c"])), "b": (model_source(models["c"]), chain(inner))}
    other = of(models, "ca", alpha=-0.4)
    sources["both"] = chain(inner), chain(other, "other.json")
    outer = MergeRecipe(*sources[place], alpha=0.6, rules=parse_rules(OUTER_SPEC))
    result = merge_to_file(outer, tmp_path / "out.safetensors")
    by_path = {models[name]: state for name, state in states.items()}
    assert_by_hand(result.path, outer, by_path, {inner: INNER_SPEC, outer: OUTER_SPEC})


@pytest.mark.parametrize(("inside", "outside"), [
    (MergeMode.SLERP, MergeMode.WEIGHT_SUM),
    (MergeMode.WEIGHT_SUM, MergeMode.SLERP),
    (MergeMode.SLERP, MergeMode.SLERP),
    (MergeMode.ADD_PERPENDICULAR, MergeMode.TENSOR_SUM),
    (MergeMode.TENSOR_SUM, MergeMode.TRAIN_DIFFERENCE),
    (MergeMode.CROSSOVER, MergeMode.WEIGHT_SUM),
    (MergeMode.SLERP, MergeMode.CROSSOVER),
])  # fmt: skip
def test_modes_that_need_the_whole_tensor_work_inside_and_outside(
    tmp_path: Path, inside: MergeMode, outside: MergeMode
) -> None:
    states, models = write(tmp_path, "abcd")
    betas = {MergeMode.TENSOR_SUM: 0.25}
    inner = of(models, "abc" if inside.uses_c else "ab", alpha=0.3, mode=inside, beta=betas.get(inside))
    other = of(models, "cd", alpha=0.5)
    c = chain(other, "other.json") if outside.uses_c else None
    outer = MergeRecipe(model_source(models["d"]), chain(inner), c, outside, 0.4, betas.get(outside))
    result = merge_to_file(outer, tmp_path / "out.safetensors")
    assert_by_hand(result.path, outer, {models[name]: state for name, state in states.items()}, {})


def test_what_needs_all_numbers_is_found_once_however_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, models = write(tmp_path, "abc")
    outer = MergeRecipe(model_source(models["c"]), chain(of(models, "ab", alpha=0.3, mode=MergeMode.CROSSOVER)))
    transform = crossover._filter
    lengths: list[int] = []

    def counted(spectrum: Any, *parts: Any) -> None:
        lengths.append(spectrum.size)
        transform(spectrum, *parts)

    monkeypatch.setattr(crossover, "_filter", counted)
    whole = load_file(merge_to_file(outer, tmp_path / "whole.safetensors").path)
    of_whole = sorted(lengths)
    lengths.clear()
    monkeypatch.setattr(computation, "CPU_PIECE", 500)
    pieces = load_file(merge_to_file(outer, tmp_path / "pieces.safetensors").path)
    assert of_whole[-1] > 500
    assert sorted(lengths) == of_whole
    assert all(same_bits(tensor, pieces[key]) for key, tensor in whole.items())


def test_three_levels_are_one_merge(tmp_path: Path) -> None:
    states, models = write(tmp_path, "abcd")
    recipe = of(models, "ab", alpha=0.3)
    for level, name in enumerate("cdab"):
        recipe = MergeRecipe(model_source(models[name]), chain(recipe, f"{level}.json"), alpha=1.25)
    result = merge_to_file(recipe, tmp_path / "out.safetensors")
    assert_by_hand(result.path, recipe, {models[name]: state for name, state in states.items()}, {})


def test_nothing_is_rounded_between(tmp_path: Path) -> None:
    states, models = write(tmp_path, "abc")
    inner = of(models, "abc", mode=MergeMode.ADD_DIFFERENCE, alpha=1000.0)
    outer = MergeRecipe(chain(inner), chain(replace(inner, alpha=-999.0), "back.json"), alpha=0.5)
    chained = load_file(merge_to_file(outer, tmp_path / "out.safetensors").path)
    key = FIRST_CONV
    a, b, c = (states[name][key].double() for name in "abc")
    assert torch.equal(chained[key], (a + 0.5 * (b - c)).half())
    steps = [
        merge_to_file(replace(inner, alpha=alpha), tmp_path / f"{alpha}.safetensors") for alpha in (1000.0, -999.0)
    ]
    files = MergeRecipe(model_source(steps[0].path), model_source(steps[1].path), alpha=0.5)
    assert not torch.equal(load_file(merge_to_file(files, tmp_path / "two.safetensors").path)[key], chained[key])


def test_a_number_too_large_for_the_format_may_stand_between(tmp_path: Path) -> None:
    states = [{key: tensor * 1_000 for key, tensor in random_state(LAYOUTS["sd1"], seed).items()} for seed in (1, 2)]
    states = [{key: t.long() if key.endswith("_ids") else t for key, t in state.items()} for state in states]
    models = {name: save(tmp_path / f"{name}.safetensors", state) for name, state in zip("ab", states, strict=True)}
    inner = of(models, "ab", alpha=5000.0)
    with pytest.raises(MergeError, match="too large for F16"):
        merge_to_file(inner, tmp_path / "inner.safetensors")
    outer = MergeRecipe(model_source(models["a"]), chain(inner), alpha=0.0001)
    result = load_file(merge_to_file(outer, tmp_path / "out.safetensors").path)
    a, b = (state[FIRST_CONV].double() for state in states)
    assert ulps(result[FIRST_CONV], 0.9999 * a + 0.0001 * (-4999 * a + 5000 * b)) <= 0.51


@pytest.mark.parametrize("dtype", FORMATS)
def test_two_steps_through_an_fp32_file_differ_by_its_rounding_alone(tmp_path: Path, dtype: torch.dtype) -> None:
    _, models = write(tmp_path, "abc", dtype)
    inner = of(models, "ab", INNER_SPEC, alpha=0.35, dtype=SaveDtype.FP32)
    between = merge_to_file(inner, tmp_path / "between.safetensors").path
    parts: dict[str, Any] = {"alpha": 0.6, "rules": parse_rules(OUTER_SPEC), "dtype": SaveDtype.FP32}
    at_once = merge_to_file(MergeRecipe(chain(inner), model_source(models["c"]), **parts), tmp_path / "1.safetensors")
    stepped = merge_to_file(
        MergeRecipe(model_source(between), model_source(models["c"]), **parts), tmp_path / "2.safetensors"
    )
    one, two, first = load_file(at_once.path), load_file(stepped.path), load_file(between)
    assert one.keys() == two.keys()
    for key, tensor in one.items():
        error = 2.0**-24 * sum(state[key].double().abs() for state in (first, one, two)) + 2.0**-149
        assert ((tensor.double() - two[key].double()).abs() <= error).all(), key


def test_what_the_inner_recipe_copies_passes_bit_for_bit(tmp_path: Path) -> None:
    states, models = write(tmp_path, "abc")
    odd = torch.tensor([-0.0, float("nan"), float("inf"), 6e-8], dtype=torch.float16).repeat(2)
    bits = odd.view(torch.int16).clone()
    bits[1] |= 5  # a NaN with bits of its own
    key = "model.diffusion_model.out.0.bias"
    states["b"][key] = bits.view(torch.float16)
    models["b"] = save(tmp_path / "b.safetensors", states["b"])
    inner = of(models, "ab", "OUT11:out.0:1", alpha=0.4, dtype=SaveDtype.BF16)
    outer = MergeRecipe(chain(inner), model_source(models["c"]), alpha=0.0, dtype=SaveDtype.FP16)
    result = merge_to_file(outer, tmp_path / "out.safetensors")
    kept = load_file(result.path)[key]
    assert torch.equal(kept.view(torch.int16), bits)
    assert result.not_finite == ((Role.A, key),)


def test_the_format_of_an_inner_recipe_is_that_of_model_a_and_rounds_nothing(tmp_path: Path) -> None:
    states, models = write(tmp_path, "abc", torch.float32)
    inner = of(models, "ab", alpha=0.3, dtype=SaveDtype.FP16)
    a, b, c = (states[name][FIRST_CONV].double() for name in "abc")
    exact = 0.5 * (0.7 * a + 0.3 * b) + 0.5 * c

    def first_conv(recipe: MergeRecipe) -> Tensor:
        return load_file(merge_to_file(recipe, tmp_path / "out.safetensors", overwrite=True).path)[FIRST_CONV]

    as_a = first_conv(MergeRecipe(chain(inner), model_source(models["c"])))
    assert as_a.dtype is torch.float16
    assert ulps(as_a, exact) <= 0.51
    as_b = first_conv(MergeRecipe(model_source(models["c"]), chain(inner)))
    assert as_b.dtype is torch.float32
    assert ulps(as_b, exact) <= 0.51
    overridden = first_conv(MergeRecipe(chain(inner), model_source(models["c"]), dtype=SaveDtype.FP32))
    assert ulps(overridden, exact) <= 0.51


def test_block_weights_vae_and_channels_of_the_inner_recipe_hold(tmp_path: Path) -> None:
    states, models = write(tmp_path, "bc")
    states["a"] = random_state(INPAINTING["sd1"], 9)
    models["a"] = save(tmp_path / "a.safetensors", states["a"])
    weights = parse_block_weights(",".join(str(number / 26) for number in range(26)))
    inner = of(models, "ab", alpha=0.3, block_alpha=weights, vae=VaeChoice.B)
    outer = MergeRecipe(chain(inner), model_source(models["c"]), alpha=0.25)
    result = load_file(merge_to_file(outer, tmp_path / "out.safetensors").path)
    a, b, c = (states[name] for name in "abc")
    first = result[FIRST_CONV]
    inner_first = (1 - 1 / 26) * a[FIRST_CONV].double()[:, :4] + 1 / 26 * b[FIRST_CONV].double()
    assert ulps(first[:, :4], 0.75 * inner_first + 0.25 * c[FIRST_CONV].double()) <= 0.51
    assert torch.equal(first[:, 4:], a[FIRST_CONV][:, 4:])
    vae = next(key for key in a if key.startswith("first_stage_model.") and key.endswith("conv.weight"))
    assert ulps(result[vae], 0.75 * b[vae].double() + 0.25 * c[vae].double()) <= 0.51
    outwards = MergeRecipe(model_source(models["c"]), chain(inner), alpha=0.25, rules=parse_rules("IN00::0"))
    plan = plan_merge(outwards)  # an inpainting model lends its first 4 channels, as a file would
    assert len(plan.tensors) == len(states["c"])


def test_tensors_that_are_missing_inside_are_kept_from_its_model_a(tmp_path: Path) -> None:
    states, models = write(tmp_path, "abc")
    key = "model.diffusion_model.input_blocks.4.1.norm.weight"
    short = {name: tensor for name, tensor in states["b"].items() if name != key}
    models["b"] = save(tmp_path / "short.safetensors", short)
    inner = of(models, "ab", alpha=0.3)
    recipe = MergeRecipe(model_source(models["c"]), chain(inner), alpha=0.5)
    result = merge_to_file(recipe, tmp_path / "out.safetensors")
    a, c = states["a"][key].double(), states["c"][key].double()
    assert ulps(load_file(result.path)[key], 0.5 * a + 0.5 * c) <= 0.51
    assert any(warning.message.startswith("soft.json: ") for warning in result.plan.warnings)


def test_a_vae_can_be_a_recipe(tmp_path: Path) -> None:
    states, models = write(tmp_path, "abcd")
    inner = of(models, "cd", alpha=0.3)
    recipe = replace(of(models, "ab"), vae=VaeChoice.FILE, vae_file=chain(inner))
    result = load_file(merge_to_file(recipe, tmp_path / "out.safetensors").path)
    key = next(key for key in states["a"] if key.startswith("first_stage_model.") and key.endswith("conv.weight"))
    assert ulps(result[key], 0.7 * states["c"][key].double() + 0.3 * states["d"][key].double()) <= 0.51


@pytest.mark.parametrize("mode", [MergeMode.WEIGHT_SUM, MergeMode.SLERP])
@pytest.mark.slow
def test_any_number_of_threads_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: MergeMode
) -> None:
    _, models = write(tmp_path, "abc")
    inner = of(models, "ab", INNER_SPEC, mode=mode, alpha=0.35)
    recipe = MergeRecipe(chain(inner), model_source(models["c"]), mode=mode, alpha=0.6)
    whole = merge_to_file(recipe, tmp_path / "0.safetensors").path.read_bytes()
    monkeypatch.setattr(executor, "_THREAD_BYTES", 1)
    monkeypatch.setattr(computation, "CPU_PIECE", 1 << 10)
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    found = set()
    for threads in (1, 2, 3):
        monkeypatch.setattr(executor, "_MAX_THREADS", threads)
        found.add(merge_to_file(recipe, tmp_path / f"{threads}.safetensors").path.read_bytes())
    assert len(found) == 1
    assert mode.record.survey is not None or found == {whole}  # sums are added up in the order of the pieces


def test_the_live_merge_is_the_file_and_writes_what_moves(tmp_path: Path) -> None:
    _, models = write(tmp_path, "abc")
    inner = of(models, "ab", INNER_SPEC, alpha=0.35)
    recipe = MergeRecipe(chain(inner), model_source(models["c"]), alpha=0.6, rules=parse_rules(OUTER_SPEC))
    model = fake_model(models["a"])
    before = model.digest()
    with live_merge(model) as merge:
        merge.apply(recipe)
        assert_is_file(model, merge_to_file(recipe, tmp_path / "1.safetensors").path)
        assert merge.is_intact()
        for number, ratio in enumerate((0.2, 0.8), 2):  # the second time its inputs are kept in memory
            moved = replace(recipe, rules=parse_rules(f"{OUTER_SPEC},OUT03:attn1:{ratio}"))
            written = merge.apply(moved)
            assert {tensor.name.block for tensor in written.plan.tensors} == {"OUT03"}
            assert_is_file(model, merge_to_file(moved, tmp_path / f"{number}.safetensors").path)
    assert model.digest() == before


def test_another_inner_recipe_rewrites_what_is_computed_from_it(tmp_path: Path) -> None:
    _, models = write(tmp_path, "abc")
    inner = of(models, "ab", INNER_SPEC, alpha=0.35)
    recipe = MergeRecipe(chain(inner), model_source(models["c"]), alpha=0.6)
    model = fake_model(models["a"])
    with live_merge(model) as merge:
        merge.apply(recipe)
        other = replace(inner, rules=parse_rules(f"{INNER_SPEC},IN07:attn1:0.5"))
        changed = replace(recipe, model_a=chain(other))
        written = merge.apply(changed)
        assert {tensor.name.block for tensor in written.plan.tensors} == {"IN07"}
        assert_is_file(model, merge_to_file(changed, tmp_path / "1.safetensors").path)
        renamed = replace(recipe, model_a=chain(other, "renamed.json"))
        assert not merge.apply(renamed).plan.tensors


def test_a_copy_of_a_file_through_a_recipe_is_that_file(tmp_path: Path) -> None:
    _, models = write(tmp_path, "abc")
    recipe = MergeRecipe(chain(of(models, "ab", alpha=0.0)), model_source(models["c"]), alpha=0.0)
    model = fake_model(models["a"])
    with live_merge(model) as merge:
        assert not merge.apply(recipe).plan.tensors  # the live model holds these numbers already


def test_a_file_of_an_inner_recipe_that_changes_is_noticed(tmp_path: Path) -> None:
    _, models = write(tmp_path, "abc")
    recipe = MergeRecipe(model_source(models["a"]), chain(of(models, "bc")), alpha=0.6)
    model = fake_model(models["a"])
    with live_merge(model) as merge:
        merge.apply(recipe)
        with models["c"].open("r+b") as file:
            file.truncate(models["c"].stat().st_size - 2)
        with pytest.raises(CheckpointError, match=r"Model B is the recipe soft\.json.*c\.safetensors has changed"):
            merge.apply(replace(recipe, dtype=SaveDtype.BF16))


def test_memory_stays_that_of_a_few_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, models = write(tmp_path, "abc")
    monkeypatch.setattr(computation, "CPU_PIECE", 1 << 8)
    recipe = MergeRecipe(model_source(models["a"]), chain(of(models, "bc")))
    longest = 0
    compute = computation.Computation.unrounded

    def measure(self: computation.Computation, piece: computation.Piece, inputs: Sequence[Tensor]) -> Tensor:
        nonlocal longest
        longest = max(longest, piece.span.last - piece.span.first)
        return compute(self, piece, inputs)

    monkeypatch.setattr(computation.Computation, "unrounded", measure)
    merge_to_file(recipe, tmp_path / "out.safetensors")
    assert longest == 1 << 8


# --- recipes as text ---


def test_json_keeps_a_chain_and_writes_others_as_before(tmp_path: Path) -> None:
    _, models = write(tmp_path, "abc")
    inner = of(models, "ab", INNER_SPEC, alpha=0.35)
    recipe = MergeRecipe(model_source(models["c"]), chain(inner), alpha=0.6)
    data = json.loads(json.dumps(recipe.to_dict()))
    assert recipe_from_dict(data) == recipe
    assert data["version"] == 1
    assert data["models"]["b"] == {"path": "soft.json", "recipe": json.loads(json.dumps(inner.to_dict()))}
    assert inner.to_dict()["models"]["a"].keys() == {"path", "sha256", "size"}
    del data["models"]["b"]["path"]
    assert recipe_from_dict(data).model_b == ModelSource("recipe", recipe=inner)


@pytest.mark.parametrize(("change", "message"), [
    ({"recipe": {}}, 'lacks the entry "version"'),
    ({"recipe": []}, "cannot be read"),
    ({"recipe": {}, "sha256": "0"}, 'has the unknown entry "sha256"'),
    ({"recipe": {}, "path": 5}, "the path of a recipe is a text"),
])  # fmt: skip
def test_a_damaged_chain_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    _, models = write(tmp_path, "ab")
    data = of(models, "ab").to_dict()
    data["models"]["b"] = change
    with pytest.raises(RecipeError, match=message):
        recipe_from_dict(data)


def test_too_many_recipes_are_refused() -> None:
    a, b = ModelSource("a.safetensors"), ModelSource("b.safetensors")
    recipe, data = MergeRecipe(a, b), MergeRecipe(a, b).to_dict()
    for _ in range(8):
        recipe, data = MergeRecipe(a, chain(recipe)), {**data, "models": {"a": {"path": "a"}, "b": {"recipe": data}}}
    recipe_from_dict(data)
    with pytest.raises(RecipeError, match="More than 8 recipes stand within one another"):
        MergeRecipe(a, chain(recipe))
    with pytest.raises(RecipeError, match="More than 8 recipes stand within one another"):
        recipe_from_dict(data | {"models": {"a": {"recipe": data}}})
    wide = MergeRecipe(a, b)
    for _ in range(3):
        wide = MergeRecipe(chain(wide), chain(wide))
    with pytest.raises(RecipeError, match="More than 16 recipes stand in the place of models"):
        MergeRecipe(chain(wide), chain(wide))
    for _ in range(500):
        data = {**data, "models": {"a": {"path": "a"}, "b": {"recipe": data}}}
    with pytest.raises(RecipeError, match="More than 8"):
        recipe_from_dict(data)


def save_recipe(path: Path, recipe: MergeRecipe) -> Path:
    path.write_text(json.dumps(recipe.to_dict()), encoding="utf-8")
    return path


def test_a_recipe_file_is_read_with_its_models_beside_it(tmp_path: Path) -> None:
    _, models = write(tmp_path, "abc")
    bare = MergeRecipe(ModelSource("a.safetensors"), ModelSource("b.safetensors"), alpha=0.3)
    soft = save_recipe(tmp_path / "soft.json", bare)
    read = read_model(soft)
    assert read.source.path == str(soft)
    assert read.source.recipe is not None
    assert [source.path for source in read.source.recipe.sources.values()] == [str(models["a"]), str(models["b"])]
    assert "model A of soft.json was found by its name alone" in read.remarks[0].replace("Model", "model")
    outer = save_recipe(tmp_path / "outer.json", MergeRecipe(ModelSource("soft.json"), ModelSource("c.safetensors")))
    nested = read_model(outer).source.recipe
    assert nested is not None
    assert nested.model_a.recipe == read.source.recipe
    with pytest.warns(UserWarning, match="of soft.json was found by its name alone"):
        assert elemental.read_recipe(outer).model_a.recipe == read.source.recipe


def test_a_recipe_that_leads_back_to_itself_is_refused(tmp_path: Path) -> None:
    other = ModelSource("a.safetensors")
    one = save_recipe(tmp_path / "one.json", MergeRecipe(other, ModelSource("two.json")))
    save_recipe(tmp_path / "two.json", MergeRecipe(ModelSource("./one.json"), other))
    with pytest.raises(RecipeError, match=r"cannot be a model of itself: one\.json -> two\.json -> one\.json"):
        read_model(one)
    with pytest.raises(RecipeError, match=r"one\.json -> two\.json -> one\.json"):
        elemental.read_recipe(one)


def test_a_cycle_is_found_by_any_way_to_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    a = ModelSource("a.safetensors")
    one = save_recipe(folder / "one.json", MergeRecipe(a, ModelSource("../d/two.json")))
    save_recipe(folder / "two.json", MergeRecipe(a, ModelSource("../d/one.json")))
    with pytest.raises(RecipeError, match=r"one\.json -> two\.json -> one\.json"):
        read_model(one)
    for number in range(12):
        save_recipe(folder / f"{number}.json", MergeRecipe(a, ModelSource(f"{number + 1}.json")))
    with pytest.raises(RecipeError, match="More than 8 recipes stand within one another"):
        read_model(folder / "0.json")
    save_recipe(folder / "null.json", MergeRecipe(a, ModelSource("\0.json")))
    with pytest.raises(CheckpointError, match="Cannot read the recipe"):
        read_model(folder / "null.json")


@pytest.mark.parametrize("text", ["no json", "{}", "[1]", '{"version": 1, "mode": "weight-sum"}'])
def test_a_file_that_is_no_recipe_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "soft.json").write_text(text)
    with pytest.raises(RecipeError, match=r"soft\.json"):
        read_model(tmp_path / "soft.json")
    with pytest.raises(CheckpointError, match=r"Cannot read the recipe in .*gone\.json"):
        read_model(tmp_path / "gone.json")


def test_a_merged_file_is_unfolded_only_when_asked(tmp_path: Path) -> None:
    _, models = write(tmp_path, "abc")
    inner = of(models, "ab", alpha=0.3)
    merged = merge_to_file(inner, tmp_path / "ab.safetensors").path
    assert read_model(merged).source.recipe is None
    unfolded = read_model(merged, unfold=True).source
    assert unfolded.name == "ab.safetensors"
    assert unfolded.recipe is not None
    assert [source.path for source in unfolded.recipe.sources.values()] == [str(models["a"]), str(models["b"])]
    assert read_model(models["c"], unfold=True).source.recipe is None
    chained = merge_to_file(MergeRecipe(unfolded, model_source(models["c"])), tmp_path / "1.safetensors")
    assert torch.equal(
        load_file(chained.path)[FIRST_CONV],
        load_file(merge_to_file(MergeRecipe(chain(inner), model_source(models["c"])), tmp_path / "2.safetensors").path)[
            FIRST_CONV
        ],
    )


# --- what is said ---


def test_errors_inside_name_the_chain(tmp_path: Path) -> None:
    _, models = write(tmp_path, "ab")
    gone = ModelSource(str(tmp_path / "gone.safetensors"))
    inner = MergeRecipe(model_source(models["a"]), gone)
    deep = MergeRecipe(chain(inner, "inner.json"), model_source(models["b"]))
    recipe = MergeRecipe(model_source(models["a"]), chain(deep))
    where = r"Model B is the recipe soft\.json: Model A is the recipe inner\.json: .*gone\.safetensors"
    for action in (plan_merge, elemental.workflows.identify_models):
        with pytest.raises(CheckpointError, match=where):
            action(recipe)
    xl = save(tmp_path / "xl.safetensors", random_state(LAYOUTS["sdxl"], 1))
    mixed = MergeRecipe(model_source(models["a"]), chain(MergeRecipe(model_source(models["a"]), model_source(xl))))
    with pytest.raises(MergeError, match=r"Model B is the recipe soft\.json: Models of different architectures"):
        plan_merge(mixed)
    bad = replace(of({**models, "x": xl}, "ab"), block_alpha=parse_block_weights(",".join(["0"] * 20)))
    with pytest.raises(RecipeError, match=r"Model A is the recipe soft\.json: The block weights are 19 numbers"):
        plan_merge(MergeRecipe(chain(bad), model_source(models["b"])))


def test_warnings_inside_name_the_recipe(tmp_path: Path) -> None:
    _, models = write(tmp_path, "abc")
    inner = of(models, "ab", "OUT05:no_such_part:0.5", alpha=0.3)
    plan = plan_merge(MergeRecipe(model_source(models["c"]), chain(inner)))
    assert any(w.message.startswith("soft.json: ") and "no_such_part" in w.message for w in plan.warnings)
    same = MergeRecipe(chain(inner), chain(inner, "same.json"))
    assert any("given for two of the models" in w.message for w in plan_merge(same).warnings)
    other = MergeRecipe(chain(inner), chain(replace(inner, alpha=0.4)))
    assert not any("given for two of the models" in w.message for w in plan_merge(other).warnings)


def test_a_plan_reads_headers_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, models = write(tmp_path, "abc")
    recipe = MergeRecipe(chain(of(models, "ab")), model_source(models["c"]))
    monkeypatch.setattr("elemental.merge.files.tensor_data.TensorData.read", None)
    monkeypatch.setattr("elemental.merge.files.tensor_data.TensorData.tensor", None)
    with OpenModels() as opened:
        plan, made = opened.planner(recipe).plan(recipe), opened.open(recipe)[Role.A]
    assert isinstance(made, ChainedModel)
    assert plan.changes == len(plan.tensors) - sum(bool(tensor.note) for tensor in plan.tensors)


def test_a_saved_merge_says_what_its_models_were(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    _, models = write(folder, "abc")
    recipe = MergeRecipe(chain(of(models, "ab", alpha=0.3), "/home/me/soft.json"), model_source(models["c"]))
    result = merge_to_file(recipe, tmp_path / "out.safetensors")
    with safe_open(result.path, framework="pt") as file:
        header = file.metadata()
    data = json.loads(header["elemental_recipe"])
    inner = data["models"]["a"]
    assert inner["path"] == "soft.json"
    hashes = {source["path"]: source["sha256"] for source in (*inner["recipe"]["models"].values(), data["models"]["b"])}
    assert hashes == {f"{name}.safetensors": elemental.merge.files.hashes.file_sha256(models[name]) for name in "abc"}
    assert set(json.loads(header["sd_merge_models"])) == set(hashes.values())
    moved = folder.rename(tmp_path / "elsewhere")
    (moved / "b.safetensors").rename(moved / "other.safetensors")
    again = merge_to_file(
        elemental.read_recipe(result.path), tmp_path / "again.safetensors", locator=elemental.ModelLocator(moved)
    )
    assert again.path.read_bytes() == result.path.read_bytes()
    (moved / "other.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match=r"Model A is the recipe soft\.json: .*b\.safetensors is not there any more"
    ):
        plan_merge(elemental.read_recipe(result.path), locator=elemental.ModelLocator(moved))


def test_a_merge_without_hashes_stays_so(tmp_path: Path) -> None:
    _, models = write(tmp_path, "abc")
    recipe = MergeRecipe(model_source(models["c"]), chain(of(models, "ab")))
    result = merge_to_file(recipe, tmp_path / "out.safetensors", with_hashes=False)
    again = merge_to_file(
        elemental.read_recipe(result.path), tmp_path / "again.safetensors", locator=elemental.ModelLocator(tmp_path)
    )
    assert again.path.read_bytes() == result.path.read_bytes()


def test_hashes_are_written_though_a_saved_recipe_has_none(tmp_path: Path) -> None:
    _, models = write(tmp_path, "abc")
    inner = elemental.workflows.identify_models(of(models, "ab"))  # sizes alone, as nothing is hashed yet
    result = merge_to_file(MergeRecipe(model_source(models["c"]), chain(inner)), tmp_path / "out.safetensors")
    read = elemental.read_recipe(result.path)
    assert read.model_b.recipe is not None
    assert all(source.sha256 for source in (read.model_a, *read.model_b.recipe.sources.values()))


def test_a_merge_never_replaces_a_model_within(tmp_path: Path) -> None:
    _, models = write(tmp_path, "abc")
    recipe = MergeRecipe(model_source(models["c"]), chain(of(models, "ab")))
    with pytest.raises(MergeError, match=r"b\.safetensors is a model of soft\.json; give the result another name"):
        merge_to_file(recipe, models["b"], overwrite=True)


def test_the_configuration_beside_the_innermost_model_a_is_copied(tmp_path: Path) -> None:
    _, models = write(tmp_path, "abc")
    models["a"].with_suffix(".yaml").write_text("model:\n  params: {}\n")
    recipe = MergeRecipe(chain(of(models, "ab")), model_source(models["c"]))
    merge_to_file(recipe, tmp_path / "out.safetensors")
    assert (tmp_path / "out.yaml").read_text() == "model:\n  params: {}\n"


def test_effects_of_another_inner_recipe_are_others(tmp_path: Path) -> None:
    _, models = write(tmp_path, "abc")
    inner = of(models, "ab", alpha=0.3)

    def origin(source: ModelSource) -> object:
        return EffectOrder(MergeRecipe(model_source(models["c"]), source), ()).origin(elemental.ModelLocator())

    assert origin(chain(inner)) == origin(chain(inner, "renamed.json"))
    assert origin(chain(inner)) != origin(chain(replace(inner, alpha=0.4)))
    before = origin(chain(inner))
    with models["b"].open("ab") as file:
        file.write(b" ")
    assert origin(chain(inner)) != before
    with pytest.raises(RecipeError, match="more of it changes nothing"):
        refuse_same_file(MergeRecipe(chain(inner), chain(inner, "renamed.json")))
    refuse_same_file(MergeRecipe(chain(inner), chain(replace(inner, alpha=0.4))))
    refuse_same_file(MergeRecipe(chain(inner), model_source(models["a"])))
