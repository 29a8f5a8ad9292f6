from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elemental.architectures.blocks import SD1
from elemental.architectures.keys import Component, KeyName, name_key
from elemental.architectures.tensor_sets import TensorSet, members, union
from elemental.errors import RecipeError
from elemental.merge.plan import MergePlan
from elemental.recipe.presets import BUILT_IN_PRESETS, read_presets
from elemental.recipe.recipe import MergeRecipe, ModelSource
from elemental.recipe.rule_cover import cover, whole_layers
from elemental.recipe.rule_matching import RuleMatcher
from elemental.recipe.rules import Ratios, Rule, RuleSet, format_rules
from elemental.recipe.spec_parser import parse_rules
from elemental.workflows import plan_merge

from .test_spec_properties import names

DEMO = Path(__file__).parents[1] / "elemental" / "demo"
OFF: Ratios = (0.0, None)
NUMBERS = (0.0, 0.5, 1.0, -0.3, 1e-10)
Given = dict[Ratios, TensorSet]


def everything(layout: str) -> TensorSet:
    return (1 << len(names(layout))) - 1


def where(layout: str, block: str = "", part: str = "") -> TensorSet:
    matcher = RuleMatcher(names(layout))
    return (matcher.with_block(block) if block else matcher.everything) & matcher.with_part(part)


@pytest.mark.parametrize("layout", ["sd1", "sdxl"])
def test_many_parts_are_found_as_few_are(layout: str) -> None:
    found, draw = names(layout), random.Random(7)
    matcher = RuleMatcher(found)
    for element in (name.element for name in draw.choices(found, k=150)):
        start = draw.randrange(len(element))
        part = element[start : start + draw.randint(1, 30)]
        assert matcher.with_part(part) == RuleMatcher(found).with_part(part), part
    assert not matcher.with_part("no.such.part")


def ratios_of(found: Sequence[KeyName], rules: Sequence[Rule], base: Given) -> list[Ratios | None]:
    """Apply rules one by one to each tensor, without sets."""
    ratios: list[Ratios | None] = []
    for index, name in enumerate(found):
        alpha, beta = next((pair for pair, tensors in base.items() if tensors >> index & 1), (None, None))
        for rule in rules:
            if rule.matches(name):
                alpha, beta = rule.alpha, beta if rule.beta is None else rule.beta
        ratios.append(None if alpha is None else (alpha, beta))
    return ratios


def checked(found: Sequence[KeyName], wanted: Given, base: Given) -> list[str]:
    """Cover, and check all that must be true of the rules; give their texts."""
    rules = cover(found, wanted, base)
    text = format_rules(RuleSet(rules))
    assert parse_rules(text).rules == rules
    result = ratios_of(found, rules, base)
    for ratios, tensors in wanted.items():
        assert {result[index] for index in members(tensors)} <= {ratios}
    wrong = union(tensors & ~base.get(ratios, 0) for ratios, tensors in wanted.items())
    assert len(rules) <= wrong.bit_count()
    return text.split("\n") if text else []


def one_ratio(layout: str, tensors: TensorSet) -> list[str]:
    rest = everything(layout) & ~tensors
    return checked(names(layout), {(1.0, None): tensors, OFF: rest}, {OFF: everything(layout)})


