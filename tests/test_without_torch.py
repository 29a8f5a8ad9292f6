"""Merges without torch: the same bits as with it, and torch for whatever is not as usual."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from elemental import MergeRecipe, merge_to_file, model_source, parse_rules
from elemental.demo.checkpoint_pair import copy_pair
from elemental.merge.half_precision import half_weight_sum
from elemental.merge.without_torch import find_fused_sums, rounds_once, sum_halves

_RATIOS = (0.3, 0.5, 0.7, -0.4, 1.3, 2.0, 0.4999999999, 1 / 3, 1e-4, 0.999)
_RULE = "OUT05:attn2:0.7, IN03:ff:1, M00:attn1:-0.5"
_COMMAND = """
import sys
from elemental.cli.main import main
code = main(sys.argv[1:])
print("with torch" if "torch" in sys.modules else "without torch")
sys.exit(code)
"""

needs_numkong = pytest.mark.skipif(
    find_fused_sums() is None, reason="NumKong is not installed, or has no fused sums here"
)


@pytest.fixture(params=[(), ("sapphire",), ("sapphire", "skylake")], ids=lambda off: "-".join(("all", *off)))
def fused(request: pytest.FixtureRequest) -> Iterator[Any]:
    """NumKong as on processors of several generations."""
    numkong = find_fused_sums()
    had = numkong.get_capabilities()
    for name in request.param:
        numkong.disable_capability(name)
    yield numkong
    for name in request.param:
        if had[name]:
            numkong.enable_capability(name)


def _numbers(rng: np.random.Generator, count: int, size: float) -> Any:
    return np.clip(rng.standard_normal(count) * size, -65504, 65504).astype("f2")


def _a_multiple(rng: np.random.Generator, a: Any) -> Any:
    """Numbers that cancel with A's at some ratio."""
    return np.clip(a.astype("f4") * rng.uniform(-3, 3), -65504, 65504).astype("f2")


@needs_numkong
@pytest.mark.parametrize("size", [1e-7, 1e-4, 0.03, 1.0, 300.0, 3e4])
def test_sums_have_the_bits_of_torch(fused: Any, size: float) -> None:
    rng = np.random.default_rng(int(1e7 * size))
    memory = [np.empty(2000, "f4") for _ in range(2)]
    for ratio in (*_RATIOS, *rng.uniform(-2, 3, 10)):
        for kind in range(4):
            a = _numbers(rng, 1000 + kind, size)
            b = _a_multiple(rng, a) if kind == 3 else _numbers(rng, len(a), size * 10.0 ** (kind - 1))
            out = np.empty(len(a), "f2")
            with np.errstate(all="ignore"):
                finite = sum_halves(fused, a, b, float(ratio), out=out, memory=memory)
            expected = half_weight_sum(torch.from_numpy(a), torch.from_numpy(b), float(ratio))
            assert finite == expected.finite
            if finite:
                assert (out.view("u2") == expected.values.numpy().view("u2")).all(), (ratio, kind)


@needs_numkong
def test_sums_that_round_twice_are_not_used() -> None:
    class Twice:
        astype = find_fused_sums().astype

        @staticmethod
        def blend(a: Any, b: Any, *, alpha: float, beta: float, out: Any) -> None:
            out[:] = np.float32(alpha) * a + np.float32(beta) * b

    assert rounds_once(find_fused_sums())
    assert not rounds_once(Twice)


@pytest.fixture
def merged(tmp_path: Path) -> Callable[..., tuple[bytes, str]]:
    """Merges in a process of its own; gives the file and what was printed."""

    def merge(*argv: object) -> tuple[bytes, str]:
        out = tmp_path / "out.safetensors"
        command = [sys.executable, "-c", _COMMAND, "merge", *map(str, argv), "-o", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        return (out.read_bytes() if out.exists() else b""), done.stdout + done.stderr

    return merge


def _with_torch(folder: Path, a: Path, b: Path, alpha: float) -> bytes:
    recipe = MergeRecipe(model_source(a), model_source(b), alpha=alpha, rules=parse_rules(_RULE))
    return merge_to_file(recipe, folder / "with-torch.safetensors").path.read_bytes()


@needs_numkong
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.2])
def test_a_weight_sum_needs_no_torch_and_is_the_same_file(
    merged: Callable[..., tuple[bytes, str]], tmp_path: Path, alpha: float
) -> None:
    a, b = copy_pair(tmp_path / "models")
    data, said = merged(a, b, "--alpha", alpha, "--elemental", _RULE)
    assert "without torch" in said
    assert data == _with_torch(tmp_path, a, b, alpha)


@pytest.mark.slow
def test_another_mode_is_computed_by_torch(merged: Callable[..., tuple[bytes, str]], tmp_path: Path) -> None:
    data, said = merged(*copy_pair(tmp_path / "models"), "--mode", "slerp")
    assert data
    assert "with torch" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    "key", ["model.diffusion_model.input_blocks.1.1.proj_in.weight", "first_stage_model.decoder.conv_in.bias"]
)
def test_numbers_that_are_not_finite_are_told_as_torch_tells_them(
    merged: Callable[..., tuple[bytes, str]], tmp_path: Path, key: str
) -> None:
    a, b = copy_pair(tmp_path / "models")
    state = load_file(a)
    state[key].view(-1)[3] = torch.nan
    save_file(state, a)
    data, said = merged(a, b, "--alpha", "0", "--elemental", "IN01::0.4")
    assert f"{key} holds NaN or infinite numbers in A" in said
    assert "with torch" in said
    recipe = MergeRecipe(model_source(a), model_source(b), alpha=0.0, rules=parse_rules("IN01::0.4"))
    assert data == merge_to_file(recipe, tmp_path / "with-torch.safetensors").path.read_bytes()


@pytest.mark.slow
def test_fp32_is_merged_by_torch_and_copied_without(merged: Callable[..., tuple[bytes, str]], tmp_path: Path) -> None:
    a, b = copy_pair(tmp_path / "models")
    for path in (a, b):
        save_file({key: tensor.float() for key, tensor in load_file(path).items()}, path)
    data, said = merged(a, b, "--alpha", "0", "--elemental", "IN01::1")
    assert data
    assert "without torch" in said
    (tmp_path / "out.safetensors").unlink()
    data, said = merged(a, b, "--alpha", "0", "--elemental", "IN01::0.5")
    assert data
    assert "with torch" in said
