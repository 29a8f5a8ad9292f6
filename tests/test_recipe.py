from __future__ import annotations

import json
import pickle
import re
from dataclasses import replace
from typing import Any

import pytest

from elemental.errors import RecipeError, SpecError
from elemental.modes.catalogue import MergeMode
from elemental.recipe.block_weights import BlockWeights
from elemental.recipe.recipe import MergeRecipe, ModelSource, SaveDtype, VaeChoice, recipe_from_dict
from elemental.recipe.rules import Rule, RuleSet
from elemental.recipe.spec_parser import parse_rules

A, B, C = (ModelSource(f"/models/{name}.safetensors", "f" * 64, 5) for name in "abc")
PLAIN = MergeRecipe(A, B)
FULL = MergeRecipe(
    A,
    B,
    C,
    mode=MergeMode.SUM_TWICE,
    alpha=0.25,
    beta=-0.5,
    block_alpha=BlockWeights((0.1,) * 25),
    block_beta=BlockWeights((0.1,) * 25, 1.0),
    rules=parse_rules("OUT05:attn2:0.5:0.1\nNOT IN00::1"),
    vae=VaeChoice.FILE,
    vae_file=ModelSource("~/vae.pt"),
    dtype=SaveDtype.BF16,
    force=True,
    drop_ema=True,
)


@pytest.mark.parametrize("recipe", [PLAIN, FULL, replace(PLAIN, vae=VaeChoice.B)])
def test_recipes_survive_json(recipe: MergeRecipe) -> None:
    assert recipe_from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_what_has_its_default_is_left_out() -> None:
    assert not {"force", "drop_ema", "vae", "dtype"} & PLAIN.to_dict().keys()
    assert {"force", "drop_ema"} <= FULL.to_dict().keys()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mode": MergeMode.ADD_DIFFERENCE}, "needs a third model C"),
        ({"model_c": C}, "has no model C"),
        ({"beta": 0.5}, "has no beta; tensor-sum, triple-sum, sum-twice, similarity"),
        ({"block_beta": BlockWeights((0.1,) * 25, 1.0)}, "has no beta"),
        ({"model_c": C, "mode": MergeMode.TRIPLE_SUM}, "needs beta"),
        ({"model_c": C, "mode": MergeMode.TRIPLE_SUM, "block_beta": BlockWeights((0.1,) * 25)}, "needs beta"),
        ({"alpha": float("nan")}, "finite"),
        ({"vae": VaeChoice.FILE}, "VAE file"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        replace(PLAIN, **changes)
    assert words in str(caught.value)


def test_beta_in_a_rule_names_the_modes_that_have_it() -> None:
    with pytest.raises(SpecError) as caught:
        replace(PLAIN, rules=parse_rules("IN00:attn:1\nOUT05:attn2:0.5:0.1"))
    assert str(caught.value).splitlines() == [
        "spec, line 2, column 1: weight-sum has no beta: a rule has two colons",
        "    OUT05:attn2:0.5:0.1",
        "    ^^^^^^^^^^^^^^^^^^^",
        "Modes with beta: tensor-sum, triple-sum, sum-twice, similarity-add-difference, multiply-difference, extract.",
    ]


def test_messages_name_the_file_that_the_rules_are_from() -> None:
    with pytest.raises(SpecError, match=r"^my\.txt, line 1"):
        replace(PLAIN, rules=parse_rules("OUT05:attn2:0.5:0.1", name="my.txt"))
    nan = parse_rules("OUT05:attn2:0.5").rules[0]._replace(alpha=float("nan"))
    with pytest.raises(RecipeError, match="finite"):
        replace(PLAIN, rules=RuleSet((nan,)))


def test_rules_made_by_hand_have_places_too() -> None:
    rule = parse_rules("OUT05:attn2:0.5:0.1").rules[0]
    with pytest.raises(SpecError, match="line 2, column 1"):
        replace(PLAIN, rules=RuleSet((Rule(rule.blocks, rule.elements, 1), rule)))


@pytest.mark.parametrize(
    "damage",
    [
        {"version": 99},
        {"mode": "magic"},
        {"alpha": "x"},
        {"models": {"a": {"path": "x"}}},
        {"models": {"a": {"path": 5}, "b": {"path": "x"}}},
        {"models": [1]},
        {"rules": 7},
        {"dtype": "fp12"},
        {"force": 1},
        {"drop_ema": "yes"},
        {"alpha": 10**400},
        {"elemental": "OUT05::1"},
        {"models": {"a": {"path": "x"}, "b": {"path": "y"}, "d": {"path": "z"}}},
        {"models": {"a": {"path": "x", "sha": "0"}, "b": {"path": "y"}}},
    ],
)
def test_damaged_recipes_are_refused(damage: dict[str, Any]) -> None:
    with pytest.raises(RecipeError):
        recipe_from_dict({**PLAIN.to_dict(), **damage})


@pytest.mark.parametrize("mode", [mode for mode in MergeMode if mode.record.weighted_sum])
def test_coefficients_are_those_of_the_formula(mode: MergeMode) -> None:
    a, b, c, alpha, beta = 3.0, 5.0, 7.0, 0.25, 0.5
    names = {"A": a, "B": b, "C": c, "a": alpha, "b": beta}
    product = re.sub(r"(?<=[ab)]) (?=[ABC(])", " * ", mode.formula)
    written = eval(product, {}, names)
    coefficients = mode.coefficients(alpha, beta)
    assert coefficients
    assert sum(x * y for x, y in zip(coefficients, (a, b, c), strict=True)) == pytest.approx(written)


def test_a_source_has_its_name_whichever_system_wrote_it() -> None:
    assert ModelSource("C:\\models\\a.ckpt").name == ModelSource("/models/a.ckpt").name == "a.ckpt"


def test_each_mode_is_known_by_its_name() -> None:
    assert {mode.value for mode in MergeMode} >= {"weight-sum", "add-difference", "triple-sum", "sum-twice"}
    assert all(MergeMode(mode.record.name) is mode for mode in MergeMode)
    assert all(MergeMode(mode.value) is mode and mode.formula for mode in MergeMode)
    of_0_1_0 = [MergeMode.WEIGHT_SUM, MergeMode.ADD_DIFFERENCE, MergeMode.TRIPLE_SUM, MergeMode.SUM_TWICE]
    assert [mode.uses_c for mode in of_0_1_0] == [False, True, True, True]
    assert [mode.uses_beta for mode in of_0_1_0] == [False, False, True, True]
    assert pickle.loads(pickle.dumps(MergeMode.SUM_TWICE)) is MergeMode.SUM_TWICE
    assert [mode.coefficients(0.25, 0.5) for mode in of_0_1_0] == [
        (0.75, 0.25, 0.0),
        (1.0, 0.25, -0.25),
        (0.25, 0.25, 0.5),
        (0.375, 0.125, 0.5),
    ]
