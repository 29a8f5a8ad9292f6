"""Merges of more than three models: formulas, rules, number of threads, live models, effects."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import elemental
from elemental import MergeMode, MergeRecipe, MoreModel, Role
from elemental.architectures.keys import FIRST_CONV
from elemental.architectures.tensor_sets import members
from elemental.effects.derivatives import movement_by_alpha
from elemental.merge import computation
from elemental.merge import execute as executor
from elemental.merge.files.open_models import OpenModels
from elemental.modes.base import Operands, Ratios, Whole
from elemental.recipe.numbers import complete_numbers

from .conftest import save
from .merging import State, same_bits, some_elements, u_net, whole
from .reference import slow_ratio, ulps
from .test_live import assert_is_file, fake_model, state

TAKING = [mode for mode in MergeMode if mode.takes_more]
RATIOS = {
    MergeMode.WEIGHT_SUM: (0.3, (0.25, -0.1)),
    MergeMode.ADD_DIFFERENCE: (0.7, (0.25, -0.5)),
    MergeMode.TIES: (0.7, (0.5, -1.0)),
    MergeMode.MODEL_STOCK: (0.7, (1.0, 1.0)),
    MergeMode.GEOMETRIC_MEDIAN: (0.7, (1.5, 0.5)),
    MergeMode.KARCHER: (0.7, (1.5, 0.5)),
}
SPEC = "OUT05::0.9,B2 OUT03 OUT05:attn2:0,b3 IN03-M00::1,B2 TE:mlp:1"


def weight_sum(models: Sequence[Tensor], alpha: float, more: Sequence[float]) -> Tensor:
    a, b, *others = models
    result = (1 - alpha - sum(more)) * a + alpha * b
    for other, ratio in zip(others, more, strict=True):
        result = result + ratio * other
    return result


def add_difference(models: Sequence[Tensor], alpha: float, more: Sequence[float]) -> Tensor:
    a, b, c, *others = models
    result = a + alpha * (b - c)
    for other, ratio in zip(others, more, strict=True):
        result = result + ratio * (other - c)
    return result


def ties(models: Sequence[Tensor], alpha: float, more: Sequence[float]) -> Tensor:
    """Source: arXiv 2306.01708, with a fifth of each difference, times its ratio."""
    a, *others = models
    kept = []
    for other, ratio in zip(others, (1, 1, *more), strict=True):
        change = other - a
        least = change.abs().reshape(-1).sort(descending=True).values[max(1, round(0.2 * change.numel())) - 1]
        kept.append(torch.where(change.abs() >= least, change, 0.0) * ratio)
    changes = torch.stack([change for change, ratio in zip(kept, (1, 1, *more), strict=True) if ratio])
    agreeing = (torch.sign(changes) == torch.sign(changes.sum(dim=0))) & (changes != 0)
    count = agreeing.sum(dim=0)
    return a + alpha * torch.where(count > 0, (changes * agreeing).sum(dim=0) / count.clamp(min=1), 0.0)


def model_stock(models: Sequence[Tensor], alpha: float, more: Sequence[float]) -> Tensor:
    """Source: arXiv 2403.19522, equation 7."""
    a, b, c, *others = models
    chosen = [b, c, *(other for other, ratio in zip(others, more, strict=True) if ratio)]
    changes = [(model - a).reshape(-1) for model in chosen]
    pairs = list(itertools.combinations(changes, 2))
    cosine = sum(float(one @ two / one.norm() / two.norm()) for one, two in pairs) / len(pairs)
    t = len(changes) * max(0, cosine) / (1 + (len(changes) - 1) * max(0, cosine))
    return a + alpha * t * (torch.stack(changes).sum(dim=0) / len(changes)).reshape(a.shape)


def median(models: Sequence[Tensor], alpha: float, more: Sequence[float]) -> Tensor:
    """Source: Weiszfeld's rounds on the tensors themselves; no model is the median in these tests, but for a corner."""
    a, weights = models[0], (1, 1, 1, *more)
    for model, holds in zip(models, weights, strict=True):
        pulls = [
            w * (other - model) / (other - model).norm()
            for other, w in zip(models, weights, strict=True)
            if other is not model and (other != model).any()
        ]
        if holds and float(torch.stack(pulls).sum(dim=0).norm()) <= holds + 1e-12:
            return a + alpha * (model - a)
    middle = torch.stack([w * m for m, w in zip(models, weights, strict=True)]).sum(dim=0) / sum(weights)
    for _ in range(3000):
        shares = [w / float((m - middle).norm()) for m, w in zip(models, weights, strict=True)]
        last, middle = (
            middle,
            torch.stack([s * m for m, s in zip(models, shares, strict=True)]).sum(dim=0) / sum(shares),
        )
        if float((middle - last).abs().max()) <= 2**-48 * float(middle.abs().max()):
            break
    return a + alpha * (middle - a)