def made_by(spec: str, layout: str) -> tuple[Given, Given]:
    """Give the tensors of each ratio that a spec makes of a merge at 0."""
    wanted: Given = {}
    for index, ratios in enumerate(ratios_of(names(layout), parse_rules(spec).rules, {OFF: everything(layout)})):
        assert ratios is not None
        wanted[ratios] = wanted.get(ratios, 0) | 1 << index
    return wanted, {OFF: everything(layout)}


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("", ""),
        ("::1", "::1"),
        ("NOT BASE::1", "IN00-OUT11::1"),
        ("TE::1", "TE::1"),
        ("VAE::0.25", "VAE::0.25"),
        ("BASE::1", "BASE::1"),
        ("IN04:attn2.to_k:1,IN05:attn2.to_k:1,IN07:attn2.to_k:1", "IN04-IN07:attn2.to_k:1"),
        ("IN07:attn2:1,IN08:attn2:1,M00:attn2:1", "IN07-M00:attn2:1"),
        ("M00:0.in_layers:1", "M00:0.in_layers:1"),
        ("OUT03::1,OUT03:emb_layers:0", "OUT03:NOT emb_layers:1"),
        ("OUT05:NOT attn proj:1", "OUT05:NOT attn proj:1"),
        ("NOT IN05:attn2:1", "NOT IN05:attn2:1"),
        ("BASE::1,TE:mlp:0", "BASE:NOT mlp:1"),
        ("OUT08::1\nOUT03::1", "OUT03 OUT08::1"),
        ("IN04-OUT05:attn:1\nOUT04:attn2:0.5", "IN04-OUT05:attn:1\nOUT04:attn2:0.5"),
    ],
)
def test_the_shortest_spec_is_found(spec: str, text: str) -> None:
    assert "\n".join(checked(names("sd1"), *made_by(spec, "sd1"))) == text


@pytest.mark.parametrize("layout", ["sd1", "sdxl"])
@pytest.mark.parametrize(
    "spec",
    [
        "NOT BASE:norm:1\nM00::0.3",
        ":attn2:1\nIN04:to_k:0\nOUT05:to_v:0\nOUT03:to_q:0",
        "::0.5\nTE::0\nOUT03:emb:0",
        "IN00:time_embed.0:1\nOUT08:out.:0.5",
        "IN01-OUT08::1\nIN04-IN08:attn2.to_k norm1:0.5\nOUT03:ff bias:0\nM00::0.2",
    ],
)
def test_no_more_rules_than_the_spec_that_made_the_set(layout: str, spec: str) -> None:
    assert len(checked(names(layout), *made_by(spec, layout))) <= len(parse_rules(spec).rules)


@pytest.mark.parametrize("preset", ["GRAD_V", "SMOOTHSTEP", "RING08_5", "FLAT_25"])
def test_block_weights_need_a_rule_for_each_number(preset: str) -> None:
    by_block = read_presets(BUILT_IN_PRESETS)[preset][0].by_block(SD1, base=0.0)
    wanted: Given = {}
    for block, ratio in by_block.items():
        wanted[ratio, None] = wanted.get((ratio, None), 0) | where("sd1", block)
    found = checked(names("sd1"), wanted, {OFF: everything("sd1")})
    assert len(found) == len(set(by_block.values()) - {0.0})


def test_elements_that_no_name_tells_from_others_get_their_key() -> None:
    first = 1 << next(i for i, n in enumerate(names("sd1")) if n.key.endswith("input_blocks.0.0.weight"))
    rest = where("sd1", "IN00", "weight") & ~first
    others = everything("sd1") & ~first & ~rest
    found = checked(names("sd1"), {(1.0, None): first, (0.5, None): rest, OFF: others}, {OFF: everything("sd1")})
    assert len(found) == 2


def test_tensors_that_nobody_asks_for_may_be_matched() -> None:
    chosen, around = where("sd1", "OUT05", "attn2.to_k"), where("sd1", "OUT05")
    (rule,) = checked(names("sd1"), {(1.0, None): chosen, OFF: everything("sd1") & ~around}, {OFF: everything("sd1")})
    assert rule == "OUT05::1"


def test_beta_is_written_where_it_changes() -> None:
    chosen = where("sd1", "OUT05", "attn2")
    base: Given = {(0.0, 0.25): where("sd1", "IN00-IN05"), (0.0, 0.5): everything("sd1") & ~where("sd1", "IN00-IN05")}
    for alpha, beta, text in ((1.0, 0.5, "OUT05:attn2:1"), (0.0, 0.75, "OUT05:attn2:0:0.75")):
        wanted: Given = {pair: tensors & ~chosen for pair, tensors in base.items()} | {(alpha, beta): chosen}
        assert checked(names("sd1"), wanted, base) == [text]
    in_all = where("sd1", "", "attn2")
    wanted = {pair: tensors & ~in_all for pair, tensors in base.items()}
    wanted |= {(1.0, beta): tensors & in_all for (_, beta), tensors in base.items()}
    assert checked(names("sd1"), wanted, base) == [":attn2:1"]


