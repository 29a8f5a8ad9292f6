from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

import elemental
from elemental.architectures.keys import FIRST_CONV
from elemental.errors import CheckpointError, MergeError, RecipeError
from elemental.merge import computation, half_precision
from elemental.merge.execute import Sink, execute, is_finite
from elemental.merge.files.open_models import OpenModels
from elemental.merge.files.tensor_data import HeldData
from elemental.merge.files.tensor_info import TensorInfo
from elemental.merge.plan import Role, TensorPlan
from elemental.merge.planner import plan_tensors
from elemental.merge.recent_tensors import RecentTensors
from elemental.modes.base import Needs
from elemental.modes.catalogue import MergeMode
from elemental.recipe.recipe import MergeRecipe, ModelSource, SaveDtype, VaeChoice

from .conftest import INPAINTING, LAYOUTS, random_state, save
from .merging import RATIOS, some_elements
from .mode_formulas import bounds_of
from .reference import float64_formula, lost_in_float64, slow_ratio, ulps

SPEC = "IN03-OUT05:attn2:0.7,OUT06:attn1 ff.net:0.2,NOT BASE:norm:0.45,TE::1,VAE:conv:0,VAE:quant:-0.3"


def recipe(paths: list[Path], **parts: Any) -> MergeRecipe:
    parts["rules"] = elemental.parse_rules(parts.pop("spec", ""))
    a, b, *c = map(elemental.model_source, paths)
    return MergeRecipe(a, b, c[0] if c else None, **parts)


def merge(tmp_path: Path, paths: list[Path], **parts: Any) -> dict[str, Tensor]:
    result = elemental.merge_to_file(recipe(paths, **parts), tmp_path / "merged.safetensors", overwrite=True)
    return load_file(result.path)


def assert_exact(
    result: dict[str, Tensor], states: list[dict[str, Tensor]], mode: MergeMode, spec: str, *, depth: int = 12
) -> None:
    """Compare every tensor with the formula in float64: within one unit in the last place of its format."""
    alpha, beta = RATIOS[mode]
    assert result.keys() == states[0].keys()
    bounds = bounds_of(mode.value, states)
    for key, tensor in result.items():
        if key.endswith("position_ids"):
            assert torch.equal(tensor, states[0][key])
            continue
        ratio = slow_ratio(spec, key, depth)
        models = [state[key] for state in states]
        exact = float64_formula(mode.value, models, alpha if ratio is None else ratio, beta or 0, key, bounds)
        assert tensor.shape == exact.shape
        assert ulps(tensor, exact, lost=lost_in_float64(mode.value, models)) <= 1, key


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_every_tensor_equals_the_formula(tmp_path: Path, layout: str, dtype: torch.dtype) -> None:
    states = [random_state(LAYOUTS[layout], seed, dtype) for seed in (1, 2)]
    paths = [save(tmp_path / f"{index}.safetensors", state) for index, state in enumerate(states)]
    result = merge(tmp_path, paths, alpha=0.3, spec=SPEC)
    assert_exact(result, states, MergeMode.WEIGHT_SUM, SPEC, depth=9 if layout == "sdxl" else 12)


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(MergeMode))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_every_mode_equals_its_formula(tmp_path: Path, mode: MergeMode, dtype: torch.dtype) -> None:
    states = [random_state(LAYOUTS["sd1"], seed, dtype) for seed in (1, 2, 3)][: 3 if mode.uses_c else 2]
    if mode.record.needs is not Needs.NUMBER:  # whose formulas, written out, take a second for each MB
        states = [some_elements(state) for state in states]
    paths = [save(tmp_path / f"{index}.safetensors", state) for index, state in enumerate(states)]
    alpha, beta = RATIOS[mode]
    spec = SPEC.replace("-0.3", "0.8") if mode.record.limits else SPEC
    result = merge(tmp_path, paths, mode=mode, alpha=alpha, beta=beta, spec=spec)
    assert_exact(result, states, mode, spec)