def karcher(models: Sequence[Tensor], alpha: float, more: Sequence[float]) -> Tensor:
    """Source: mergekit, karcher.py, with weights and many rounds on the tensors themselves."""
    weights = (1, 1, 1, *more)
    lengths = [float(model.norm()) for model in models]
    units = [model / length for model, length in zip(models, lengths, strict=True)]
    mean = torch.stack([w * unit for unit, w in zip(units, weights, strict=True)]).sum(dim=0)
    mean = mean / mean.norm()
    for _ in range(300):
        way = torch.zeros_like(mean)
        for unit, weight in zip(units, weights, strict=True):
            angle = 2 * torch.asin((unit - mean).norm() / 2)
            if weight and angle > 0:
                way += weight / sum(weights) * angle / torch.sin(angle) * (unit - torch.cos(angle) * mean)
        if not way.norm() > 2**-53:
            break
        mean = torch.cos(way.norm()) * mean + torch.sin(way.norm()) / way.norm() * way
        mean = mean / mean.norm()
    length = sum(w * each for each, w in zip(lengths, weights, strict=True)) / sum(weights)
    result: Tensor = models[0] + alpha * (length * mean - models[0])
    return result


FORMULAS = {
    MergeMode.WEIGHT_SUM: weight_sum,
    MergeMode.ADD_DIFFERENCE: add_difference,
    MergeMode.TIES: ties,
    MergeMode.MODEL_STOCK: model_stock,
    MergeMode.GEOMETRIC_MEDIAN: median,
    MergeMode.KARCHER: karcher,
}


def files(folder: Path, mode: MergeMode, dtype: torch.dtype = torch.float16) -> tuple[list[Path], list[State]]:
    """Write A, B, C if the mode has it, B2 and B3, which have an ancestor in common, as real models have."""
    names = ["a", "b", *(["c"] if mode.uses_c else []), "b2", "b3"]
    states = []
    for seed, _ in enumerate(names, 1):
        own, ancestor = some_elements(whole(seed, torch.float32)), some_elements(whole(9, torch.float32))
        mixed = {key: own[key] * 0.7 + ancestor[key] if own[key].is_floating_point() else own[key] for key in own}
        states.append({key: t.to(dtype) if t.is_floating_point() else t for key, t in mixed.items()})
    return [save(folder / f"{n}.safetensors", state) for n, state in zip(names, states, strict=True)], states


def recipe_of(mode: MergeMode, paths: Sequence[Path], spec: str = "", **parts: Any) -> MergeRecipe:
    alpha, more = RATIOS[mode]
    sources = list(map(elemental.model_source, paths))
    c = sources[2] if mode.uses_c else None
    further = tuple(MoreModel(source, ratio) for source, ratio in zip(sources[-2:], more, strict=True))
    rules = elemental.parse_rules(spec)
    return MergeRecipe(
        sources[0], sources[1], c, **{"mode": mode, "alpha": alpha, "rules": rules, "more": further, **parts}
    )


def merged(recipe: MergeRecipe, out: Path) -> State:
    return load_file(elemental.merge_to_file(recipe, out, overwrite=True).path)


def ratios_at(key: str, mode: MergeMode, spec: str) -> tuple[float, list[float]]:
    alpha, more = RATIOS[mode]
    found = [slow_ratio(spec, key, 12, target=target) for target in ("", "b2", "b3")]
    own, *others = (base if ratio is None else ratio for base, ratio in zip((alpha, *more), found, strict=True))
    return own, others


@pytest.mark.parametrize("mode", TAKING)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_every_tensor_equals_the_formula(tmp_path: Path, mode: MergeMode, dtype: torch.dtype) -> None:
    paths, states = files(tmp_path, mode, dtype)
    result = merged(recipe_of(mode, paths, SPEC), tmp_path / "out.safetensors")
    assert result.keys() == states[0].keys()
    lost = {MergeMode.GEOMETRIC_MEDIAN: 2.0**-40, MergeMode.KARCHER: 2.0**-40, MergeMode.MODEL_STOCK: 2.0**-48}.get(
        mode, 0.0
    )
    for key, tensor in result.items():
        if key.endswith("position_ids"):
            assert same_bits(tensor, states[0][key])
            continue
        alpha, more = ratios_at(key, mode, SPEC)
        exact = FORMULAS[mode]([state[key].double() for state in states], alpha, more)
        assert ulps(tensor, exact, lost=lost) <= 1, key


