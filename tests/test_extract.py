"""A LoRA of the difference between two models: it leads from one to the other, and what it lacks is said."""

from __future__ import annotations

import errno
import math
import re
import tempfile
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from elemental import (
    Controls,
    LoraSource,
    MergeError,
    MergeRecipe,
    Stopped,
    merge_to_file,
    model_source,
    parse_rules,
)
from elemental.architectures.blocks import SD1
from elemental.cli.main import DONE, FAILED, WRONG_USAGE, main
from elemental.merge import extract
from elemental.merge.extract import extract_lora
from elemental.merge.low_rank import Factors, RankChoice, nearest_factors

from .conftest import save
from .lora_files import State, lora
from .merging import only, same_bits
from .test_lora import CLIP, CONV, SPELLINGS, TO_Q, some

BIAS = "model.diffusion_model.input_blocks.0.0.bias"


def pair(folder: Path, layout: str) -> tuple[Path, Path, set[str]]:
    """Make a model, and another one that differs from it by products of rank 4 in some layers."""
    a = some(layout, 1, torch.float32)
    keys = set(SPELLINGS[layout].values())
    keys |= {key for key in a if key.endswith(("resblocks.1.attn.in_proj_weight", "1.model.text_projection"))}
    b: State = {
        key: (tensor + lora(tuple(tensor.shape))[1]).float() if key in keys else tensor for key, tensor in a.items()
    }
    return save(folder / "a.safetensors", a), save(folder / "b.safetensors", b), keys


@pytest.mark.parametrize(("layout", "prefix"), [("sd1", "lora_te_"), ("sd2", "lora_te_"), ("sdxl", "lora_te2_")])
def test_added_to_a_it_is_b(tmp_path: Path, layout: str, prefix: str) -> None:
    a, b, keys = pair(tmp_path, layout)
    found = extract_lora(difference(a, b), tmp_path / "lora.safetensors", ranks=RankChoice(12))
    assert found.left_out == ()
    assert found.remaining < 2e-3
    names = {key.rpartition(".lora_")[0] for key in load_file(found.path) if ".lora_" in key}
    assert len(names) == found.layers
    assert any(name.startswith(prefix) for name in names)
    assert any(name.startswith("lora_unet_input_blocks_") for name in names) is (layout == "sdxl")
    source = model_source(a)
    recipe = MergeRecipe(source, source, alpha=0.0, loras=(LoraSource(model_source(found.path)),))
    result = merge_to_file(recipe, tmp_path / "out.safetensors", with_hashes=False)
    assert result.plan.loras[0].applied == found.layers
    baked, wanted, before = (load_file(path) for path in (result.path, b, a))
    for key in keys:
        assert (baked[key] - wanted[key]).norm() < 3e-3 * (wanted[key] - before[key]).norm(), key


def difference(a: Path, b: Path, **parts: Any) -> MergeRecipe:
    """Give the recipe of a difference, whole unless told otherwise."""
    return MergeRecipe(model_source(a), model_source(b), **{"alpha": 1.0, **parts})


def added(folder: Path, model: Path, lora_file: Path) -> State:
    """Add a LoRA to a model, and give the tensors."""
    source = model_source(model)
    recipe = MergeRecipe(source, source, alpha=0.0, loras=(LoraSource(model_source(lora_file)),))
    return load_file(merge_to_file(recipe, folder / "out.safetensors", with_hashes=False, overwrite=True).path)


def random_pair(folder: Path) -> tuple[Path, Path, list[np.ndarray]]:
    """Make two models that differ in two layers and a bias; give the layers' singular values, the largest first."""
    a = some("sd1", 1, torch.float32)
    b = dict(a)
    generator = torch.Generator().manual_seed(1)
    for key in (TO_Q, CONV):
        b[key] = a[key] + torch.randn(a[key].shape, generator=generator) * 0.1
    b[BIAS] = a[BIAS] + 1
    values = [
        np.linalg.svd((b[key].double() - a[key].double()).flatten(1).numpy(), compute_uv=False) for key in (TO_Q, CONV)
    ]
    return save(folder / "a.safetensors", a), save(folder / "b.safetensors", b), values


def test_what_remains_is_what_the_singular_values_say(tmp_path: Path) -> None:
    one, other, values = random_pair(tmp_path)
    for rank in (1, 3):
        out = tmp_path / f"{rank}.safetensors"
        found = extract_lora(difference(one, other), out, ranks=RankChoice(rank))
        rest, whole = (sum((each[start:] ** 2).sum() for each in values) for start in (rank, 0))
        assert found.remaining == pytest.approx(math.sqrt(rest / whole), rel=1e-3)
        assert (found.ranks, found.cut, found.left_out) == ((rank, rank), 0, (BIAS,))
        assert {tuple(tensor.shape) for tensor in only(load_file(out), "lora_unet_up_blocks_3").values()} == {
            (8, rank, 1, 1),
            (rank, 24, 3, 3),
            (),
        }