@given(
    st.lists(st.tuples(*[st.floats(-4, 4, width=16)] * 3), min_size=1, max_size=40),
    st.floats(-1, 2),
    st.floats(-1, 2),
    st.sampled_from([mode for mode in MergeMode if mode.record.weighted_sum]),
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32]),
)
@settings(deadline=None, max_examples=60)
def test_cancelling_terms_keep_every_digit(
    numbers: list[tuple[float, float, float]], alpha: float, beta: float, mode: MergeMode, dtype: torch.dtype
) -> None:
    models = [torch.tensor(column).to(dtype) for column in zip(*numbers, strict=True)]
    result = computed(models, mode, alpha, beta)
    fused = dtype is torch.float16 and mode is MergeMode.WEIGHT_SUM
    exact = float64_formula(mode.value, models, alpha, beta)  # which rounds, too, at its own last place
    # torch converts float64 to fp16 and bf16 by way of float32, which rounds once more, in a later digit
    twice = {torch.float16: 2**-13, torch.bfloat16: 2**-16}.get(dtype, 2**-30)
    assert ulps(result, exact) <= (1 if fused else 0.5 + twice)


class Collect(Sink):
    def __init__(self, size: int, dtype: torch.dtype) -> None:
        self.result = torch.empty(size, dtype=dtype)

    def write(self, tensor: TensorPlan, start: int, values: Tensor) -> None:
        del tensor
        self.result[start : start + len(values)] = values


class Held:
    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def data(self, key: str) -> HeldData:
        del key
        return HeldData(self._tensor)


def computed(models: list[Tensor], mode: MergeMode, alpha: float, beta: float, sink: Collect | None = None) -> Tensor:
    """Run the executor on one tensor."""
    roles = [Role.A, Role.B, Role.C][: 3 if mode.uses_c else 2]
    name = {torch.bfloat16: "BF16", torch.float32: "F32", torch.float16: "F16"}[models[0].dtype]
    infos = {key: TensorInfo(name, shape) for key, shape in SKELETON.items()} | {KEY: TensorInfo(name, models[0].shape)}
    c = {"model_c": ModelSource("c")} if mode.uses_c else {}
    second = {"beta": beta} if mode.uses_beta else {}
    recipe = MergeRecipe(ModelSource("a"), ModelSource("b"), mode=mode, alpha=alpha, **c, **second)  # type: ignore[arg-type]
    plan = plan_tensors(recipe, dict.fromkeys(roles, infos))
    one = elemental.MergePlan(plan.architecture, plan.recipe, tuple(t for t in plan.tensors if t.name.key == KEY))
    sink = sink or Collect(len(models[0]), models[0].dtype)
    execute(one, {role: Held(model) for role, model in zip(roles, models, strict=False)}, sink)
    return sink.result


class Roomy(Collect):
    """Gives memory to compute in, and notes what is written all the same."""

    def __init__(self, size: int, dtype: torch.dtype) -> None:
        super().__init__(size, dtype)
        self.written = 0

    def write(self, tensor: TensorPlan, start: int, values: Tensor) -> None:
        super().write(tensor, start, values)
        self.written += len(values)

    def room(self, tensor: TensorPlan, start: int, count: int) -> Tensor:
        del tensor
        return self.result[start : start + count]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("half_lerp", [True, False])
def test_a_sum_of_halves_is_computed_where_it_goes(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, *, half_lerp: bool
) -> None:
    monkeypatch.setattr(computation, "CPU_PIECE", 100)
    monkeypatch.setattr(half_precision, "_has_half_lerp", lambda _: half_lerp)
    models = [torch.randn(1000, generator=torch.Generator().manual_seed(seed)).half() for seed in (1, 2)]
    large = slice(400, 800)  # of one piece of numbers in memory; its results may be infinite, and are not
    models[0][large], models[1][large] = 65504, -65504
    sink = Roomy(1000, dtype)
    result = computed(models, MergeMode.WEIGHT_SUM, 0.5, 0, sink)
    assert torch.equal(result, computed(models, MergeMode.WEIGHT_SUM, 0.5, 0).to(dtype))
    assert sink.written == (400 if half_lerp and dtype is torch.float16 else 1000)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_infinite_number_that_is_copied_is_noted(models: dict[str, Path], tmp_path: Path, bad: float) -> None:
    state = load_file(models["a"])
    state[KEY][0] = bad
    path = save(tmp_path / "bad.safetensors", state)
    with OpenModels() as opened:
        wanted = recipe([path, models["b"]], alpha=0.0)
        plan, readers = opened.planner(wanted).plan(wanted), opened.open(wanted)
        one = elemental.MergePlan(plan.architecture, plan.recipe, tuple(t for t in plan.tensors if t.name.key == KEY))
        recent = RecentTensors()
        for _ in range(2):
            sink = Collect(state[KEY].numel(), torch.float16)
            assert execute(one, recent.readers(readers, one), sink).not_finite == ((Role.A, KEY),)
            assert torch.equal(sink.result.view(torch.int16), state[KEY].view(torch.int16))