# Formulas, by numbers that one can check in one's head


def of_numbers(mode: MergeMode, *models: Sequence[float], alpha: float, more: Sequence[float]) -> list[float]:
    """Compute a mode on tensors of a few numbers: A, B, C, then further models."""
    a, b, c, *further = (torch.tensor(numbers, dtype=torch.float64) for numbers in models)
    operands = Operands(a, b, c, tuple(further))
    ratios = Ratios(alpha, 0.0, complete_numbers(mode, {"k": 1.0} if mode is MergeMode.TIES else {}), tuple(more))
    shape = (len(models[0]),)
    found = mode.record.survey(lambda: iter([operands]), ratios, shape) if mode.record.survey else ()
    return [float(number) for number in mode.record.compute(operands, ratios, Whole(shape, 0, found))]


def test_the_median_of_four_corners_is_where_their_diagonals_meet() -> None:
    corners = [0.0, 0.0], [3.0, 3.0], [4.0, 0.0], [0.0, 2.0]
    assert of_numbers(MergeMode.GEOMETRIC_MEDIAN, *corners, alpha=1, more=[1]) == pytest.approx([4 / 3, 4 / 3])
    assert of_numbers(MergeMode.GEOMETRIC_MEDIAN, *corners, alpha=0.5, more=[1]) == pytest.approx([2 / 3, 2 / 3])


