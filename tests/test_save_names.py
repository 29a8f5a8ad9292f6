"""The name that is suggested for a merge that is to be saved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from elemental import MergeMode, MergeRecipe, parse_rules
from elemental.recipe.block_weights import parse_block_weights
from elemental.recipe.recipe import ModelSource
from elemental.session.form import safe_file_name
from elemental.session.save_names import suggest_name


def recipe(rules: str = "", *, a: str = "a", b: str = "b", alpha: float = 0.5, **more: object) -> MergeRecipe:
    model_a, model_b = (ModelSource(f"{name}.safetensors", f"{name}.safetensors") for name in (a, b))
    plain = MergeRecipe(model_a, model_b, alpha=alpha, rules=parse_rules(rules))
    return replace(plain, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("merge", "name"),
    [
        (recipe(), "a-b-0.5"),
        (recipe(alpha=0), "a-b-0"),
        (recipe("OUT05::0.3", alpha=0), "a-b-OUT05-0.3"),
        (recipe("OUT05::-0.3"), "a-b-0.5-OUT05--0.3"),
        (recipe("OUT03 OUT04:attn2:1", alpha=0), "a-b-OUT03-OUT04-attn2-1"),
        (recipe("OUT03::1\nOUT04::0.5", alpha=0), "a-b-2-rules"),
        (recipe("OUT03 OUT04 OUT05:attn2 attn1.to_out ff:1", alpha=0), "a-b-1-rule"),
        (recipe(block_alpha=parse_block_weights(",".join(["0.5"] * 26))), "a-b-mbw"),
        (
            recipe(mode=MergeMode.SUM_TWICE, beta=0.25, model_c=ModelSource("c.ckpt", "c.ckpt")),
            "a-b-c-sum-twice-0.5-0.25",
        ),
        (recipe(a="my model (v2) [final] of a very long name", b=".ünï"), "my-model-v2-final-of-ünï-0.5"),
        (recipe(a="???", b="dreamshaper_8.fp16"), "model-dreamshaper_8.fp16-0.5"),
    ],
)
def test_a_name_is_short_and_valid(merge: MergeRecipe, name: str, tmp_path: Path) -> None:
    found = suggest_name(merge, tmp_path)
    assert found == name
    assert safe_file_name(found, tmp_path).name == f"{name}.safetensors"


def test_a_preset_is_part_of_the_name(tmp_path: Path) -> None:
    weights = recipe(block_alpha=parse_block_weights(",".join(["0.5"] * 26)))
    assert suggest_name(weights, tmp_path, blocks="GRAD_V") == "a-b-GRAD_V"
    assert suggest_name(weights, tmp_path, blocks="0.5,0.5") == "a-b-mbw"


def test_no_file_has_the_name(tmp_path: Path) -> None:
    for expected in ("a-b-0.5", "a-b-0.5-2", "a-b-0.5-3"):
        name = suggest_name(recipe(), tmp_path)
        assert name == expected
        (tmp_path / f"{name}.safetensors").touch()