KEY = "model.diffusion_model.out.0.bias"
SKELETON = {f"model.diffusion_model.input_blocks.{i}.0.weight": (1,) for i in range(1, 12)} | {FIRST_CONV: (1, 4, 1, 1)}


def test_torchs_fp16_kernel_gives_what_upcasting_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.float16)
    a = bits[torch.isfinite(bits) & (bits.abs() < 1000)]
    b = a[torch.randperm(len(a), generator=torch.Generator().manual_seed(1))]
    for alpha in (0.3, 0.5, 0.8, -0.5, 1.5):
        fused = computed([a, b], MergeMode.WEIGHT_SUM, alpha, 0)
        with monkeypatch.context() as patch:
            patch.setattr(half_precision, "_has_half_lerp", lambda _: False)
            assert torch.equal(fused, computed([a, b], MergeMode.WEIGHT_SUM, alpha, 0))


@pytest.mark.parametrize("scale", [0.02, 1, 10, 300])
def test_fp16_of_any_size_is_within_a_unit(scale: float) -> None:
    generator = torch.Generator().manual_seed(1)
    models = [(torch.randn(300_000, generator=generator) * scale).half() for _ in range(2)]
    for alpha in (0.3, 0.5, 1 / 3, -0.7, 1.9):
        exact = float64_formula("weight-sum", models, alpha, 0)
        assert ulps(computed(models, MergeMode.WEIGHT_SUM, alpha, 0), exact) <= 1


@pytest.mark.parametrize("size", [0.2, 1, 4, 3000])
def test_fp16_terms_that_cancel_are_within_a_unit(size: float) -> None:
    generator = torch.Generator().manual_seed(1)
    for alpha in (0.3, 0.7, 0.6, 0.8325222434831904, 1.097, -0.7, 1.9):
        a = (torch.rand(100_000, generator=generator) * 2 - 1) * size
        b = a * ((alpha - 1) / alpha) + torch.randn(len(a), generator=generator) * size * 2**-12
        models = [a.half(), b.half()]
        result = half_precision.half_weight_sum(models[0], models[1], alpha).values
        assert ulps(result, float64_formula("weight-sum", models, alpha, 0)) <= 1
        cut = zip(*(model.view(-1, 800) for model in models), strict=True)
        pieces = [half_precision.half_weight_sum(some_a, some_b, alpha).values for some_a, some_b in cut]
        assert torch.equal(torch.cat(pieces), result)


def test_one_number_that_is_none_spoils_no_other() -> None:
    a, b = torch.tensor([0.7, 300, 1]).half(), torch.tensor([-0.3, -128.6, 2]).half()
    whole = half_precision.half_weight_sum(a, b, 0.7).values
    for bad in (float("nan"), float("inf")):
        spoilt = torch.tensor([bad]).half()
        assert torch.equal(
            half_precision.half_weight_sum(torch.cat([a, spoilt]), torch.cat([b, spoilt]), 0.7).values[:3], whole
        )