def test_the_median_is_the_model_that_counts_enough_or_stands_inside() -> None:
    corners = [0.0, 0.0], [3.0, 3.0], [4.0, 0.0], [0.0, 2.0]
    assert of_numbers(MergeMode.GEOMETRIC_MEDIAN, *corners, alpha=1, more=[3]) == [0, 2]
    inside = [0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [1.0, 1.0]
    assert of_numbers(MergeMode.GEOMETRIC_MEDIAN, *inside, alpha=1, more=[1]) == pytest.approx([1, 1])


def test_two_against_two_stay_a() -> None:
    assert of_numbers(MergeMode.GEOMETRIC_MEDIAN, [1, 7], [1, 7], [3, 4], [3, 4], alpha=1, more=[1]) == [1, 7]
    assert of_numbers(MergeMode.GEOMETRIC_MEDIAN, [1, 7], [1, 7], [1, 7], [1, 7], alpha=1, more=[1]) == [1, 7]


def test_the_median_has_the_least_sum_of_distances() -> None:
    generator = torch.Generator().manual_seed(1)
    models = torch.randn(7, 20, generator=generator, dtype=torch.float64)
    weights = torch.tensor([1, 1, 1, 0.5, 2, 1.25, 0.1], dtype=torch.float64)
    found = torch.tensor(
        of_numbers(MergeMode.GEOMETRIC_MEDIAN, *models.tolist(), alpha=1, more=weights[3:].tolist()),
        dtype=torch.float64,
    )
    ways = models - found
    pull = (weights[:, None] * ways / ways.norm(dim=1, keepdim=True)).sum(dim=0)
    assert float(pull.norm()) < 1e-12


def test_the_karcher_mean_is_pulled_nowhere() -> None:
    generator = torch.Generator().manual_seed(1)
    models = torch.randn(6, 20, generator=generator, dtype=torch.float64) + 1
    weights = torch.tensor([1, 1, 1, 0.5, 2, 0.1], dtype=torch.float64)
    found = torch.tensor(
        of_numbers(MergeMode.KARCHER, *models.tolist(), alpha=1, more=weights[3:].tolist()), dtype=torch.float64
    )
    assert float(found.norm()) == pytest.approx(float((weights * models.norm(dim=1)).sum() / weights.sum()))
    mean, units = found / found.norm(), models / models.norm(dim=1, keepdim=True)
    cosines = (units @ mean)[:, None]
    tangents = torch.acos(cosines) / torch.sqrt(1 - cosines**2) * (units - cosines * mean)
    assert float((weights[:, None] * tangents).sum(dim=0).norm()) < 1e-12


def test_four_models_agree_or_do_not() -> None:
    # differences 2, 4 and -1 times its ratio: the sign of the sum is that of the most, and those of it have a mean
    assert of_numbers(MergeMode.TIES, [1], [3], [5], [0], alpha=1, more=[1]) == [1 + 3]
    assert of_numbers(MergeMode.TIES, [1], [3], [5], [0], alpha=0.5, more=[-3]) == [1 + 0.5 * 3]
    assert of_numbers(MergeMode.TIES, [1], [3], [5], [0], alpha=1, more=[7]) == [1 - 7]
    # differences at right angles: the mean of the cosines is a third, and t is 3/3 / (1 + 2/3)
    stock = of_numbers(MergeMode.MODEL_STOCK, [0, 0], [1, 0], [0, 1], [0, 2], alpha=1, more=[1])
    assert stock == pytest.approx([0.6 / 3, 0.6])


# What does not matter


@pytest.mark.parametrize("mode", TAKING)
def test_a_further_model_with_ratio_0_is_not_there(tmp_path: Path, mode: MergeMode) -> None:
    paths, _ = files(tmp_path, mode)
    recipe = recipe_of(mode, paths)
    only = replace(recipe, more=recipe.more[1:])
    wanted = merged(only, tmp_path / "wanted.safetensors")
    nothing = replace(recipe.more[0], ratio=0.0)
    for found in (
        replace(recipe, more=(nothing, recipe.more[1])),
        replace(recipe, rules=elemental.parse_rules("B2 ::0")),
    ):
        result = merged(found, tmp_path / "found.safetensors")
        assert all(same_bits(tensor, wanted[key]) for key, tensor in result.items())
    none = merged(replace(recipe, more=()), tmp_path / "none.safetensors")
    zeros = tuple(replace(model, ratio=0.0) for model in recipe.more)
    result = merged(replace(recipe, more=zeros), tmp_path / "found.safetensors")
    assert all(same_bits(tensor, none[key]) for key, tensor in result.items())


@pytest.mark.parametrize("mode", TAKING)
def test_threads_and_pieces_change_nothing(tmp_path: Path, mode: MergeMode, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, _ = files(tmp_path, mode)
    recipe = recipe_of(mode, paths, SPEC)
    wanted = merged(recipe, tmp_path / "whole.safetensors")
    monkeypatch.setattr(executor, "_THREAD_BYTES", 1)
    for count in (2, 3):
        monkeypatch.setattr("os.cpu_count", lambda count=count: count)
        assert all(same_bits(t, wanted[key]) for key, t in merged(recipe, tmp_path / "threads.safetensors").items())
    if mode in (MergeMode.WEIGHT_SUM, MergeMode.ADD_DIFFERENCE, MergeMode.TIES):  # others add up by pieces
        monkeypatch.setattr(computation, "CPU_PIECE", 1000)
        assert all(same_bits(t, wanted[key]) for key, t in merged(recipe, tmp_path / "pieces.safetensors").items())


@pytest.mark.parametrize("mode", TAKING)
def test_the_live_merge_is_the_file_and_rewrites_what_changes(tmp_path: Path, mode: MergeMode) -> None:
    paths, _ = files(tmp_path, mode)
    model = fake_model(paths[0])
    before = state(model)
    first = recipe_of(mode, paths, SPEC)
    last = replace(first, rules=elemental.parse_rules(SPEC + ",B2 OUT04:attn2:0"))
    with elemental.live_merge(model) as merge:
        merge.apply(first)
        written = merge.apply(last).plan.tensors
        assert {tensor.name.block for tensor in written} == {"OUT04"}
        assert all("attn2" in tensor.name.element for tensor in written)
        assert not merge.apply(last).plan.tensors
        saved = elemental.merge_to_file(last, tmp_path / "saved.safetensors").path
        assert_is_file(model, saved)
        less = replace(last, more=(replace(last.more[0], ratio=0.0), last.more[1]))
        merge.apply(less)
        assert_is_file(model, elemental.merge_to_file(less, tmp_path / "less.safetensors").path)
    assert all(torch.equal(numbers, before[key]) for key, numbers in state(model).items())


# What is read, and what is copied


def test_a_weighted_sum_reads_what_it_needs(tmp_path: Path) -> None:
    paths, states = files(tmp_path, MergeMode.WEIGHT_SUM)
    spec = "OUT04::0,B2 OUT04::1,B3 OUT04::0,OUT05::0,B2 OUT05::0.25,B3 OUT05::0"
    recipe = recipe_of(MergeMode.WEIGHT_SUM, paths, spec)
    inputs: dict[str, set[str]] = {}
    for tensor in elemental.plan_merge(recipe).tensors:
        if not tensor.note:
            inputs.setdefault(tensor.name.block, set()).add(" ".join(role.name for role in tensor.inputs))
    assert inputs.pop("OUT04") == {"B2"}
    assert inputs.pop("OUT05") == {"A B2"}
    assert set.union(*inputs.values()) == {"A B B2 B3"}
    result = merged(recipe, tmp_path / "out.safetensors")
    of_b2 = [key for key in result if ".output_blocks.4." in key]
    assert of_b2
    assert all(same_bits(result[key], states[2][key]) for key in of_b2)


def test_a_recipe_can_stand_in_the_place_of_a_further_model(tmp_path: Path) -> None:
    paths, states = files(tmp_path, MergeMode.WEIGHT_SUM, torch.float32)
    inner = MergeRecipe(elemental.model_source(paths[2]), elemental.model_source(paths[3]), alpha=0.5)
    chained = MoreModel(elemental.ModelSource("inner.json", recipe=inner), 0.25)
    recipe = replace(recipe_of(MergeMode.WEIGHT_SUM, paths[:2] + paths[:2]), more=(chained,))
    result = merged(recipe, tmp_path / "out.safetensors")
    a, b, b2, b3 = states
    for key, tensor in result.items():
        if tensor.is_floating_point():
            exact = (
                (1 - 0.3 - 0.25) * a[key].double()
                + 0.3 * b[key].double()
                + 0.125 * (b2[key].double() + b3[key].double())
            )
            assert ulps(tensor, exact, lost=2.0**-50) <= 1, key
    assert elemental.read_recipe(tmp_path / "out.safetensors").more[0].file.recipe is not None


@pytest.mark.parametrize("mode", TAKING)
def test_more_of_alpha_moves_as_the_formula_says(tmp_path: Path, mode: MergeMode) -> None:
    paths, states = files(tmp_path, mode, torch.float32)
    recipe = recipe_of(mode, paths)
    alpha, more = RATIOS[mode]
    with OpenModels() as models:
        movement = movement_by_alpha(models.planner(recipe).plan(recipe), models.open(recipe))
        for key in sorted(movement.keys)[::25]:
            tensors = [each[key].double() for each in states]
            below, above = (FORMULAS[mode](tensors, alpha + step, more) for step in (-0.25, 0.25))  # linear in alpha
            expected = ((above - below) / 0.5).reshape(-1)
            found = movement.read(key, 0, len(expected)).double()
            assert torch.allclose(found, expected, rtol=1e-4, atol=1e-6), key


def test_sets_of_tensors_have_the_ratios_of_the_plan(tmp_path: Path) -> None:
    paths, _ = files(tmp_path, MergeMode.WEIGHT_SUM)
    recipe = recipe_of(MergeMode.WEIGHT_SUM, paths, SPEC)
    with OpenModels() as models:
        planner = models.planner(recipe)
        sets = planner.more_ratios(recipe)
        plan = planner.plan(recipe)
    found = {planner.names[index].key: ratios for ratios, tensors in sets.items() for index in members(tensors)}
    assert found == {tensor.name.key: tensor.more for tensor in plan.tensors}
    assert sum(tensors.bit_count() for tensors in sets.values()) == len(found)


@pytest.mark.parametrize("alpha", [0.3, 0.5])
def test_an_inpainting_model_merges_with_several_normal_ones(tmp_path: Path, alpha: float) -> None:
    """At 0.5 nothing of A is in the mix, but for its channels of the mask."""
    states = [u_net(seed, channels=9 if seed == 1 else 4) for seed in (1, 2, 3)]
    paths = [save(tmp_path / f"{seed}.safetensors", each) for seed, each in enumerate(states)]
    a, b, b2 = map(elemental.model_source, paths)
    result = merged(MergeRecipe(a, b, alpha=alpha, more=(MoreModel(b2, 0.5),)), tmp_path / "out.safetensors")[
        FIRST_CONV
    ]
    own, one, other = (each[FIRST_CONV].double() for each in states)
    assert same_bits(result[:, 4:], states[0][FIRST_CONV][:, 4:])
    exact = (0.5 - alpha) * own[:, :4] + alpha * one + 0.5 * other
    assert ulps(result[:, :4], exact, lost=2.0**-60) <= 1


def test_a_number_that_is_none_is_found_in_its_model(tmp_path: Path) -> None:
    paths, states = files(tmp_path, MergeMode.WEIGHT_SUM)
    key = "model.diffusion_model.out.2.weight"
    spoilt = states[2][key].clone()
    spoilt.view(-1)[3] = float("nan")
    save(paths[2], {**states[2], key: spoilt})
    found = elemental.merge_to_file(recipe_of(MergeMode.WEIGHT_SUM, paths), tmp_path / "out.safetensors").not_finite
    assert found == ((Role.B2, key),)
    recipe = recipe_of(MergeMode.WEIGHT_SUM, paths, "B2 OUT11::0")
    assert not elemental.merge_to_file(recipe, tmp_path / "out.safetensors", overwrite=True).not_finite
