"""Recipes in the place of models on the command line: given as models, unfolded, saved, inspected."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from elemental import MergeRecipe, ModelSource, merge_to_file, model_source, read_recipe
from elemental.cli.main import DONE, FAILED, WRONG_USAGE, main
from elemental.merge.files.hashes import file_sha256

SPEC = "OUT05:attn2:0.7"


@pytest.fixture
def soft(models: Mapping[str, Path], tmp_path: Path) -> Path:
    """Save the recipe of a merge of A and B."""
    file = tmp_path / "soft.json"
    words = [str(models["a"]), str(models["b"]), "--alpha", "0.3", "--elemental", SPEC, "--dtype", "bf16"]
    assert main(["plan", *words, "--save-recipe", str(file)]) == DONE
    return file


def test_a_plan_saves_its_recipe(soft: Path, models: Mapping[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    recipe = read_recipe(soft)
    assert (recipe.alpha, str(recipe.rules.rules[0])) == (0.3, SPEC)
    assert recipe.model_a.path == model_source(models["a"]).path
    assert recipe.model_a.size == models["a"].stat().st_size
    assert recipe.model_b.sha256 == file_sha256(models["b"])
    before = soft.read_bytes()
    words = ["plan", "--recipe", str(soft), "--save-recipe"]
    capsys.readouterr()
    with pytest.raises(SystemExit, match=str(WRONG_USAGE)):
        main([*words, str(soft)])
    assert "File exists" in capsys.readouterr().err
    with pytest.raises(SystemExit, match=str(WRONG_USAGE)):
        main([*words, str(soft.with_suffix(".txt"))])
    assert "must end in .json" in capsys.readouterr().err
    assert soft.read_bytes() == before


def test_a_recipe_stands_where_a_model_stands(soft: Path, models: Mapping[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    assert main(["merge", str(models["c"]), str(soft), "--alpha", "0.6", "-o", str(out)]) == DONE
    chained = MergeRecipe(model_source(models["c"]), ModelSource("soft.json", recipe=read_recipe(soft)), alpha=0.6)
    by_code = load_file(merge_to_file(chained, tmp_path / "code.safetensors").path)
    assert all(torch.equal(tensor, by_code[key]) for key, tensor in load_file(out).items())
    again = tmp_path / "again.safetensors"
    assert main(["merge", "--recipe", str(out), "--models", str(models["a"].parent), "-o", str(again)]) == DONE
    assert again.read_bytes() == out.read_bytes()


def test_a_plan_lists_what_a_recipe_is_made_of(
    soft: Path, models: Mapping[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["plan", str(models["c"]), str(soft), "--blocks", "ALL_A"]) == DONE
    lines = capsys.readouterr().out.splitlines()
    place = lines.index(f"B: {model_source(soft).path}, a recipe:")
    assert lines[place + 1 : place + 7] == [
        f"   A: {model_source(models['a']).path}",
        f"   B: {model_source(models['b']).path}",
        "   weight-sum: (1 - a) A + a B",
        "   alpha: 0.3",
        f"   rule 1: {SPEC}",
        "   bf16 would be the format of its file; nothing is rounded to it here",
    ]


def test_inspect_says_what_a_recipe_would_make(soft: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["inspect", str(soft), "--elements"]) == DONE
    printed = capsys.readouterr().out
    assert f"{soft}: SD 1.x" in printed
    assert "formats:  BF16 1130, I64 1" in printed
    assert "recipe:   weight-sum of a, b; alpha 0.3; rules OUT05:attn2:0.7" in printed
    assert main(["inspect", str(soft), "--json"]) == DONE
    assert json.loads(capsys.readouterr().out)["tensors"] == {"U-Net": 686, "text encoder": 197, "VAE": 248}
    soft.write_text("{}")
    assert main(["inspect", str(soft)]) == WRONG_USAGE


def test_unfold_takes_merged_files_as_recipes(
    models: Mapping[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b, c = (str(models[name]) for name in "abc")
    merged = str(tmp_path / "ab.safetensors")
    assert main(["merge", a, b, "-o", merged, "--alpha", "0.3"]) == DONE
    capsys.readouterr()
    assert main(["plan", merged, c, "--unfold"]) == DONE
    printed = capsys.readouterr().out
    assert f"A: {model_source(merged).path}, a recipe:" in printed
    assert f"   B: {model_source(b).path}" in printed
    assert main(["plan", merged, c]) == DONE
    assert "a recipe" not in capsys.readouterr().out
    with pytest.raises(SystemExit, match=str(WRONG_USAGE)):
        main(["plan", a, c, "--unfold"])
    assert "none of the models was merged by a recipe" in capsys.readouterr().err


def test_a_model_that_is_gone_is_named_with_its_recipe(
    models: Mapping[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    b = tmp_path / "b.safetensors"
    shutil.copyfile(models["b"], b)
    soft = tmp_path / "soft.json"
    assert main(["plan", str(models["a"]), str(b), "--save-recipe", str(soft)]) == DONE
    b.unlink()
    capsys.readouterr()
    assert main(["merge", str(models["c"]), str(soft), "-o", str(tmp_path / "out.safetensors")]) == FAILED
    error = capsys.readouterr().err
    assert f"Model B is the recipe soft.json: {b} is not there any more" in error
    assert not (tmp_path / "out.safetensors").exists()


def test_the_vae_can_be_a_recipe(soft: Path, models: Mapping[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["plan", str(models["c"]), str(models["a"]), "--vae", str(soft)]) == DONE
    assert f"VAE: {model_source(soft).path}, a recipe:" in capsys.readouterr().out


def test_block_weights_are_read_for_the_architecture_within(
    soft: Path, models: Mapping[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["plan", str(soft), str(models["c"]), "--blocks", "GRAD_A"]) == DONE
    assert "alpha: by block" in capsys.readouterr().out