@pytest.mark.parametrize("values", [[0.5, -3, 2], [-1, -65504], [65504, 0], [0.0, -0.0], [2**-24, -(2**-24)]])
def test_the_largest_of_fp16(values: list[float]) -> None:
    assert half_precision.largest(torch.tensor(values, dtype=torch.float16)) == max(map(abs, values))
    for bad in (float("inf"), float("-inf"), float("nan"), -float("nan")):
        assert not math.isfinite(half_precision.largest(torch.tensor([*values, bad], dtype=torch.float16)))


@pytest.mark.parametrize(
    ("a", "b", "alpha", "finite"),
    [
        ([1, 2], [3, 4], 0.3, True),
        ([65504, 0], [-65504, 0], 0.5, False),  # may be finite, which is looked at number by number
        ([1, 2], [3, math.nan], 0.3, False),
        ([math.inf, 2], [3, 4], 0.3, False),
        ([30000, 0], [-30000, 0], 0.5, True),
        ([30000, 0], [-30000, 0], 1.9, False),
    ],
)
def test_a_weight_sum_that_is_surely_finite(a: list[float], b: list[float], alpha: float, *, finite: bool) -> None:
    models = torch.tensor(a).half(), torch.tensor(b).half()
    most = half_precision.largest(models[0]), half_precision.largest(models[1])
    for known in (None, most):
        assert half_precision.half_weight_sum(*models, alpha, most=known).finite is finite


@pytest.mark.slow
def test_pieces_join(tmp_path: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = merge(tmp_path, [models["a"], models["b"]], spec=SPEC)
    monkeypatch.setattr(computation, "CPU_PIECE", 37)
    pieces = merge(tmp_path, [models["a"], models["b"]], spec=SPEC)
    assert all(torch.equal(whole[key], pieces[key]) for key in whole)


@pytest.mark.slow
@pytest.mark.parametrize(("alpha", "model"), [(0.0, "a"), (1.0, "b")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float8_e4m3fn])
def test_the_ends_are_the_models_bit_for_bit(tmp_path: Path, alpha: float, model: str, dtype: torch.dtype) -> None:
    states = {name: random_state(LAYOUTS["sd1"], seed, dtype) for seed, name in enumerate("ab")}
    for state in states.values():  # every bit pattern of a number, the signs of zero included
        state["first_stage_model.quant_conv.bias"][:2] = torch.tensor([-0.0, 1e-7]).to(dtype)
    paths = [save(tmp_path / f"{name}.safetensors", state) for name, state in states.items()]
    result = merge(tmp_path, paths, alpha=alpha)
    for key, tensor in result.items():
        wanted = states["a" if key.endswith("position_ids") else model][key]
        assert torch.equal(tensor.view(torch.uint8), wanted.view(torch.uint8)), key


def test_fp8_stays_fp8(tmp_path: Path) -> None:
    states = [random_state(LAYOUTS["sd1"], seed, torch.float8_e4m3fn) for seed in (1, 2)]
    result = merge(tmp_path, [save(tmp_path / f"{i}.safetensors", s) for i, s in enumerate(states)], alpha=0.3)
    assert_exact(result, states, MergeMode.WEIGHT_SUM, "")


@pytest.mark.parametrize("saved", list(SaveDtype))
def test_the_format_asked_for(tmp_path: Path, models: dict[str, Path], saved: SaveDtype) -> None:
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[saved.value]
    a, b = load_file(models["a"]), load_file(models["b"])
    result = merge(tmp_path, [models["a"], models["b"]], alpha=0.3, dtype=saved)
    assert {tensor.dtype for tensor in result.values()} == {dtype, torch.int64}
    assert ulps(result[FIRST_CONV], float64_formula("weight-sum", [a[FIRST_CONV], b[FIRST_CONV]], 0.3, 0)) <= 1


def test_a_decides_format_tensor_by_tensor(tmp_path: Path) -> None:
    a, b = random_state(LAYOUTS["sd1"], 1, torch.float32), random_state(LAYOUTS["sd1"], 2, torch.bfloat16)
    mixed = {key: tensor.half() if key.startswith("model.") else tensor for key, tensor in a.items()}
    result = merge(tmp_path, [save(tmp_path / "a.safetensors", mixed), save(tmp_path / "b.safetensors", b)], alpha=0.3)
    for key, tensor in result.items():
        assert tensor.dtype is mixed[key].dtype
        if tensor.is_floating_point() and not key.endswith("position_ids"):
            assert ulps(tensor, float64_formula("weight-sum", [mixed[key], b[key]], 0.3, 0)) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["sd1", "sdxl"])