@pytest.mark.parametrize(("energy", "rank"), [(1e-3, 8), (0.5, 8), (0.9, 8), (0.9, 3), (0.9999, 8), (1.0, 40)])
def test_each_layer_has_the_least_rank_that_holds_the_energy(tmp_path: Path, energy: float, rank: int) -> None:
    a, b, values = random_pair(tmp_path)
    out = tmp_path / "lora.safetensors"
    found = extract_lora(difference(a, b), out, ranks=RankChoice(rank, energy))
    shares = [(each**2).cumsum() / (each**2).sum() for each in values]
    wanted = [min(k for k, share in enumerate(each, 1) if share >= min(energy, 1 - 1e-9)) for each in shares]
    assert sorted(found.ranks) == sorted(min(each, rank) for each in wanted)
    assert found.cut == sum(each > rank for each in wanted)
    tensors = load_file(out)
    for name in {key.partition(".")[0] for key in tensors}:
        down, up = tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"]
        assert len(down) == up.shape[1] == tensors[f"{name}.alpha"]
    made, wished, before = added(tmp_path, a, out), load_file(b), load_file(a)
    rest, whole = (
        math.fsum(float((one[key] - wished[key]).double().square().sum()) for key in (TO_Q, CONV))
        for one in (made, before)
    )
    assert math.sqrt(rest / whole) == pytest.approx(found.remaining, rel=1e-2, abs=1e-5)
    with safe_open(out, "pt") as file:
        assert file.metadata()["ss_network_dim"] == "Dynamic"


RULES = "IN01:attn1.to_q:1, OUT09:NOT norm:0.5\nTE::-0.25 # some of it back"
CHOSEN = {TO_Q: 1.0, CONV: 0.5, CLIP: -0.25}


def assert_has_chosen(made: State, a: Path, b: Path, remaining: float) -> None:
    """Check that chosen elements have their share of the difference but for what remains, and all others A's bits."""
    before, other = load_file(a), load_file(b)
    wished = {key: before[key] + CHOSEN.get(key, 0.0) * (other[key] - before[key]) for key in before}
    assert [key for key in made if not same_bits(made[key], before[key])] == [key for key in made if key in CHOSEN]
    rest, whole = (
        math.fsum(float((each[key] - wished[key]).double().square().sum()) for key in CHOSEN) for each in (made, before)
    )
    assert math.sqrt(rest / whole) == pytest.approx(remaining, rel=1e-2, abs=1e-5)


@pytest.mark.parametrize("rank", [2, 12])
def test_rules_choose_elements_and_ratios(tmp_path: Path, capsys: pytest.CaptureFixture[str], rank: int) -> None:
    a, b, _ = pair(tmp_path, "sd1")
    out, spec = tmp_path / "lora.safetensors", tmp_path / "rules.txt"
    spec.write_text(RULES, encoding="utf-8")
    words = ["extract", str(a), str(b), "-o", str(out), "--rank", str(rank), "--alpha", "0", "--overwrite"]
    assert main([*words, "--elemental-file", str(spec)]) == DONE
    by_file = out.read_bytes()
    said = capsys.readouterr()
    assert said.err == ""
    assert re.match(r"3 rules set [0-9]+ of [0-9]+ U-Net elements, and [0-9]+ of [0-9]+ tensors outside", said.out)
    assert "\n3 layers of rank " in said.out
    assert main([*words, "--elemental", RULES]) == DONE
    assert out.read_bytes() == by_file
    found = extract_lora(
        difference(a, b, alpha=0.0, rules=parse_rules(RULES)), out, ranks=RankChoice(rank), overwrite=True
    )
    assert found.layers == 3
    assert (found.remaining < 2e-3) is (rank == 12)
    assert_has_chosen(added(tmp_path, a, out), a, b, found.remaining)


