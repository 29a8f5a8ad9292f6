"""LoRAs on the command line: ``--lora``, what is printed of them, and ratios with odd names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from elemental import RecipeError, read_recipe
from elemental.cli import generate
from elemental.cli.argument_parser import parse_command
from elemental.cli.main import DONE, FAILED, WRONG_USAGE, main
from elemental.cli.plan import PLAN
from elemental.cli.recipe_options import make_recipe
from elemental.recipe.lora_texts import LoraText, format_lora, parse_lora
from elemental.recipe.recipe import MergeRecipe

from .conftest import save
from .lora_files import lora, with_name
from .merging import same_bits

KEY = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
LAYER = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


@pytest.fixture
def style(tmp_path: Path) -> Path:
    return save(tmp_path / "style.safetensors", with_name(LAYER, lora((8, 8))))


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("style.safetensors", LoraText("style.safetensors")),
        ("style.safetensors:0.8", LoraText("style.safetensors", 0.8)),
        ("style.safetensors:0.8:0", LoraText("style.safetensors", 0.8, 0.0)),
        ("style.safetensors:-1e-1: .5 ", LoraText("style.safetensors", -0.1, 0.5)),
        (r"C:\LoRAs\style.safetensors", LoraText(r"C:\LoRAs\style.safetensors")),
        (r"C:\LoRAs\style.safetensors:0.8:0.4", LoraText(r"C:\LoRAs\style.safetensors", 0.8, 0.4)),
        ("/loras/12:30 style.safetensors:1", LoraText("/loras/12:30 style.safetensors", 1.0)),
        ("style:v2:0.5", LoraText("style:v2", 0.5)),
    ],
)
def test_a_text_is_a_file_and_the_numbers_behind_it(text: str, meant: LoraText) -> None:
    assert parse_lora(text) == meant
    assert parse_lora(format_lora(*meant)) == meant


@pytest.mark.parametrize(
    "text", ["style.safetensors:0,8", "style.safetensors:strong", "a.safetensors:1:x", "a.ckpt:1:1:1"]
)
def test_what_is_no_ratio_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match=r"is no ratio of the LoRA .*: ratios are numbers"):
        parse_lora(text)


def test_no_file_is_refused() -> None:
    with pytest.raises(RecipeError, match="A LoRA is written FILE:RATIO"):
        parse_lora("")


def test_a_lora_is_added_to_a_alone(
    models: dict[str, Path], style: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "baked.safetensors"
    assert main(["merge", str(models["a"]), "--lora", f"{style}:0.8", "-o", str(out)]) == DONE
    printed = capsys.readouterr()
    assert printed.err.count("warning") == 0
    assert "1 of 1131 tensors change" in printed.out
    assert "LoRA style.safetensors: 1 of 1 layers, in 1 tensors." in printed.out
    before, after = load_file(models["a"]), load_file(out)
    assert [key for key in before if not same_bits(before[key], after[key])] == [KEY]
    again = tmp_path / "again.safetensors"
    assert main(["merge", "--recipe", str(out), "-o", str(again)]) == DONE
    assert again.read_bytes() == out.read_bytes()


def _recipe(*words: str) -> MergeRecipe:
    return make_recipe(PLAN.read(parse_command(["plan", *words]).args).recipe)[0]


def test_options_replace_the_loras_of_a_recipe(models: dict[str, Path], style: Path, tmp_path: Path) -> None:
    a, b = str(models["a"]), str(models["b"])
    first = _recipe(a, b, "--lora", f"{style}:0.8", "--lora", f"{style}:-0.5:0")
    assert [(lora.ratio, lora.ratio_te) for lora in first.loras] == [(0.8, None), (-0.5, 0.0)]
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(first.to_dict()), encoding="utf-8")
    assert read_recipe(file) == first
    assert _recipe("--recipe", str(file)).loras == first.loras
    assert [lora.ratio for lora in _recipe("--recipe", str(file), "--lora", f"{style}:0.1").loras] == [0.1]
    assert _recipe("--recipe", str(file), "--lora", "none").loras == ()


def test_the_plan_shows_loras(models: dict[str, Path], style: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", str(models["a"]), str(models["b"]), "--lora", f"{style}:0.8:0.5"]
    assert main(words) == DONE
    printed = capsys.readouterr().out
    assert "style.safetensors:0.8:0.5" in printed
    assert "LoRA style.safetensors: 1 of 1 layers, in 1 tensors." in printed
    assert main([*words, "--json"]) == DONE
    data = json.loads(capsys.readouterr().out)
    assert data["loras"][0]["file"] == "style.safetensors"
    assert {tensor["key"]: tensor["loras"] for tensor in data["tensors"] if "loras" in tensor} == {KEY: [[0, 0.8]]}


def test_mistakes_are_told(
    models: dict[str, Path], style: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, out = str(models["a"]), str(tmp_path / "out.safetensors")
    with pytest.raises(SystemExit, match=str(WRONG_USAGE)):
        main(["merge", a, "-o", out])
    assert "A B [C]; or A alone with --lora, --adjust or --mode self" in capsys.readouterr().err
    assert main(["merge", a, "--lora", str(tmp_path / "none.safetensors"), "-o", out]) == FAILED
    assert "none.safetensors" in capsys.readouterr().err
    assert main(["merge", a, "--lora", f"{style}:much", "-o", out]) == WRONG_USAGE
    assert '"much" is no ratio' in capsys.readouterr().err
    assert main(["merge", a, "--lora", str(style), "-o", str(style), "--overwrite"]) == FAILED
    assert "is LoRA 1 itself; give the result another name" in capsys.readouterr().err
    with pytest.raises(SystemExit, match=str(WRONG_USAGE)):
        main(["merge", a, "--lora", f"{style}:0", "-o", out])
    assert "nothing would change" in capsys.readouterr().err


def test_images_of_one_model_with_a_lora_are_those_of_the_merge(
    models: dict[str, Path], style: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made: list[object] = []
    monkeypatch.setattr(generate, "make_host", lambda *_, **__: None)

    def note(_host: object, _request: object, model: object, **_: object) -> list[object]:
        made.append(model)
        return []

    monkeypatch.setattr(generate, "make_images", note)
    words = ["generate", str(models["a"]), "--prompt", "a cat", "-o", str(tmp_path / "images")]
    assert main([*words, "--lora", f"{style}:0.5"]) == DONE
    assert main(words) == DONE
    baked, plain = made
    assert isinstance(baked, MergeRecipe)
    assert (baked.model_a, baked.model_b, baked.alpha) == (plain, plain, 0.0)
    assert [lora.ratio for lora in baked.loras] == [0.5]