@pytest.mark.parametrize("mode", [mode for mode in MergeMode if mode.uses_b])
def test_inpainting_keeps_its_other_channels(tmp_path: Path, layout: str, mode: MergeMode) -> None:
    wide = random_state(INPAINTING[layout], 1, torch.bfloat16)
    others = [random_state(LAYOUTS[layout], seed, torch.bfloat16) for seed in ((2, 3) if mode.uses_c else (2,))]
    paths = [save(tmp_path / f"{i}.safetensors", state) for i, state in enumerate([wide, *others])]
    alpha, beta = RATIOS[mode]
    result = merge(tmp_path, paths, mode=mode, alpha=alpha, beta=beta)[FIRST_CONV]
    shared = [wide[FIRST_CONV][:, :4], *(state[FIRST_CONV] for state in others)]
    assert torch.equal(result[:, 4:], wide[FIRST_CONV][:, 4:])
    exact = float64_formula(mode.value, shared, alpha, beta or 0, FIRST_CONV, bounds_of(mode.value, [wide, *others]))
    assert ulps(result[:, :4], exact, lost=lost_in_float64(mode.value, shared)) <= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "ratios", "source"),
    [(MergeMode.WEIGHT_SUM, (1, None), 1), (MergeMode.TRIPLE_SUM, (0, 1), 2), (MergeMode.SUM_TWICE, (1, 0), 1)],
)
def test_inpainting_at_the_ends(
    tmp_path: Path, mode: MergeMode, ratios: tuple[float, float | None], source: int
) -> None:
    layouts = [INPAINTING["sd1"], LAYOUTS["sd1"], LAYOUTS["sd1"]][: 3 if mode.uses_c else 2]
    states = [random_state(layout, seed) for seed, layout in enumerate(layouts)]
    paths = [save(tmp_path / f"{i}.safetensors", state) for i, state in enumerate(states)]
    result = merge(tmp_path, paths, mode=mode, alpha=ratios[0], beta=ratios[1])
    assert torch.equal(result[FIRST_CONV][:, :4], states[source][FIRST_CONV])
    assert torch.equal(result[FIRST_CONV][:, 4:], states[0][FIRST_CONV][:, 4:])
    assert torch.equal(result[KEY], states[source][KEY])


@pytest.mark.slow
@pytest.mark.parametrize("mode", [mode for mode in MergeMode if mode.uses_c])
def test_the_shared_channels_are_those_of_every_model(tmp_path: Path, mode: MergeMode) -> None:
    layouts = [INPAINTING["sd1"], INPAINTING["sd1"], LAYOUTS["sd1"]]
    states = [random_state(layout, seed, torch.float32) for seed, layout in enumerate(layouts)]
    paths = [save(tmp_path / f"{i}.safetensors", state) for i, state in enumerate(states)]
    alpha, beta = RATIOS[mode]
    result = merge(tmp_path, paths, mode=mode, alpha=alpha, beta=beta)[FIRST_CONV]
    shared = [state[FIRST_CONV][:, :4] for state in states]
    assert torch.equal(result[:, 4:], states[0][FIRST_CONV][:, 4:])
    exact = float64_formula(mode.value, shared, alpha, beta or 0, FIRST_CONV)
    assert ulps(result[:, :4], exact, lost=lost_in_float64(mode.value, shared)) <= 0.5


def test_nan_does_not_hide_what_is_too_large() -> None:
    a, b = torch.tensor([float("nan"), 6e4]).half(), torch.tensor([0, -6e4]).half()
    with pytest.raises(MergeError, match="too large for F16"):
        computed([a, b], MergeMode.WEIGHT_SUM, -1, 0)
    assert computed([a, a], MergeMode.WEIGHT_SUM, 0.5, 0)[0].isnan()