def test_block_weights_and_alpha_choose_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b, _ = pair(tmp_path, "sd1")
    out = tmp_path / "lora.safetensors"
    words = ["extract", str(a), str(b), "-o", str(out), "--overwrite"]
    weights = ",".join("1" if block == "OUT09" else "0" for block in ("BASE", *SD1.unet_blocks))
    assert main([*words, "--blocks", weights]) == DONE
    assert {key.partition(".")[0] for key in load_file(out)} == {"lora_unet_up_blocks_3_resnets_0_conv1"}
    assert capsys.readouterr().err == ""
    assert main([*words, "--blocks", weights, "--alpha", "0.5"]) == DONE
    assert "--alpha has no effect" in capsys.readouterr().err
    norms = []
    for alpha in ("0.5", "1"):
        assert main([*words, "--alpha", alpha]) == DONE
        tensors = only(load_file(out), "lora_unet_up_blocks_3")
        up, down = (next(t for key, t in tensors.items() if f"lora_{end}" in key).double() for end in ("up", "down"))
        norms.append(float((up.flatten(1) @ down.flatten(1)).norm()))
    assert norms[1] == pytest.approx(2 * norms[0], rel=1e-3)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--elemental", "OUT12::1"], WRONG_USAGE, 'unknown block "OUT12"'),
        (["--elemental", "OUT03::1:0.5"], WRONG_USAGE, "weight-sum has no beta"),
        (["--elemental", "OUT09:atn:1"], DONE, 'warning: Rule 1 "OUT09:atn:1", line 1: matches no tensor'),
        (["--elemental", "OUT09:atn:1", "--strict"], WRONG_USAGE, "With --strict, warnings are errors."),
        (["--alpha", "3"], DONE, "warning: alpha: 3 is outside -1 to 2."),
        (["--alpha", "0"], FAILED, "There is nothing to extract: all ratios are 0."),
        (
            ["--alpha", "0", "--elemental", "IN02::1"],
            FAILED,
            "all layers of the models whose ratio is not 0 are alike.",
        ),
        (
            ["--alpha", "0", "--elemental", "IN00:0.bias:1"],
            FAILED,
            f"what differs has no layer in a LoRA, such as {BIAS}.",
        ),
    ],
)
def test_mistakes_are_said_as_of_a_merge(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], code: int, said: str
) -> None:
    a, b, _ = random_pair(tmp_path)
    out = tmp_path / "lora.safetensors"
    assert main(["extract", str(a), str(b), "-o", str(out), *options]) == code
    error = capsys.readouterr().err
    assert said in error
    assert "the result is model A" not in error
    assert out.exists() is (code == DONE)


def test_what_is_not_chosen_is_not_left_out(tmp_path: Path) -> None:
    a, b, _ = random_pair(tmp_path)
    recipe = difference(a, b, rules=parse_rules("IN00::0"))
    found = extract_lora(recipe, tmp_path / "lora.safetensors")
    assert (found.layers, found.left_out) == (2, ())


def test_a_recipe_can_be_a_model(tmp_path: Path) -> None:
    a, b, _ = pair(tmp_path, "sd1")
    soft = replace(model_source(tmp_path / "soft.json"), recipe=difference(a, b, alpha=0.25))
    names = ("soft", "quarter")
    recipes = (replace(difference(a, b), model_b=soft), difference(a, b, alpha=0.25))
    soft_lora, quarter = (
        added(tmp_path, a, extract_lora(recipe, tmp_path / f"{name}.safetensors").path)
        for name, recipe in zip(names, recipes, strict=True)
    )
    for key, tensor in quarter.items():
        torch.testing.assert_close(soft_lora[key], tensor, atol=1e-3, rtol=0)
    with pytest.raises(MergeError, match="is one of the models"):
        extract_lora(recipes[0], b, overwrite=True)