def test_keys_of_no_known_form() -> None:
    keys = ["betas", "sqrt_betas", "sqrt_betas.x", "model.diffusion_model.out.0.weight", "NOT", "a b"]
    found = [name_key(key, SD1) for key in keys]
    wanted: Given = {(1.0, None): 0b001001, (0.5, None): 0b000010, OFF: 0b000100}
    rules = cover(found, wanted, {OFF: 0b111111})  # "betas" is in every key that has it
    assert ratios_of(found, rules, {OFF: 0b111111})[:4] == [(1.0, None), (0.5, None), OFF, (1.0, None)]
    with pytest.raises(RecipeError, match='"NOT"'):
        cover(found, {(1.0, None): 0b010000, OFF: 0b101111}, {OFF: 0b111111})


def test_whole_layers() -> None:
    chosen = where("sd1", "OUT05", "to_out.0.bias") | where("sd1", "IN03", "op.weight")
    whole = whole_layers(names("sd1"), chosen)
    assert whole == where("sd1", "OUT05", "to_out.0") | where("sd1", "IN03", "op")
    assert one_ratio("sd1", whole) == ["IN03::1", "OUT05:to_out:1"]


def random_task(layout: str, seed: int, *, count: int, only_unet: bool, beta: bool) -> tuple[Given, Given]:
    """Ask for random ratios of some elements, on top of random ratios of whole blocks; some do not matter."""
    found, generator = names(layout), random.Random(seed)
    candidates = [i for i, name in enumerate(found) if not only_unet or name.component is Component.UNET]
    pairs: list[Ratios] = [
        (alpha, generator.choice([0.0, 0.7]) if beta else None) for alpha in generator.sample(NUMBERS, 3)
    ]
    pair_of_block = {block: generator.choice(pairs[:2]) for block in sorted({name.block for name in found})}
    base, wanted = dict[Ratios, TensorSet](), dict[Ratios, TensorSet]()
    chosen = set(generator.sample(candidates, count))
    for index, name in enumerate(found):
        before = pair_of_block[name.block]
        after = generator.choice(pairs) if index in chosen else before
        base[before] = base.get(before, 0) | 1 << index
        if generator.random() > 0.05:
            wanted[after] = wanted.get(after, 0) | 1 << index
    return wanted, base


@pytest.mark.slow
@pytest.mark.parametrize("beta", [False, True])
@pytest.mark.parametrize("layout", ["sd1", "sdxl"])
@given(st.integers(0, 2**32), st.integers(0, 150), st.booleans())
@settings(deadline=None, max_examples=5)
def test_random_ratios_are_given_exactly(layout: str, beta: bool, seed: int, count: int, only_unet: bool) -> None:
    checked(names(layout), *random_task(layout, seed, count=count, only_unet=only_unet, beta=beta))


@pytest.mark.slow
def test_the_same_rules_each_time() -> None:
    task = random_task("sd1", 0, count=120, only_unet=True, beta=False)
    assert cover(names("sd1"), *task) == cover(names("sd1"), *task)


def demo_plan(spec: str) -> MergePlan:
    a, b = (ModelSource(str(DEMO / f"{name}.safetensors")) for name in "ab")
    return plan_merge(MergeRecipe(a, b, alpha=0.0, rules=parse_rules(spec)))


@pytest.mark.slow
def test_the_plan_of_a_cover_has_the_ratios_and_no_warnings() -> None:
    plan = demo_plan("IN04-OUT05:norm:0.5\nOUT03::1\nOUT03 M00:emb_layers bias:0.25\nTE:layers.3:-0.1")
    found = [tensor.name for tensor in plan.tensors]
    wanted: Given = {}
    for index, tensor in enumerate(plan.tensors):
        wanted[tensor.alpha, None] = wanted.get((tensor.alpha, None), 0) | 1 << index
    covered = demo_plan(format_rules(RuleSet(cover(found, wanted, {OFF: (1 << len(found)) - 1}))))
    assert [tensor.alpha for tensor in covered.tensors] == [tensor.alpha for tensor in plan.tensors]
    assert [warning for warning in covered.warnings if warning.rule is not None] == []