def test_the_vae_of_a_file(tmp_path: Path, models: dict[str, Path]) -> None:
    prefix = "first_stage_model."
    other = {k: v for k, v in random_state(LAYOUTS["sd1"], 9, torch.float32).items() if k.startswith(prefix)}
    alone = {key.removeprefix(prefix): tensor for key, tensor in other.items()}
    vae = tmp_path / "vae.pt"
    torch.save({"state_dict": alone | {"loss.logvar": torch.zeros(1)}, "step": 5}, vae)
    parts = {"vae": VaeChoice.FILE, "vae_file": elemental.model_source(vae)}
    result = merge(tmp_path, [models["a"], models["b"]], alpha=0.3, **parts)
    assert result.keys() == load_file(models["a"]).keys()
    assert all(torch.equal(result[key], tensor.half()) for key, tensor in other.items())
    torch.save({"encoder.x": torch.zeros(1)}, vae)
    with pytest.raises(CheckpointError, match="has no VAE"):
        merge(tmp_path, [models["a"], models["b"]], **parts)


def test_pickled_checkpoints_merge_alike(tmp_path: Path, models: dict[str, Path]) -> None:
    wanted = merge(tmp_path, [models["a"], models["b"]], alpha=0.3)
    state = load_file(models["b"])
    # A transposed view is not contiguous, and must not matter.
    state["cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"] = (
        state["cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"].t().contiguous().t()
    )
    torch.save({"state_dict": state, "global_step": 1}, tmp_path / "b.ckpt")
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("b.ckpt", "old.pt"):
        result = merge(tmp_path, [models["a"], tmp_path / name], alpha=0.3)
        assert all(torch.equal(result[key], tensor) for key, tensor in wanted.items())


def test_the_file_is_aligned_and_opens_elsewhere(tmp_path: Path, models: dict[str, Path]) -> None:
    merge(tmp_path, [models["a"], models["b"]])
    path = tmp_path / "merged.safetensors"
    raw = path.read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    for key, entry in header.items():
        if key != "__metadata__":
            size = {"F16": 2, "I64": 8}[entry["dtype"]]
            assert (8 + int.from_bytes(raw[:8], "little") + entry["data_offsets"][0]) % size == 0
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["format"] == "pt"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float8_e5m2])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), None])
def test_finite_is_told_from_the_sum(dtype: torch.dtype, bad: float | None) -> None:
    values = torch.full((10_000,), 50_000.0 if dtype is not torch.float8_e5m2 else 1.0)
    if bad is not None:
        values[777] = bad
    assert is_finite(values.to(dtype)) is (bad is None)


def test_a_device_that_is_not_there_is_named(tmp_path: Path, models: dict[str, Path]) -> None:
    with pytest.raises(MergeError, match='device "nonsense" cannot be used'):
        elemental.merge_to_file(recipe([models["a"], models["b"]]), tmp_path / "x.safetensors", device="nonsense")


def test_the_result_is_a_safetensors_file(tmp_path: Path, models: dict[str, Path]) -> None:
    with pytest.raises(MergeError, match=r"must end in \.safetensors"):
        elemental.merge_to_file(recipe([models["a"], models["b"]]), tmp_path / "x.ckpt")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("mode", list(MergeMode))
def test_a_gpu_gives_the_same_within_a_unit(tmp_path: Path, mode: MergeMode) -> None:
    states = [random_state(LAYOUTS["sd1"], seed) for seed in (1, 2, 3)][: 3 if mode.uses_c else 2]
    paths = [save(tmp_path / f"{index}.safetensors", state) for index, state in enumerate(states)]
    alpha, beta = RATIOS[mode]
    made = recipe(paths, mode=mode, alpha=alpha, beta=beta, spec=SPEC)
    elemental.merge_to_file(made, tmp_path / "merged.safetensors", device="cuda")
    assert_exact(load_file(tmp_path / "merged.safetensors"), states, mode, SPEC)


def test_no_recipe_in_a_plain_file(models: dict[str, Path]) -> None:
    with pytest.raises(RecipeError, match="has no recipe"):
        elemental.read_recipe(models["a"])