def spectrum(rows: int, columns: int, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Make a float32 matrix of about these singular values; give it and its own, by numpy in float64."""
    random = np.random.default_rng(5)
    left, right = (np.linalg.qr(random.standard_normal((size, len(values))))[0] for size in (rows, columns))
    matrix = ((left * values) @ right.T).astype(np.float32)
    return matrix, np.linalg.svd(matrix.astype(np.float64), compute_uv=False)


@pytest.mark.parametrize(("rows", "columns"), [(24, 24), (24, 1300), (700, 20)])
@pytest.mark.parametrize("slope", [0.0, 0.1, 0.25])
def test_the_factors_are_those_of_an_exact_decomposition(rows: int, columns: int, slope: float) -> None:
    count = min(rows, columns)
    matrix, values = spectrum(rows, columns, 10 ** (-slope * np.arange(count)))
    squares = values**2
    tails = [squares[k:].sum() for k in range(count + 1)]
    for k in range(1, count):
        if tails[k] > 1e-11 * tails[0]:  # beyond, 1 and the share held are one number in float64
            between = 1 - (tails[k] + tails[k - 1]) / 2 / tails[0]
            found = nearest_factors(torch.from_numpy(matrix), RankChoice(count, between))
            assert (found.rank, found.is_cut) == (k, False)
            assert found.square == pytest.approx(tails[0])
            assert found.rest == pytest.approx(tails[k], rel=1e-2, abs=1e-6 * tails[0])
            own = np.square(matrix - (found.up.double() @ found.down.double()).numpy()).sum()
            assert found.rest == pytest.approx(own, rel=1e-5)


def test_a_matrix_of_lower_rank_has_no_numbers_for_more() -> None:
    matrix, _ = spectrum(40, 90, np.array([3.0, 2.0]))
    found = nearest_factors(torch.from_numpy(matrix), RankChoice(40))
    assert found.rank == 40
    assert found.up.isfinite().all()
    assert found.down.isfinite().all()
    assert found.rest < 1e-6 * found.square
    assert nearest_factors(torch.from_numpy(matrix), RankChoice(40, 1 - 1e-9)).rank == 2


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    file = Mock(write=Mock(side_effect=full), close=Mock(side_effect=full))  # what is not written yet is tried again
    a, b, _ = random_pair(tmp_path)
    out = save(tmp_path / "lora.safetensors", {"old": torch.zeros(1)})
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for make in (Mock(return_value=file), Mock(side_effect=full)):
        monkeypatch.setattr(tempfile, "TemporaryFile", make)
        with pytest.raises(
            MergeError, match=r"^Cannot write .*lora\.safetensors: No space left on device\. An existing"
        ):
            extract_lora(difference(a, b), out, overwrite=True)
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_only_one_layer_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, _ = pair(tmp_path, "sd1")
    made: list[weakref.ref[Any]] = []

    def factors(matrix: torch.Tensor, choice: RankChoice) -> Factors:
        assert not any(ref() is not None for ref in made)
        found = nearest_factors(matrix, choice)
        made.extend(map(weakref.ref, (matrix, found.up, found.down)))
        return found

    monkeypatch.setattr(extract, "nearest_factors", factors)
    found = extract_lora(difference(a, b), tmp_path / "lora.safetensors")
    assert len(made) == 3 * found.layers


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b, _ = pair(tmp_path, "sd1")
    out = tmp_path / "lora.safetensors"
    words = ["extract", str(a), str(b), "-o", str(out), "--rank"]
    assert main([*words, "2"]) == DONE
    printed = capsys.readouterr().out
    assert "layers of rank 2; " in printed
    assert "% of the difference remains." in printed
    before = out.read_bytes()
    assert main([*words, "4"]) == FAILED
    assert "exists" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert main([*words, "4", "--overwrite"]) == DONE
    assert out.read_bytes() != before


def test_the_ranks_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b, _ = random_pair(tmp_path)
    words = ["extract", str(a), str(b), "-o", str(tmp_path / "lora.safetensors"), "--rank", "6", "--energy", "0.9"]
    assert main(words) == DONE
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"2 layers of rank ([2-5]) to 6, median \1; [0-9.]+% of the difference remains\.", first)
    assert second == "1 of them would need more than --rank 6 to hold 0.9 of the squares."


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--rank", "0"], "--rank is 1 or more"),
        *[(["--energy", e], "--energy is a share: more than 0, and at most 1") for e in ("0", "1.01", "-0.5", "nan")],
        (["--energy", "much"], 'argument --energy: "much" is not a number'),
    ],
)
def test_numbers_out_of_range(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=str(WRONG_USAGE)):
        main(["extract", "a.safetensors", "b.safetensors", "-o", "lora.safetensors", *options])
    assert said in capsys.readouterr().err


def test_what_cannot_be_extracted(tmp_path: Path) -> None:
    a, b, _ = pair(tmp_path, "sd1")
    out = tmp_path / "lora.safetensors"
    with pytest.raises(MergeError, match="nothing to extract: all layers of the models are alike"):
        extract_lora(difference(a, a), out)
    with pytest.raises(MergeError, match="is one of the models; give the LoRA another name"):
        extract_lora(difference(a, b), b, overwrite=True)
    with pytest.raises(MergeError, match=r"must end in \.safetensors"):
        extract_lora(difference(a, b), tmp_path / "lora.ckpt")
    xl = save(tmp_path / "xl.safetensors", some("sdxl", 1, torch.float32))
    with pytest.raises(MergeError, match="different architectures"):
        extract_lora(difference(a, xl), out)
    broken = load_file(b)
    broken[TO_Q][0, 0] = float("nan")
    with pytest.raises(MergeError, match="attn1_to_q: a model holds NaN or infinite numbers there"):
        extract_lora(difference(a, save(tmp_path / "n.safetensors", broken)), out)
    with pytest.raises(Stopped):
        extract_lora(difference(a, b), out, controls=Controls(should_stop=lambda: True))
    assert not out.exists()
