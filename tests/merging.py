"""Whole merges of small files for the tests, and the second opinion on all of a result."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

import elemental
from elemental import MergeMode
from elemental.architectures.keys import FIRST_CONV
from elemental.merge.files.dtypes import TORCH_DTYPES

from .conftest import LAYOUTS, random_state, save
from .mode_formulas import bounds_of
from .reference import float64_formula, lost_in_float64, slow_ratio, ulps

State = dict[str, Tensor]

SPEC = "OUT05::0.9,IN03-M00:attn2:0.6,TE:mlp:1,VAE:conv:0,:proj_in:-0.2"
RATIOS = {
    MergeMode.WEIGHT_SUM: (0.3, None),
    MergeMode.ADD_DIFFERENCE: (0.7, None),
    MergeMode.TRIPLE_SUM: (0.3, 0.25),
    MergeMode.SUM_TWICE: (0.3, 0.25),
    MergeMode.SLERP: (0.3, None),
    MergeMode.SELF: (0.3, None),
    MergeMode.TENSOR_SUM: (0.3, 0.25),
    MergeMode.TRAIN_DIFFERENCE: (0.3, None),
    MergeMode.ADD_PERPENDICULAR: (0.3, None),
    MergeMode.SIMILARITY_ADD_DIFFERENCE: (0.3, 0.25),
    MergeMode.MULTIPLY_DIFFERENCE: (0.3, 0.25),
    MergeMode.DARE: (0.3, None),
    MergeMode.SMOOTH_ADD: (0.3, None),
    MergeMode.EXTRACT: (0.3, 0.25),
    MergeMode.DELLA: (0.3, None),
    MergeMode.TIES: (0.3, None),
    MergeMode.MODEL_STOCK: (0.3, None),
    MergeMode.CROSSOVER: (0.3, None),
    MergeMode.GEOMETRIC_MEDIAN: (0.3, None),
    MergeMode.KARCHER: (0.3, None),
    MergeMode.COSINE_A: (0.3, None),
    MergeMode.COSINE_B: (0.3, None),
}
EMA = "model_ema."
DTYPE_NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}
ratio_of = cache(slow_ratio)


def merge(paths: Sequence[Path], out: Path, *, spec: str = "", **parts: Any) -> State:
    """Merge files at the ratios of the mode, as a user of the package does."""
    mode = parts.setdefault("mode", MergeMode.WEIGHT_SUM)
    a, b, *c = map(elemental.model_source, paths)
    alpha, beta = RATIOS[mode]
    rules = elemental.parse_rules(spec)
    recipe = elemental.MergeRecipe(a, b, c[0] if c else None, alpha=alpha, beta=beta, rules=rules, **parts)
    return load_file(elemental.merge_to_file(recipe, out, overwrite=True).path)


def save_all(folder: Path, states: Sequence[State]) -> list[Path]:
    return [save(folder / f"{name}.safetensors", state) for name, state in zip("abc", states, strict=False)]


def assert_merged(
    result: State,
    states: Sequence[State],
    *,
    mode: MergeMode = MergeMode.WEIGHT_SUM,
    spec: str = "",
    depth: int = 12,
    saved: torch.dtype | None = None,
) -> None:
    """Compare all with the formula in float64; what is no float, or not in every model, with A bit for bit."""
    alpha, beta = RATIOS[mode]
    assert result.keys() == states[0].keys()
    bounds = bounds_of(mode.value, states)
    for key, tensor in result.items():
        own = states[0][key]
        wanted = saved if saved and own.is_floating_point() else own.dtype
        assert (tensor.dtype, tensor.shape) == (wanted, own.shape), key
        if not own.is_floating_point() or key.endswith("position_ids") or any(key not in state for state in states):
            assert same_bits(tensor, own.to(wanted)), key
        else:
            ratio = ratio_of(spec, key, depth)
            models = [state[key] for state in states]
            exact = float64_formula(mode.value, models, alpha if ratio is None else ratio, beta or 0, key, bounds)
            assert ulps(tensor, exact, lost=lost_in_float64(mode.value, models)) <= 1, key


def same_bits(one: Tensor, other: Tensor) -> bool:
    if one.dtype is not other.dtype or one.shape != other.shape:
        return False
    return not one.numel() or torch.equal(*(tensor.reshape(-1).view(torch.uint8) for tensor in (one, other)))


def only(state: State, *prefixes: str) -> State:
    return {key: tensor for key, tensor in state.items() if key.startswith(prefixes)}


_made = cache(random_state)


def whole(seed: int, dtype: torch.dtype = torch.float16, *, layout: str = "sd1") -> State:
    """Give a small checkpoint; its tensors are shared, and not to be written to."""
    return dict(_made(LAYOUTS[layout], seed, dtype))


def u_net(seed: int, dtype: torch.dtype = torch.float16, *, layout: str = "sd1", channels: int = 4) -> State:
    """Give the U-Net of such a one."""
    state = only(whole(seed, dtype, layout=layout), "model.")
    first = state[FIRST_CONV].float()
    return {
        **state,
        FIRST_CONV: torch.cat([first, first + 0.01, first - 0.01], dim=1)[:, :channels].to(dtype).contiguous(),
    }


def some_elements(state: State) -> State:
    """Keep some elements of every block, for tests of many files."""
    unet = ("_blocks.0.0.", "in_layers.0", "proj_in", "attn2.to_k", "op.", "out.2.", "label_emb.0.0")
    parts = (*unet, "mlp.fc1", "embeddings.", "quant_conv.", "conv_in.")
    return {key: tensor for key, tensor in state.items() if any(part in key for part in parts)}


def ema_of(state: State, seed: int) -> State:
    """Give EMA weights as trainers write them: the U-Net's keys without dots, how fast, and how often."""
    generator = torch.Generator().manual_seed(seed)
    found = {
        EMA + key.removeprefix("model.").replace(".", ""): torch.randn(tensor.shape, generator=generator) * 0.05
        for key, tensor in only(state, "model.").items()
    }
    counts = {EMA + "decay": torch.tensor(0.9999), EMA + "num_updates": torch.tensor(470_000, dtype=torch.int32)}
    return {**found, **counts}
