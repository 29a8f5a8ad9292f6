"""Merges of more than three models: the formulas, files and live models, recipes, rules, and what is refused."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import elemental
from elemental import MergeMode, MergeRecipe, MoreModel

from .conftest import save
from .merging import State, same_bits, some_elements, whole
from .reference import slow_ratio, ulps

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
        if float((middle - last).abs().max()) <= 2**-53 * float(middle.abs().max()):
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
    return models[0] + alpha * (length * mean - models[0])


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
