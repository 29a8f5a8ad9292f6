"""Rules for the ratio of a LoRA: whose ratio they set, what they refuse, and what a merge adds then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from elemental import MergeMode, MergeRecipe, SpecError, parse_rules
from elemental.recipe.ratio_targets import lora_target, read_target
from elemental.recipe.recipe import LoraSource, ModelSource, recipe_from_dict
from elemental.recipe.rules import BlockSelector, ElementSelector, Rule, RuleSet
from elemental.recipe.spec_parser import parse_targets
from elemental.recipe.target_checks import renamed_targets, targets_of


def added(*paths: str) -> tuple[LoraSource, ...]:
    return tuple(LoraSource(ModelSource(path)) for path in paths)


TWO = added("/loras/detail.safetensors", "Old style, v1.5.pt")


def recipe(spec: str, loras: Sequence[LoraSource] = TWO) -> MergeRecipe:
    return MergeRecipe(ModelSource("a"), ModelSource("b"), rules=parse_rules(spec), loras=tuple(loras))


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("detail.safetensors", "lora.detail"),
        ("C:\\loras\\Old style, v1.5.pt", "lora.old_style__v1.5"),
        ("/l/a:b#c\u00a0d.bin", "lora.a_b_c_d"),
        ("/l/\uff21\uff1a\u0301e.ckpt", "lora.a_\u0301e"),
        ("/l/STRASSE e\u0301", "lora.strasse_\u00e9"),
    ],
)
def test_the_name_of_a_file_as_a_target(path: str, target: str) -> None:
    assert list(targets_of(recipe("", added(path)))) == [target]
    assert read_target(target) == read_target(target.upper()) == target
    assert recipe(f"{target} OUT03:attn2:0.5", added(path)).rules.rules[0].target == target


@pytest.mark.parametrize("word", ["", "lora", "lora.", "Lora:x", "flora.x", "OUT03", "NOT"])
def test_other_words_are_no_targets(word: str) -> None:
    assert read_target(word) == ""


def test_such_a_rule_is_data() -> None:
    rule = Rule(BlockSelector(("OUT04",), inverted=True), ElementSelector(("attn",)), 0.5, target=lora_target("Detail"))
    assert str(rule) == "lora.detail NOT OUT04:attn:0.5"
    assert parse_rules("Lora.DETAIL not out04:attn:.5").rules == (rule,)
    assert rule != rule._replace(target="")


@pytest.mark.parametrize(
    ("spec", "column", "length", "words"),
    [
        ("OUT03::1, lora.detial OUT03::1", 11, 11, 'no LoRA "detial"; did you mean "detail"?'),
        ("lora.other::1", 1, 10, 'no LoRA "other"\n'),
        ("lora.other::1", 1, 10, "The merge has lora.detail, lora.old_style__v1.5."),
    ],
)
def test_a_lora_that_the_merge_has_not(spec: str, column: int, length: int, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        recipe(spec)
    (problem,) = caught.value.problems
    assert problem.span == (1, column, length)
    assert words in str(caught.value)
    assert f"{' ' * (3 + column)}{'^' * length}" in str(caught.value)


def test_a_merge_without_loras() -> None:
    with pytest.raises(SpecError, match="no LoRAs: add one, or remove the rule"):
        recipe("lora.detail::1", ())


def test_two_loras_of_one_name() -> None:
    loras = added("/new/detail.safetensors", "/old/Detail.pt", "style.pt")
    assert recipe("lora.style::1", loras).rules
    with pytest.raises(SpecError, match=r"any of /new/detail.safetensors, /old/Detail.pt\n(.*\n)*Rename one"):
        recipe("lora.detail::1", loras)


def test_all_mistakes_of_targets_at_once() -> None:
    two = RuleSet(tuple(rule._replace(beta=0.1) for rule in parse_rules("lora.detail::1\nlora.none::1").rules))
    with pytest.raises(SpecError) as caught:
        replace(recipe(""), rules=two)
    assert [problem.span.line for problem in caught.value.problems] == [1, 2, 2]
    assert 'line 1, column 1: "lora.detail" has no beta' in str(caught.value)


def test_the_limits_of_a_mode_are_those_of_its_own_ratios() -> None:
    limited = next(mode for mode in MergeMode if mode.record.limits and not mode.uses_c and not mode.uses_beta)
    assert replace(recipe("lora.detail::-7"), mode=limited).rules.rules[0].alpha == -7


def test_a_recipe_as_data_keeps_them_in_their_order() -> None:
    made = recipe("OUT03::1, lora.Old_style__v1.5 TE:attn:0.5, OUT03:attn:0.2, lora.detail::0")
    data = made.to_dict()
    assert data["rules"].split("\n")[1:] == ["lora.old_style__v1.5 TE:attn:0.5", "OUT03:attn:0.2", "lora.detail::0"]
    assert recipe_from_dict(data) == made


def test_files_that_were_renamed() -> None:
    before, after = added("a.pt", "b.pt", "c.pt"), added("b.pt", "a.pt", "c.pt")
    rules = parse_rules("lora.a::1, lora.b::2, lora.c::3, ::4")
    assert [rule.target for rule in renamed_targets(rules, before, after).rules] == ["lora.b", "lora.a", "lora.c", ""]
    assert renamed_targets(rules, before, before) is rules


def test_an_element_check_sets_alpha() -> None:
    with pytest.raises(SpecError, match=r'"lora\.detail" has no place here'):
        parse_targets("lora.detail OUT03:attn2")
